"""From a raw interaction log to batches of sequences: sources, preparation, sequences, data module."""
