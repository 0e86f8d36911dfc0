"""Softmax attention: projections, causal softmax over heads, dropout of the weights in training only."""

import pytest
import torch
from torch import Tensor

from seqgen.attention import SequenceMask
from seqgen.attention.softmax import SoftmaxAttention

LENGTHS = torch.tensor([4, 2])


def make_layer(*, dropout: float = 0.0, out_proj: bool = False) -> SoftmaxAttention:
    torch.manual_seed(0)
    settings = {"num_heads": 2, "dropout": dropout, "out_proj": out_proj}
    layer = SoftmaxAttention(hidden_dim=4, max_len=9, **settings).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def plain(layer: SoftmaxAttention, query: Tensor, context: Tensor) -> Tensor:
    """Attention of one query row (D,) over context (n, D)."""
    q = layer.query.weight @ query + layer.query.bias
    k = context @ layer.key.weight.T + layer.key.bias
    v = context @ layer.value.weight.T + layer.value.bias
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        exp = (k[:, part] @ q[part] / 2**0.5).exp()
        heads.append((exp[:, None] * v[:, part]).sum(dim=0) / exp.sum())
    return layer.out(torch.cat(heads))


@pytest.mark.parametrize("out_proj", [False, True])
def test_every_row_and_the_newest_row(out_proj: bool) -> None:
    layer = make_layer(out_proj=out_proj)
    assert isinstance(layer.out, torch.nn.Linear) == out_proj
    query, context = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    every, aux = layer(query, context, SequenceMask(LENGTHS, 4))
    mask = SequenceMask(LENGTHS, 4, last=True)
    newest, _ = layer(mask.newest(query), context, mask)
    assert aux == {}
    assert newest.shape == (2, 1, 4)
    for b, length in enumerate(LENGTHS.tolist()):
        rows = torch.stack([plain(layer, query[b, i], context[b, : i + 1]) for i in range(length)])
        torch.testing.assert_close(every[b, :length], rows)
        torch.testing.assert_close(newest[b, 0], rows[-1])


def test_dropout_hits_the_weights_in_training_only() -> None:
    layer = make_layer(dropout=0.5)
    layer.value.bias.data.fill_(1.0)
    layer.value.weight.data.zero_()  # all values are 1, so an output is the sum of the row's weights
    x = torch.randn(1, 1, 4, dtype=torch.float64).expand(500, 1, 4)
    mask = SequenceMask(torch.ones(500, dtype=torch.long), 1)
    torch.testing.assert_close(layer.eval()(x, x, mask)[0], torch.ones_like(x))
    dropped, _ = layer.train()(x, x, mask)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (dropped == 0).double().mean() < 0.6
