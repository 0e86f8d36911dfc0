"""Linear attention against the kernel formula, and against its running sums."""

import pytest
import torch
from attention_cases import HEADS, NUM_COLUMNS, WIDTH, drawn_input, make_layer, real_rows

from seqgen.attention import SequenceMask


def phi(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x + 1, x.exp())


@pytest.mark.parametrize("last", [False, True])
def test_weights_are_normalised_products_of_positive_features(last: bool) -> None:
    layer = make_layer("linear")
    query, context, mask = drawn_input(last=last)
    hidden, aux = layer(query, context, mask)
    assert aux == {}
    for b, row, position, _ in real_rows(mask):
        q, k, v = layer.query(query[b, row]), layer.key(context[b]), layer.value(context[b])
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            weights = [phi(q[part]) @ phi(k[column, part]) for column in range(position + 1)]
            mixed = sum(w * v[column, part] for column, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(hidden[b, row, part], mixed)


def test_it_is_the_recurrence_of_the_paper() -> None:
    """S_i = S_{i-1} + phi(k_i) v_i^T,  z_i = z_{i-1} + phi(k_i)  (equations 18 to 20)."""
    layer = make_layer("linear")
    query, context, mask = drawn_input(last=False)
    hidden, _ = layer(query, context, mask)
    q, k, v = (
        f(x[0]).unflatten(-1, (HEADS, -1))
        for f, x in zip((layer.query, layer.key, layer.value), (query, context, context), strict=True)
    )
    state = torch.zeros(HEADS, WIDTH // HEADS, WIDTH // HEADS, dtype=torch.float64)
    total = torch.zeros(HEADS, WIDTH // HEADS, dtype=torch.float64)
    for i in range(NUM_COLUMNS):
        state = state + phi(k[i])[:, :, None] * v[i][:, None]
        total = total + phi(k[i])
        mixed = torch.einsum("hd,hde->he", phi(q[i]), state) / (phi(q[i]) * total).sum(-1, keepdim=True)
        torch.testing.assert_close(hidden[0, i], mixed.flatten())


def test_features_that_round_to_0_divide_by_no_0() -> None:
    layer = make_layer("linear").float()
    for linear in (layer.query, layer.key):
        torch.nn.init.constant_(linear.bias, -60.0)
    x, mask = torch.randn(2, 5, WIDTH), SequenceMask(torch.tensor([5, 3]), 5)
    hidden, _ = layer(x, x, mask)
    assert not hidden.any()
    hidden.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_dropout_hits_the_weights_in_training_only() -> None:
    layer = make_layer("linear", dropout=0.5)
    torch.nn.init.zeros_(layer.value.weight)
    torch.nn.init.ones_(layer.value.bias)
    x, mask = torch.zeros(400, 1, WIDTH, dtype=torch.float64), SequenceMask(torch.ones(400, dtype=torch.long), 1)
    assert set(layer(x, x, mask)[0].unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(layer.eval()(x, x, mask)[0], torch.ones_like(x))
