"""A run whose loss, weights or scores are no longer finite is stopped, in words."""

from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from seqgen.data.sequences import SequenceBatch
from seqgen.errors import UserError

EVERY = 50  # steps between two looks at what other devices and processes have found
ADVICE = "try a smaller optimizer.lr, trainer.gradient_clip_val=1, or other weights and temperatures of the objective."
NEVER = torch.iinfo(torch.int64).max


class StopAtNonFinite(L.Callback):
    """Stops a run at the first step whose objective is NaN or infinite, and names the part of it that was.

    One process on the CPU looks after each step. A GPU keeps the first such step of each part in a tensor, and several
    processes each their own; they are looked at every 50 steps, before a validation and at the end of an epoch, so that
    no step waits, and all processes stop together.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.first: Tensor | None = None  # the first step of the epoch at which each part was not finite
        self.lists: Tensor | None = None  # how many lists of an evaluation hold any item

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps of the epoch anew."""
        self.first = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: SequenceBatch, batch_idx: int
    ) -> None:
        """Note the parts that are not finite.

        Raises:
            UserError: One is not, here or at a step before.
        """
        # A model of somebody else's may give more, or, for a step that it leaves out, nothing.
        scalars = {k: v for k, v in (outputs or {}).items() if isinstance(v, Tensor) and v.numel() == 1}
        if not scalars:
            return
        self.names = list(scalars)
        values = torch.stack([value.detach().float().reshape(()) for value in scalars.values()])
        if self.first is None:
            self.first = torch.full(values.shape, NEVER, dtype=torch.int64, device=values.device)
        self.first = torch.where(values.isfinite(), self.first, self.first.clamp(max=batch_idx))
        alone = trainer.world_size == 1 and values.device.type == "cpu"
        if alone or (batch_idx + 1) % EVERY == 0:
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate nothing that is not finite.

        Raises:
            UserError: The objective or a weight is not.
        """
        self.lists = None
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_train_epoch_end(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the lists of the test anew."""
        self.lists = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: SequenceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the lists that hold any item: of scores that are all NaN none does."""
        if isinstance(outputs, dict) and "top" in outputs:
            filled = (outputs["top"] > 0).any(dim=-1).sum()
            self.lists = filled if self.lists is None else self.lists + filled

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse an evaluation that recommended nothing to anybody.

        Raises:
            UserError: It did.
        """
        if self.lists is None:
            return
        if trainer.world_size > 1:
            torch.distributed.all_reduce(self.lists)
        if not int(self.lists):
            raise UserError(f"The scores of all items are NaN or infinite for every case; {ADVICE}")

    on_test_end = on_validation_end

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the steps since the last look, and at what the last of them made of the weights.

        Raises:
            UserError: The objective or a weight is not finite.
        """
        self._look(trainer)
        weights = dict(pl_module.named_parameters())
        finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).int()
        if trainer.world_size > 1:  # a weight may be divided among the processes, which stop together
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if broken := [name for name, fine in zip(weights, finite.tolist(), strict=True) if not fine]:  # one wait
            raise UserError(f"The weights {broken[0]} are not finite after epoch {trainer.current_epoch}; {ADVICE}")

    def _look(self, trainer: L.Trainer) -> None:
        if self.first is None:
            return
        if trainer.world_size > 1:
            torch.distributed.all_reduce(self.first, op=torch.distributed.ReduceOp.MIN)
        steps = self.first.tolist()
        step = min(steps)
        if step < NEVER:
            parts = [name for name, at in zip(self.names, steps, strict=True) if at == step]
            parts = [name for name in parts if name != "loss"] or ["loss"]
            where = f"at step {step + 1} of epoch {trainer.current_epoch}"
            also = f" (its part {', '.join(parts)})" if parts != ["loss"] else ""
            raise UserError(f"The training loss{also} is NaN or infinite {where}; {ADVICE}")
