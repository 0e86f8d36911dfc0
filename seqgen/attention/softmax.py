"""Causal softmax self-attention, as in SASRec (Kang and McAuley, 2018, arXiv 1808.09781)."""

from seqgen.attention import DotProductAttention


class SoftmaxAttention(DotProductAttention):
    """Query-key softmax attention (SASRec, equation 2); `out_proj=false` as there."""
