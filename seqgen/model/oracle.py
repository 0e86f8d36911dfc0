"""Oracle: ranks by the true next-item probabilities of generated data. No model does better on average."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqgen.data.catalog import Catalog
from seqgen.data.sequences import SequenceBatch
from seqgen.errors import UserError
from seqgen.model.base import SequentialRecommender


class Oracle(SequentialRecommender):
    """Scores by the probability that the data was drawn with.

    Raises:
        UserError: The data was not generated, so nobody knows its probabilities.
    """

    trainable = False
    transition: Tensor
    taste: Tensor
    popularity: Tensor

    def __init__(self, *, catalog: Catalog, metrics_k: Sequence[int]) -> None:
        super().__init__(catalog=catalog, metrics_k=metrics_k)
        if catalog.truth is None:
            raise UserError(
                "model=oracle needs generated data, whose true probabilities are known: use data=synthetic."
            )
        # Original ids are rows and columns of the truth; column 0 is padding.
        items, users = torch.tensor(catalog.item_ids), torch.tensor(catalog.user_ids)
        truth = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in catalog.truth().items()}
        column = torch.zeros(1, dtype=torch.float64)
        transition = truth["transition"][items][:, items]
        self.register_buffer("transition", torch.nn.functional.pad(transition, (1, 0, 1, 0)))
        self.register_buffer("taste", torch.nn.functional.pad(truth["taste"][users][:, items], (1, 0)))
        self.register_buffer("popularity", torch.cat([column, truth["popularity"][items]]))

    def scores(self, batch: SequenceBatch) -> Tensor:
        """Unnormalised probability of every item, (B, I + 1)."""
        return self.transition[batch.newest()] + self.taste[batch.users] + self.popularity
