"""An item embedding whose rows are divided among processes, so that a catalogue can be larger than one device holds.

    P processes, R rows of the table, C = ceil(R / P), D width, n distinct ids that a process asks for

Process p keeps rows p C to (p + 1) C - 1, as torch's `Shard(0)` has it, with their gradient and the state of their
optimiser. Losses and rankings are given the table as a `DTensor`, of which nothing is ever gathered: torch's own
`F.embedding` of one would make a gradient as large as the whole table in each process. Instead ids go to the processes
that keep them, and their rows come back; in the backward pass gradients go the way that the ids went. Each process
scores the states of all against its own rows (`seqgen.numerics.weighted_logsumexp`, `seqgen.ranking`).

The parameter is the local part, a plain tensor: optimisers take no list of both kinds. A process's objective is P times
its share of the whole batch's (`seqgen.collectives`). DDP averages the gradients of what all processes have; here the
gradient is the sum over the processes, divided by P.

A state dict, of the model and of the optimiser, has whole tables, as without sharding: a checkpoint knows nothing of
processes. They are gathered on the host of the first process, row after row; the others, which have to take part, get
empty ones on `meta`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed, nn, optim
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from seqgen import collectives
from seqgen.errors import UserError

DRAWN = 2**12  # rows drawn at once: a multiple of 16, in which torch draws normal numbers
# What treats each number apart, so that parts of a table are updated as the whole would be.
ELEMENTWISE = (
    *(optim.Adadelta, optim.Adagrad, optim.Adam, optim.Adamax, optim.AdamW, optim.ASGD),
    *(optim.NAdam, optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD),
)


class ShardedEmbedding(nn.Module):
    """Takes the place of `nn.Embedding(rows, width, padding_idx=0)`, with the same starting values under the same seed.

    Its rows are drawn by `place`, once the processes are known; with one process it is what it takes the place of. With
    several, ids are looked up within `exchange`, since each exchange needs all processes, and groups of a batch are not
    equally many in each.

    Attributes:
        weight: The rows of this process, (rows of it, D); before `place` all of them, without values.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        self.rank, self.processes = 0, 1
        self.weight = nn.Parameter(torch.empty(rows, width, device="meta"))
        self.std, self.seeded = 1.0, torch.empty(0)
        self._mesh: DeviceMesh | None = None
        self._exchanged: tuple[Tensor, Tensor] | None = None
        _skip(rows, width, self.weight.dtype)  # what nn.Embedding draws first

    def draw_later(self, std: float) -> None:
        """Leave out of torch's random numbers what the items (row 1 and on) will be drawn from, N(0, std)."""
        self.std, self.seeded = std, torch.get_rng_state()
        _skip(self.rows - 1, self.width, self.weight.dtype)

    def place(self, device: torch.device) -> None:
        """Draw the rows of this process, block by block: the whole table is never held. A second call does nothing.

        Raises:
            UserError: A process would have no item.
        """
        if not self.weight.is_meta:
            return
        if distributed.is_initialized():
            self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()
        if self.processes > 1:
            each = -(-self.rows // self.processes)
            if each < 2 or each * (self.processes - 1) >= self.rows:
                raise UserError(
                    f"model.shard_items=true leaves one of {self.processes} processes without any of the "
                    f"{self.rows - 1} items; set model.shard_items=false."
                )
            self._mesh = init_device_mesh(device.type, (self.processes,))
        own = self.own
        local = torch.zeros(own.stop - own.start, self.width, dtype=self.weight.dtype, device=device)
        generator = torch.Generator()
        generator.set_state(self.seeded)
        start = 1  # row 0 is padding
        for block in _normal(self.rows - 1, self.width, self.weight.dtype, self.std, generator):
            first, last = max(start, own.start), min(start + len(block), own.stop)
            if first < last:
                local[first - own.start : last - own.start] = block[first - start : last - start]
            start += len(block)
        self.weight = nn.Parameter(local, requires_grad=self.weight.requires_grad)

    @property
    def own(self) -> slice:
        """Which rows of the table this process keeps."""
        return collectives.part(self.rows, self.processes, self.rank)

    @property
    def table(self) -> Tensor:
        """All rows, (R, D): of several processes as a `DTensor`, whose local part is `weight`."""
        if self._mesh is None:
            return self.weight
        shape = torch.Size([self.rows, self.width])
        how: Any = {"run_check": False, "shape": shape, "stride": (self.width, 1)}
        return DTensor.from_local(self.weight, self._mesh, [Shard(0)], **how)

    @contextlib.contextmanager
    def exchange(self, ids: Tensor) -> Iterator[None]:
        """Within, these ids can be looked up; all processes enter together.

        Args:
            ids: With repetitions, (m,); on the host, or a device is waited for.
        """
        if self._mesh is None:
            yield
            return
        table = self.table
        assert isinstance(table, DTensor)
        self._exchanged = collectives.exchanged(table, torch.cat([ids.new_zeros(1), ids]))
        try:
            yield
        finally:
            self._exchanged = None

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) -> rows (..., D); the gradient of row 0 is zero."""
        if self._mesh is None:
            return F.embedding(ids, self.weight, padding_idx=0)
        assert self._exchanged is not None, "ids are looked up within `exchange`"
        known, rows = self._exchanged
        return F.embedding(torch.searchsorted(known, ids), rows, padding_idx=0)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # Who asks for the variables asks for no copy: they are told the form of the whole, and nothing is gathered.
        destination[f"{prefix}weight"] = self.table if keep_vars else self.whole(self.weight.detach())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *given: Any) -> None:
        name = f"{prefix}weight"
        if name in state_dict:
            state_dict[name] = self.part(state_dict[name])
        super()._load_from_state_dict(state_dict, prefix, *given)

    def whole(self, part: Tensor) -> Tensor:
        """Of something that each process has for its rows, (rows of it, D), all (R, D) on the first process's host.

        All processes take part. The others get a tensor of that form without values, on `meta`; one process alone gets
        its own back.
        """
        if self._mesh is None:
            return part
        if self.rank:
            distributed.send(part.cpu().contiguous(), 0, group=collectives.hosts())
            return torch.empty(self.rows, self.width, dtype=part.dtype, device="meta")
        whole = torch.empty(self.rows, self.width, dtype=part.dtype)
        whole[self.own] = part.cpu()
        for rank in range(1, self.processes):
            rows = collectives.part(self.rows, self.processes, rank)
            distributed.recv(whole[rows], rank, group=collectives.hosts())
        return whole

    def part(self, whole: Tensor) -> Tensor:
        """The rows of this process out of all, (R, D); a copy, so that the whole can be forgotten."""
        return whole if self._mesh is None else whole[self.own].clone()


def share_states(optimizer: optim.Optimizer, embedding: ShardedEmbedding) -> None:
    """Have the state dicts of an optimiser hold whole tables for the rows that this process trains.

    Raises:
        UserError: It does not update each number apart.
    """
    if embedding.processes == 1:
        return
    if type(optimizer) not in ELEMENTWISE:
        raise UserError(
            f"optimizer={type(optimizer).__name__} does not update each number apart, as divided rows need; choose "
            "optimizer=adam, or set model.shard_items=false."
        )
    weight = embedding.weight

    def changing(change: Callable[[Tensor], Tensor], form: torch.Size) -> Callable[..., dict[str, Any]]:
        def changed(_: optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            own = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            number = next(number for p, number in zip(own, numbers, strict=False) if p is weight)
            known = state["state"].get(number, {})
            kept = {name: change(x) if getattr(x, "shape", None) == form else x for name, x in known.items()}
            return state | {"state": state["state"] | ({number: kept} if kept else {})}

        return changed

    whole = torch.Size([embedding.rows, embedding.width])
    optimizer.register_state_dict_post_hook(changing(embedding.whole, weight.shape))
    optimizer.register_load_state_dict_pre_hook(changing(embedding.part, whole))


def clip_by_norm(parameters: Sequence[nn.Parameter], embedding: ShardedEmbedding, largest: float) -> None:
    """Scale the gradients down to a norm, of all parameters and of the rows of all processes together."""
    rest = [p.grad for p in parameters if p.grad is not None and p is not embedding.weight]
    squared = nn.utils.get_total_norm([p.grad for p in [embedding.weight] if p.grad is not None]) ** 2
    distributed.all_reduce(squared)
    nn.utils.clip_grads_with_norm_(parameters, largest, (nn.utils.get_total_norm(rest) ** 2 + squared).sqrt())


def divide(model: LightningModule, trainer: Trainer, embedding: ShardedEmbedding, name: str) -> None:
    """Give each process its rows of a model's embedding, and have DDP leave them alone.

    Args:
        model: That DDP will wrap.
        trainer: Of the model, whose processes have been started.
        embedding: The model's.
        name: Of the embedding within the model.

    Raises:
        UserError: The rows cannot be divided in the way that the model is trained.
    """
    strategy = trainer.strategy
    if trainer.world_size > 1:
        if type(strategy) is not DDPStrategy:
            raise UserError(
                "model.shard_items=true needs trainer.strategy=ddp, among whose processes the items are divided."
            )
        if strategy._ddp_comm_hook is not None or strategy._model_averaging_period is not None:
            raise UserError("model.shard_items=true needs a trainer.strategy without hooks of its own; choose ddp.")
        if trainer.precision == "16-mixed":
            raise UserError(
                "model.shard_items=true does not go with trainer.precision=16-mixed, which scales the loss in each "
                "process for itself; choose bf16-mixed."
            )
    embedding.place(strategy.root_device)
    if embedding.processes > 1:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [f"{name}.weight"])


def _normal(
    rows: int, width: int, dtype: torch.dtype, std: float, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """The rows of `torch.empty(rows, width).normal_(std=std)`, some at a time."""
    count = max(rows // DRAWN, 1)  # the last block takes the rest: fewer than 16 numbers are drawn in another way
    for number in range(count):
        block = torch.empty(DRAWN if number < count - 1 else rows - DRAWN * number, width, dtype=dtype)
        yield block.normal_(std=std, generator=generator)


def _skip(rows: int, width: int, dtype: torch.dtype) -> None:
    for _ in _normal(rows, width, dtype, 1.0, None):
        pass
