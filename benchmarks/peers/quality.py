"""The one function that scores the lists of all projects: HR@10 and NDCG@10, whatever a project's own metrics say."""

import numpy as np


def list_quality(users: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """HR and NDCG of lists with one target each, as long as the lists are.

    Args:
        users: Whose lists they are, numbers from 0, (U,); each once. A user without a list is a miss.
        items: The lists, best first, (U, K).
        targets: The held-out item of every user, in order.

    Raises:
        ValueError: A user has two lists, or a list has an item twice.
    """
    if len(np.unique(users)) < len(users):
        raise ValueError("a user has several lists")
    if (np.diff(np.sort(items, axis=1), axis=1) == 0).any():
        raise ValueError("a list has an item twice")
    row, place = (items == targets[users][:, None]).nonzero()
    gains = 1 / np.log2(place + 2)
    k = items.shape[1]
    return {f"hr@{k}": len(row) / len(targets), f"ndcg@{k}": float(gains.sum()) / len(targets)}
