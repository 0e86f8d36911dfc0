"""The sweeper of `python -m seqgen.compare`."""

from hydra_plugins.seqgen_compare.sweeper import CompareSweeper

__all__ = ["CompareSweeper"]
