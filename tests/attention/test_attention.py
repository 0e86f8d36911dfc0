"""What all mechanisms share: the mask, the head arithmetic, the refusals."""

import pytest
import torch
from torch import Tensor

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
