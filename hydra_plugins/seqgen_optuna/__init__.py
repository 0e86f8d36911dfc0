"""`hydra/sweeper=optuna`: the settings of a model found by a study, in place of a grid."""

from hydra_plugins.seqgen_optuna.sweeper import OptunaSweeper

__all__ = ["OptunaSweeper"]
