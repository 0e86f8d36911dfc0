"""`hydra/sweeper=grid`, the sweeper of seqgen: every combination, each job left what its model can use, none twice."""

from hydra_plugins.seqgen_grid.sweeper import GridSweeper

__all__ = ["GridSweeper"]
