"""seqgen: train, compare and use generative and attention-based sequential recommenders."""

__version__ = "0.1.0"
