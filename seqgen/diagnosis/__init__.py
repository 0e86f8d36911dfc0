"""The parts of `python -m seqgen.diagnose`: one file for each subject, each with numbers and pictures.

A part measures a trained run and returns plain numbers; it draws them as matplotlib figures; and it names those that
are logged. What they share stands here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as L
from omegaconf import DictConfig, OmegaConf

from seqgen.checkpoint import restore

if TYPE_CHECKING:
    from seqgen.data.datamodule import SequenceDataModule
    from seqgen.model.base import SequentialRecommender


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, to be looked at under settings of inference other than its own.

    Attributes:
        config: As composed for the run.
        data: The run's data.
        checkpoint: From `read_checkpoint`.
        trust: Packages whose classes the configuration may name, as of `config.build`; None where it is the user's own.
    """

    config: DictConfig
    data: "SequenceDataModule"
    checkpoint: dict[str, Any]
    trust: tuple[str, ...] | None = ()

    def model(self, **inference: Any) -> "SequentialRecommender":
        """The trained model in evaluation mode; the arguments replace keys of `model.inference`."""
        if inference.get("samples") == 0 and "noise" in self.config.model.inference:
            inference["noise"] = False
        changed = OmegaConf.merge(self.config, {"model": {"inference": inference}}) if inference else self.config
        assert isinstance(changed, DictConfig)
        return restore(changed, self.checkpoint, catalog=self.data.catalog, trust=self.trust)

    def validate(self, **inference: Any) -> dict[str, float]:
        """Validation metrics under these settings of inference."""
        model = self.model(**inference)
        trainer = L.Trainer(
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            devices=1,
            precision=self.config.trainer.precision,
        )
        trainer.validate(model, self.data, verbose=False)
        return model.evaluation("val")
