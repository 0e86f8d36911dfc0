"""Linear attention: a kernel feature map in place of the softmax (Katharopoulos et al., ICML 2020, arXiv 2006.16236).

    weight_ij = phi(q_i) . phi(k_j) / sum_{j' <= i} phi(q_i) . phi(k_j'),   phi(x) = elu(x) + 1      (equations 5, 7, 8)

The sums are taken over the masked map, not as running sums: at windows of a few hundred items the map costs less, and
it can be looked at and dropped out.
"""

import torch.nn.functional as F
from torch import Tensor

from seqgen.attention import QueryKeyAttention, SequenceMask, split_heads
from seqgen.numerics import full_precision

LEAST_SUM = 1e-6  # features far below 0 round to 0: a row of them attends to nothing, instead of 0 / 0


class LinearAttention(QueryKeyAttention):
    """Query-key attention whose weights are normalised products of positive features."""

    def weights(self, query: Tensor, context: Tensor, mask: SequenceMask) -> Tensor:
        """The map, (b, H, r, l)."""
        projected = self.query(query), self.key(context)
        query, key = (F.elu(full_precision(split_heads(x, self.num_heads))) + 1 for x in projected)
        products = (query @ key.transpose(-1, -2)) * mask.allowed
        return products / products.sum(-1, keepdim=True).clamp(min=LEAST_SUM)
