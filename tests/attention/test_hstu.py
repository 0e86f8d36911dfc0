"""HSTU attention against the formula of its docstring, cell by cell."""

import pytest
import torch
import torch.nn.functional as F
from attention_cases import HEADS, MAX_LEN, WIDTH, drawn_input, make_layer, real_rows
from conftest import mechanism
from torch import Tensor

from seqgen.attention import SequenceMask
from seqgen.attention.hstu import HSTUAttention


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def plain(layer: HSTUAttention, query: Tensor, context: Tensor) -> Tensor:
    """Query of the row (D,), the context it may read, itself included, (n, D) -> (D,)."""
    q, k, v = silu(layer.query(query)), silu(layer.key(context)), silu(layer.value(context))
    mixed = torch.zeros(WIDTH, dtype=torch.float64)
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        for column in range(len(context)):
            distance = len(context) - 1 - column
            weight = silu(q[part] @ k[column, part] + layer.bias[head, MAX_LEN - 1 - distance]) / MAX_LEN
            mixed[part] += weight * v[column, part]
    normed = F.layer_norm(mixed, (WIDTH,), layer.norm.weight, layer.norm.bias, layer.norm.eps)
    return layer.out(normed * silu(layer.gate(query)))


@pytest.mark.parametrize("last", [False, True])
def test_pointwise_attention_with_a_bias_of_distance_and_a_gate(last: bool) -> None:
    layer = make_layer("hstu")
    query, context, mask = drawn_input(last=last)
    with torch.no_grad():
        hidden, aux = layer(query, context, mask)
        assert aux == {}
        for b, row, position, _ in real_rows(mask):
            torch.testing.assert_close(hidden[b, row], plain(layer, query[b, row], context[b, : position + 1]))


def test_a_stronger_preference_weighs_more_in_sum() -> None:
    layer = make_layer("hstu").eval()
    query, context, mask = drawn_input(last=True)
    twice = context.clone()
    with torch.no_grad():
        layer.key.bias.fill_(2.0)
        layer.key.weight.fill_(0.0)
        layer.query.weight.fill_(0.0)
        layer.query.bias.fill_(2.0)
        layer.bias.fill_(0.0)
        sums = layer.weights(query, twice, mask).sum(-1)[:, 0, 0]
    torch.testing.assert_close(sums / sums[3], mask.lengths.double())  # a softmax would give 1 each


def test_the_bias_starts_at_0_and_every_distance_in_use_is_learned() -> None:
    layer = mechanism("hstu", num_heads=2)(hidden_dim=WIDTH, max_len=MAX_LEN)
    assert not layer.bias.any()
    x = torch.randn(2, 5, WIDTH)
    layer(x, x, SequenceMask(torch.tensor([5, 5]), 5))[0].square().sum().backward()
    used = layer.bias.grad.abs().sum(0) > 0
    assert used.tolist() == [False, False, True, True, True, True, True]  # the farthest first


def test_dropout_hits_the_weights_in_training_only() -> None:
    layer = make_layer("hstu", dropout=0.5)
    query, context, mask = drawn_input(last=False)
    first, second = (layer(query, context, mask)[0] for _ in range(2))
    assert not torch.isclose(first, second).all()
    layer.eval()
    assert torch.equal(layer(query, context, mask)[0], layer(query, context, mask)[0])
