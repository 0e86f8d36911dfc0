"""Multi-query self-attention (MQSA) of MQSA-TED (Zhu et al., WSDM 2024, arXiv 2311.01056).

Two encoders read the same embedded sequence: one with the usual query (the current item), one whose query is the mean
of the last L items, which is less at the mercy of a single item. Their outputs are blended by alpha.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seqgen.attention import Branches, DotProductAttention, SequenceMask
from seqgen.errors import SettingError, check_sizes


def branches(*, window: int, alpha: float, num_heads: int, dropout: float, out_proj: bool) -> Branches:
    """The short-query branch (window 1) with weight alpha, the long-query branch with its complement.

    Args:
        window: L, number of newest items whose mean is the long query.
        alpha: Weight of the short-query branch; 1 leaves only it, 0 only the long one.
        num_heads: Heads; must divide the model's width.
        dropout: Of the attention weights.
        out_proj: Project the mixture.

    Raises:
        SettingError: A setting is out of its range.
    """
    check_sizes(window=window)
    if not 0.0 <= alpha <= 1.0:
        raise SettingError(f"alpha={alpha} must lie in [0, 1].")
    layer = partial(LQueryAttention, num_heads=num_heads, dropout=dropout, out_proj=out_proj)
    return [(alpha, partial(layer, window=1)), (1.0 - alpha, partial(layer, window=window))]


class LQueryAttention(DotProductAttention):
    """Softmax attention whose query is made from the mean of the last L rows of the block's input."""

    def __init__(self, *, window: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.window = window

    def source(self, x: Tensor, mask: SequenceMask) -> Tensor:
        """Mean over the rows t, t-1, ..., t-L+1 that exist: (b, l, D) -> (b, l, D)."""
        if self.window == 1:
            return x
        total = x
        for shift in range(1, min(self.window, mask.num_columns)):
            total = total + F.pad(x[:, :-shift], (0, 0, shift, 0))
        count = (mask.columns + 1).clamp(max=self.window)
        return total / count[:, None]
