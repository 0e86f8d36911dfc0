"""What a model may know of the data when it is built: the items, the users and the training sequences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqgen.data.ragged import Sequences
from seqgen.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The items and users of a prepared data set.

    Attributes:
        fingerprint: Hash of the raw files and the preparation; two catalogues with one fingerprint are the same.
        num_items: Items are numbered 1..num_items; 0 is padding.
        num_users: Users are numbered 0..num_users - 1.
        item_counts: Interactions of each item in the training part, (num_items + 1,); entry 0 is 0.
        item_ids: Original ids; item i is `item_ids[i - 1]`.
        user_ids: Original ids; user u is `user_ids[u]`.
        titles: Titles in the order of `item_ids`, where known.
        categories: Categories of each item in the order of `item_ids`, where known.
        train: Makes the training part of every user; None where a model is loaded from a checkpoint alone.
        truth: For generated data, makes what its true next-item probabilities are made of; not in a checkpoint.
    """

    fingerprint: str
    num_items: int
    num_users: int
    item_counts: Tensor
    item_ids: list[Any]
    user_ids: list[Any]
    titles: list[str] | None = None
    categories: list[list[str]] | None = None
    train: Callable[[], Sequences] | None = field(default=None, repr=False)
    truth: Callable[[], dict[str, Any]] | None = field(default=None, repr=False)

    def training_part(self) -> Sequences:
        """The training part of every user, for a model that cannot be built without it.

        Raises:
            UserError: A model is loaded from a checkpoint alone.
        """
        if self.train is None:
            raise UserError(
                "This model needs the training sequences when it is built, which a checkpoint does not hold; use it "
                "with its data: python -m seqgen.run train=false ckpt_path=."
            )
        return self.train()

    def name(self, item: int) -> str:
        """The title of an item, 1..num_items, or its original id where it has none."""
        title = self.titles[item - 1] if self.titles is not None else None
        return title or str(self.item_ids[item - 1])

    def by_popularity(self) -> Tensor:
        """All ids by falling number of training interactions, equal ones by rising id, (num_items + 1,); 0 is last."""
        counts = self.item_counts.clone()
        counts[0] = -1
        return counts.argsort(descending=True, stable=True)

    def category_ids(self) -> tuple[Tensor, Tensor] | None:
        """Categories by number; None where no item has any.

        Returns:
            Ids 0..C - 1 of each item's distinct categories, one item after another, (E,), and where they begin,
            (num_items + 2,): item i has `values[offsets[i]:offsets[i + 1]]`, and item 0, padding, none; both int64.
        """
        own = [dict.fromkeys(names) for names in self.categories or ()]
        number: dict[str, int] = {}
        values = [number.setdefault(name, len(number)) for names in own for name in names]
        return (torch.tensor(values), torch.tensor([0, 0, *map(len, own)]).cumsum(0)) if values else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain containers and tensors, so that `torch.load(weights_only=True)` reads it."""
        kept = (
            "fingerprint",
            "num_items",
            "num_users",
            "item_counts",
            "item_ids",
            "user_ids",
            "titles",
            "categories",
        )
        return {name: getattr(self, name) for name in kept}
