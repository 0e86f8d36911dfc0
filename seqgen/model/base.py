"""What every model shares: the loop over groups, the objective, full ranking, the optimiser, checks of a checkpoint.

B rows of a batch, N targets, b rows and l columns of a group, D width, I items
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import pytorch_lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from seqgen import noise
from seqgen.attention import Aux, Auxiliary, added
from seqgen.data.catalog import Catalog
from seqgen.data.sequences import Group, SequenceBatch
from seqgen.errors import UserError, argument
from seqgen.losses import CountedLoss
from seqgen.metrics import RankingMetrics, target_ranks, top_items
from seqgen.numerics import fast_products, full_precision
from seqgen.ranking import rank_in_blocks
from seqgen.settings import flatten
from seqgen.sharding import ShardedEmbedding

Loss = Callable[[Tensor, Tensor, Tensor, SequenceBatch], Tensor]
MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]
RANKED = 2**25  # scores that are ranked at once


class SequentialRecommender(L.LightningModule):
    """Base class of all models.

    A model whose score is a dot product of a user state and an item vector gives `encode` and `item_vectors`; any other
    overrides `scores`. A model that is not fitted by gradient sets `trainable = False`.

    Attributes:
        config: The run's composed configuration, which checkpoints keep; `seqgen.config.build_model` sets it.

    Args:
        catalog: The items and users; what else a model needs to know of the data.
        metrics_k: List lengths K of the metrics.
        loss: The objective over flat hidden states; None where a model has its own, or none.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the learning-rate schedule, stepped once an epoch.
    """

    trainable = True

    def __init__(
        self,
        *,
        catalog: Catalog,
        metrics_k: Sequence[int],
        loss: Loss | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None:
        super().__init__()
        self.num_items, self.catalog_state = catalog.num_items, catalog.state()
        self.loss_function, self.make_optimizer, self.make_scheduler = loss, optimizer, scheduler
        if isinstance(loss, CountedLoss):
            loss.prepare(catalog.item_counts)
        categories = catalog.category_ids()
        self.val_metrics = RankingMetrics(catalog.item_counts, k=metrics_k, categories=categories)
        self.test_metrics = RankingMetrics(catalog.item_counts, k=metrics_k, categories=categories)
        self.max_k = max(metrics_k)
        self.config: dict[str, Any] = {}

    # What a model gives.

    def encode(self, items: Tensor, lengths: Tensor, *, last_only: bool = False) -> tuple[Tensor, Aux]:
        """Items (b, l), lengths (b,) -> hidden states (b, l, D), or (b, D) of the newest position; auxiliary losses."""
        raise TypeError(f"{type(self).__name__} has no hidden states.")

    @property
    def item_vectors(self) -> Tensor:
        """What a user state is multiplied with, (I + 1, D); row 0 is padding."""
        raise TypeError(f"The score of {type(self).__name__} is no dot product, so it has no item vectors.")

    @property
    def divided(self) -> ShardedEmbedding | None:
        """The item embedding, where several processes keep its rows."""
        return None

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The parts of the objective and their weighted sum, `total`."""
        return self.weighted(self.recommendation(batch))

    def scores(self, batch: SequenceBatch) -> Tensor:
        """Score of every item for every row, (B, I + 1); column 0 is padding and not looked at."""
        return _products(self.user_state(batch), self.item_vectors)

    # What the base does with it.

    def recommendation(self, batch: SequenceBatch) -> Aux:
        """The next-item loss at every real position, and the layers' auxiliary losses."""
        assert self.loss_function is not None

        def of_group(number: int, group: Group, start: int) -> tuple[Tensor, Aux]:
            states, aux = self.encode(group.items, group.lengths)
            return states.flatten(0, 1)[group.flat_index], aux

        states, parts = of_groups(batch, of_group)
        with argument("loss"):
            value = self.loss_function(torch.cat(states), self.item_vectors, batch.targets, batch)
        return {"recommendation": Auxiliary(value, 1.0), **parts}

    def weighted(self, parts: Aux) -> dict[str, Tensor]:
        """Raw values of the parts, and `total`, the sum of weight x value; warm-ups are over outside a fit."""
        step = self.global_step if self._trainer is not None else math.inf
        total = torch.stack(
            [weight * (min(1.0, step / warmup) if warmup else 1.0) * value for value, weight, warmup in parts.values()]
        ).sum()
        return {"total": total, **{name: part.value for name, part in parts.items()}}

    def user_state(self, batch: SequenceBatch) -> Tensor:
        """Hidden state at the newest position of each row, (B, D)."""
        vectors = self.item_vectors
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        state = torch.zeros(len(batch), vectors.shape[1], dtype=dtype, device=vectors.device)
        for group in batch.groups:
            hidden, _ = self.encode(group.items, group.lengths, last_only=True)
            state[group.rows] = hidden.to(state.dtype)
        return state

    def ranking_scores(self, batch: SequenceBatch) -> Tensor:
        """Scores with padding and seen items at -inf, (B, I + 1): what is ranked."""
        return _masked(self.scores(batch), batch)

    def _ranked(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Rank of each target (B,) and recommended items (B, max K), holding no more scores than `RANKED` at once."""
        rows = max(1, RANKED // (self.num_items + 1))
        own = {type(self).scores, type(self).ranking_scores}
        in_blocks = own == {SequentialRecommender.scores, SequentialRecommender.ranking_scores}
        if in_blocks and (self.divided is not None or len(batch) > rows):
            seen = batch.seen_rows, batch.seen_items
            return rank_in_blocks(self.user_state(batch), self.item_vectors, batch.targets, seen, self.max_k)
        ranked = []
        for start in range(0, max(len(batch), 1), rows):
            piece = batch if len(batch) <= rows else batch.rows(start, min(start + rows, len(batch)))
            scores = self.ranking_scores(piece)
            ranked.append((target_ranks(scores, piece.targets), top_items(scores, self.max_k)))
        ranks, top = (torch.cat(parts) for parts in zip(*ranked, strict=True))
        return ranks, top

    def trained_on(self, batch: SequenceBatch) -> SequenceBatch:
        """A training batch as the objective takes it."""
        return batch

    def compile_network(self) -> None:
        """Compile the parts of the network in place, which keeps the names in a checkpoint.

        Raises:
            UserError: The model has no network.
        """
        tables = (torch.nn.Embedding, torch.nn.ParameterList, torch.nn.ParameterDict)  # nothing to compile
        parts = [
            part for part in self.children() if any(True for _ in part.parameters()) and not isinstance(part, tables)
        ]
        if not parts:
            raise UserError(f"compile=true has no effect: {type(self).__name__} has no network; set compile=false.")
        for part in parts:
            part.compile(dynamic=True)

    # Lightning's hooks.

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the objective: its `loss`, and the values of its parts."""
        parts = self.loss(self.trained_on(batch))
        total = parts.pop("total")
        # Without a batch size of its own each batch weighs the same in the epoch's mean.
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        self.log("train/loss", total.detach(), **how, prog_bar=True)
        if len(parts) > 1:
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, **how)
        return {**{name: value.detach() for name, value in parts.items()}, "loss": total}

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """Rank the targets of a batch: `case` (B,), `rank` (B,) and `top`, the recommended items (B, max K)."""
        return self._rank(batch, self.val_metrics)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """Rank the targets of a batch, as in validation."""
        return self._rank(batch, self.test_metrics)

    def _rank(self, batch: SequenceBatch, metrics: RankingMetrics) -> dict[str, Tensor]:
        ranks, top = self._ranked(batch)
        metrics.update(ranks, top)
        return {"case": batch.cases, "rank": ranks, "top": top.int()}

    def on_validation_epoch_start(self) -> None:
        """Forget the cases of an earlier validation."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Forget the cases of an earlier test."""
        self.test_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all cases."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all cases."""
        self._log_metrics("test")

    def evaluation(self, split: Literal["val", "test"]) -> dict[str, float]:
        """Metrics of the newest validation or test, `val/ndcg@10`, in float64 and equal in all processes."""
        metrics = {"val": self.val_metrics, "test": self.test_metrics}[split]
        return {f"{split}/{name}": float(value) for name, value in metrics.compute().items()}

    def _log_metrics(self, split: Literal["val", "test"]) -> None:
        # Rounded for the loggers alone: not every device has 64 bits.
        self.log_dict({name: torch.tensor(value).float() for name, value in self.evaluation(split).items()})

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule where there is one."""
        assert self.make_optimizer is not None
        try:
            optimizer = self.make_optimizer(self.parameters())
            if not any(group["lr"] for group in optimizer.param_groups):
                raise UserError("optimizer.lr=0 trains nothing; raise it, or set train=false.")
            if isinstance(optimizer, torch.optim.SparseAdam):
                raise UserError("optimizer=SparseAdam takes sparse gradients only, which no model here has; use adam.")
            if self.make_scheduler is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}
        except (
            ValueError,
            TypeError,
            ArithmeticError,
            LookupError,
        ) as error:  # torch's own words for a value out of range
            raise UserError(f"optimizer or scheduler: {error}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the catalogue and the configuration, so that a checkpoint can be used without the run's folder."""
        checkpoint["seqgen"] = {"model": _name(self), "catalog": self.catalog_state, "config": self.config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, another catalogue or other sizes.

        Raises:
            UserError: Says what differs.
        """
        kept = checkpoint.get("seqgen")
        if kept is None:
            raise UserError("ckpt_path names a checkpoint that seqgen did not write.")
        if kept["model"] != _name(self):
            raise UserError(
                f"ckpt_path holds a {kept['model']}, but this run builds a {_name(self)}; choose that model."
            )
        theirs, ours = kept["catalog"]["fingerprint"], self.catalog_state["fingerprint"]
        if theirs != ours:
            raise UserError(
                f"ckpt_path was trained on a catalogue of {kept['catalog']['num_items']} items (fingerprint {theirs}), "
                f"but this run's data has {self.num_items} (fingerprint {ours}); choose the same data and settings."
            )
        own = {name: value.shape for name, value in self.state_dict(keep_vars=True).items()}  # which gathers nothing
        if own != {name: value.shape for name, value in checkpoint["state_dict"].items()}:
            raise UserError(
                "ckpt_path holds a network of another shape"
                + _differences(kept["config"], self.config)
                + "; build the same network."
            )


R = TypeVar("R")


def of_groups(batch: SequenceBatch, of_group: Callable[[int, Group, int], tuple[R, Aux]]) -> tuple[list[R], Aux]:
    """What is made of each group of a training batch, and the layers' auxiliary losses.

    Args:
        batch: The batch.
        of_group: Takes the number of a group, the group, and the number of its first target within the batch.

    Returns:
        What it made, group by group; the means of the auxiliary losses over the targets of the whole batch.
    """
    made: list[R] = []
    parts: Aux = {}
    start = 0
    for number, group in enumerate(batch.groups):
        with noise.rows(batch.rows_of_group(number)):
            one, aux = of_group(number, group, start)
        made.append(one)
        start += len(group.flat_index)
        parts = added(parts, aux, len(group.flat_index) / batch.normalizer)
    return made, parts


def _products(state: Tensor, vectors: Tensor) -> Tensor:
    # 16 bits would round neighbours to ties.
    with torch.autocast(state.device.type, enabled=False), fast_products():
        return full_precision(state) @ full_precision(vectors).T


def _masked(scores: Tensor, batch: SequenceBatch) -> Tensor:
    scores[:, 0] = float("-inf")
    scores[batch.seen_rows, batch.seen_items] = float("-inf")
    return scores


def _name(model: SequentialRecommender) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    differing = []
    for group in ("diffusion", "attention", "model"):
        a, b = (flatten(config.get(group), group) for config in (theirs, ours))
        differing += [f"{key}={a.get(key)}" for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    repeated = ("model.attention.", "model.diffusion.")  # resolved copies of the groups
    own = [text for text in differing if not text.startswith(repeated)]
    return f", trained with {', '.join(own)}" if own else ""
