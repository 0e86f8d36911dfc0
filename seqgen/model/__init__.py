"""One file per model family; `base` holds what all share."""
