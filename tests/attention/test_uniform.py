"""Uniform attention is the mean of the values up to the row."""

import pytest
import torch
from attention_cases import WIDTH, drawn_input, make_layer, real_rows

from seqgen.attention import SequenceMask
from seqgen.errors import SettingError


@pytest.mark.parametrize("last", [False, True])
def test_every_item_up_to_the_row_weighs_the_same(last: bool) -> None:
    layer = make_layer("uniform")
    query, context, mask = drawn_input(last=last)
    hidden, aux = layer(query, context, mask)
    assert aux == {}
    for b, row, position, _ in real_rows(mask):
        mean = sum(layer.value(context[b, column]) for column in range(position + 1)) / (position + 1)
        torch.testing.assert_close(hidden[b, row], layer.out(mean))
    assert {name.partition(".")[0] for name in layer.state_dict()} == {"value", "out"}


def test_dropout_hits_each_head_by_itself() -> None:
    layer = make_layer("uniform", dropout=0.5)
    torch.nn.init.zeros_(layer.value.weight)
    torch.nn.init.ones_(layer.value.bias)
    layer.out = torch.nn.Identity()
    x = torch.zeros(400, 1, WIDTH, dtype=torch.float64)
    hidden = layer(x, x, SequenceMask(torch.ones(400, dtype=torch.long), 1))[0][:, 0]
    first, second = hidden[:, 0], hidden[:, 2]
    assert set(hidden.unique().tolist()) == {0.0, 2.0}
    assert 0.3 < (first != second).double().mean() < 0.7


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(SettingError, match=r"^num_heads=3 does not divide"):
        make_layer("uniform", num_heads=3)
