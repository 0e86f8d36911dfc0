"""What all mechanisms share: the mask, the head arithmetic, the refusals, the map they show."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_cases import HEADS, drawn_input, make_layer, real_rows
from hydra.utils import instantiate
from torch import Tensor

from seqgen import config
from seqgen.attention import (
    SequenceMask,
    check_heads,
    check_probability,
    dot_product_attention,
    merge_heads,
    split_heads,
)
from seqgen.errors import UserError

LENGTHS = torch.tensor([5, 1, 3])


def masked_softmax(query: Tensor, key: Tensor, value: Tensor, row: int, num_heads: int) -> Tensor:
    """Row `row` of one sequence by the textbook: (l, D) each -> (D,)."""
    width = query.shape[-1] // num_heads
    mixed = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        weight = torch.stack([(query[row, part] @ key[j, part] / width**0.5).exp() for j in range(row + 1)])
        weight = weight / weight.sum()
        mixed.append(sum(weight[j] * value[j, part] for j in range(row + 1)))
    return torch.cat(mixed)


def test_mask_of_all_rows_and_of_the_newest() -> None:
    every, newest = SequenceMask(LENGTHS, 5), SequenceMask(LENGTHS, 5, last=True)
    assert every.query_valid.tolist() == [[t < n for t in range(5)] for n in (5, 1, 3)]
    assert newest.query_valid.all()
    assert every.allowed[:, 0].tolist() == [[[j <= i for j in range(5)] for i in range(5)]]
    assert newest.allowed[:, 0].tolist() == [[[j < n for j in range(5)]] for n in (5, 1, 3)]
    x = torch.randn(3, 5, 2)
    assert torch.equal(newest.query_rows(x), torch.stack([x[0, 4:5], x[1, 0:1], x[2, 2:3]]))
    assert every.query_rows(x) is x


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_dot_product_attention_is_the_textbook_formula(num_heads: int) -> None:
    query, key, value = torch.randn(3, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    settings = {"num_heads": num_heads, "dropout": 0.0}
    every = dot_product_attention(query, key, value, SequenceMask(LENGTHS, 5), **settings)
    mask = SequenceMask(LENGTHS, 5, last=True)
    newest = dot_product_attention(mask.newest(query), key, value, mask, **settings)
    for b, length in enumerate(LENGTHS.tolist()):
        for row in range(length):
            plain = masked_softmax(query[b], key[b], value[b], row, num_heads)
            torch.testing.assert_close(every[b, row], plain)
        torch.testing.assert_close(newest[b, 0], plain)


def test_heads_are_neighbouring_slices_of_the_width() -> None:
    x = torch.randn(2, 3, 6)
    assert torch.equal(split_heads(x, 2)[:, 1], x[..., 3:])
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    check_heads(4, 12)
    with pytest.raises(UserError) as refused:
        check_heads(5, 12)
    assert str(refused.value) == (
        "attention.num_heads=5 does not divide model.hidden_dim=12; use one of 1, 2, 3, 4, 6, 12."
    )
    for num_heads in (0, -2, 24):
        with pytest.raises(UserError, match=f"num_heads={num_heads} "):
            check_heads(num_heads, 12)


def test_probabilities_lie_in_0_to_1() -> None:
    check_probability("x", 0.0)
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"^model\.dropout="):
            check_probability("model.dropout", value)


MECHANISMS = sorted({path.stem for path in Path(config.CONFIG_DIR, "attention").glob("*.yaml")} - {"none"})


def configured(name: str, **settings: Any) -> Any:
    """The layer of the last branch that `attention=name` builds."""
    node = config.compose(["model=sasrec", f"attention={name}"], output_dir=Path("unused")).attention
    node.dropout = 0.3
    return make_layer(lambda **more: [(1.0, instantiate(node, **more, **settings)[-1][1])]).eval()


def assert_the_map_that_is_shown_mixes(name: str, layer: Any, last: bool) -> None:
    query, context, mask = drawn_input(last=last)
    if hasattr(layer, "source"):
        query = mask.query_rows(layer.source(context, mask))
    hidden, _ = layer(query, context, mask, 1.0)
    shown = layer.weights(query, context, mask)
    assert shown.shape == (len(query), HEADS, query.shape[1], context.shape[1])
    assert not shown[~mask.allowed.expand_as(shown)].any()  # nothing newer than the row
    pointwise = name == "hstu"
    value = F.silu(layer.value(context)) if pointwise else layer.value(context)
    for b, row, position, _ in real_rows(mask):
        weights = shown[b, :, row, : position + 1]
        if not pointwise:
            assert (weights > 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(HEADS, dtype=torch.float64))
        mixed = torch.cat([weights[h] @ value[b, : position + 1, 2 * h : 2 * h + 2] for h in range(HEADS)])
        if pointwise:
            mixed = layer.norm(mixed) * F.silu(layer.gate(query[b, row]))
        torch.testing.assert_close(hidden[b, row], layer.out(mixed) if hasattr(layer, "out") else mixed)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", MECHANISMS)
def test_the_map_that_is_shown_is_the_one_that_mixes(name: str, last: bool) -> None:
    layer = configured(name)
    assert_the_map_that_is_shown_mixes(name, layer, last)
    if getattr(layer, "noise_shape", None) is not None:
        layer.sample(1, 1.0, torch.Generator())
        assert_the_map_that_is_shown_mixes(name, layer.double(), last)
