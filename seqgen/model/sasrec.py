"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

Item plus position embedding, blocks of causal attention and feed-forward network, and the dot product of the newest
hidden state with the (tied) item embedding as score. With `attention=` any mechanism stands in for self-attention.

Departures: the default objective is softmax cross-entropy over all items, which is stronger and needs no negatives
(`loss=bce` is the paper's); positions count from the newest item, so that padding changes nothing.
"""

from seqgen.model.encoded import EncodedRecommender


class SASRec(EncodedRecommender):
    """Causal attention over the items of a user, next item at every position; `norm=query` is the paper's code."""

    shardable = True
