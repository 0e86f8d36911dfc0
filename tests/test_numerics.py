"""Chunked sums and contrasts against the plain formulas."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from seqgen import numerics


def test_divergence_from_the_standard_normal_of_each_element() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    normal = Normal(mean, torch.exp(log_variance / 2))
    torch.testing.assert_close(
        numerics.kl_to_standard_normal(mean, log_variance), kl_divergence(normal, Normal(0.0, 1.0))
    )


def logsumexp_case(num_rows: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((num_rows, 3), (5, 3), (num_rows,))
    hidden, table, weights = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    return hidden.requires_grad_(), table.requires_grad_(), weights


def dense_logsumexp(hidden: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    return sum(w * torch.log(torch.exp(table @ h).sum()) for h, w in zip(hidden, weights, strict=True))


# Table of 5: chunks of one row, of three rows with a rest, of all.
@pytest.mark.parametrize("budget", [1, 15, 10_000])
def test_weighted_logsumexp_and_its_gradients(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "LEAST_ROWS", 1)
    monkeypatch.setattr(numerics, "CHUNK_CPU", budget)
    hidden, table, weights = logsumexp_case()
    value, expected = (f(hidden, table, weights) for f in (numerics.weighted_logsumexp, dense_logsumexp))
    torch.testing.assert_close(value, expected)
    found = torch.autograd.grad(2.0 * value, (hidden, table))
    for gradient, wanted in zip(found, torch.autograd.grad(2.0 * expected, (hidden, table)), strict=True):
        torch.testing.assert_close(gradient, wanted)
    assert torch.autograd.gradcheck(numerics.weighted_logsumexp, (hidden, table, weights))


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_weighted_logsumexp_of_large_logits_is_finite(scale: float) -> None:
    hidden = torch.tensor([[scale, 0.0], [scale, scale], [0.0, 0.0]], requires_grad=True)
    table = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.5], [0.0, 0.0]], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 4.0])
    value = numerics.weighted_logsumexp(hidden, table, weights)
    exact = weights.double() @ torch.logsumexp(hidden.double() @ table.double().T, dim=1)
    torch.testing.assert_close(value, exact.float())
    torch.testing.assert_close(*(torch.autograd.grad(v, (hidden, table)) for v in (value, exact)))


def test_weighted_logsumexp_of_no_row() -> None:
    hidden, table, weights = logsumexp_case(0)
    value = numerics.weighted_logsumexp(hidden, table, weights)
    value.backward()
    assert value.item() == 0
    assert table.grad is not None
    assert not table.grad.any()


def plain_info_nce(first, second, temperature):
    losses = []
    for x, y in zip(first, second, strict=True):
        z = torch.nn.functional.normalize(torch.cat([x, y]), dim=1)
        n, similar = len(x), z @ z.T / temperature
        rows = [similar[i][torch.arange(2 * n) != i].logsumexp(0) - similar[i, (i + n) % (2 * n)] for i in range(2 * n)]
        losses.append(torch.stack(rows).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_info_nce_and_its_gradients_against_the_plain_formula(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("seqgen.numerics.CHUNK_CPU", chunk)
    torch.manual_seed(0)
    first, second = (torch.randn(3, 70, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64)
    found, wanted = numerics.info_nce(first, second, 0.1), plain_info_nce(first, second, 0.1)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad((weights * found).sum(), (first, second)),
        torch.autograd.grad((weights * wanted).sum(), (first, second)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_fourier_info_nce_comes_close_to_the_exact_one() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 300, 32), torch.randn(2, 300, 32)
    exact = numerics.info_nce(first, second, 0.5)
    estimates = torch.stack([numerics.fourier_info_nce(first, second, 0.5, 1024) for _ in range(20)])
    torch.testing.assert_close(estimates.mean(0), exact, rtol=0.01, atol=0.0)
    spread = [
        torch.stack([numerics.fourier_info_nce(first, second, 0.5, features) for _ in range(20)]).std()
        for features in (64, 4096)
    ]
    assert spread[0] > 3 * spread[1]


def test_the_gradient_of_rows_does_not_depend_on_which_thread_comes_first() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(300, 64, generator=generator).requires_grad_()
    ids = torch.randint(300, (40_000,), generator=generator)
    factor = torch.randn(40_000, 64, generator=generator)

    def gradient(take: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        (found,) = torch.autograd.grad((take(table, ids) * factor).sum(), table)
        return found

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = [gradient(numerics.rows_of) for _ in range(20)]
        assert all(other.equal(first) for other in others)
        torch.testing.assert_close(first, gradient(Tensor.__getitem__), rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def products() -> Iterator[Any]:
    """Where torch keeps how it makes products, as outside a run."""
    own = getattr(torch.backends.mkldnn, "matmul", None)
    if own is None:
        pytest.skip("this torch leaves no choice of the products")
    before, own.fp32_precision = own.fp32_precision, "ieee"
    yield own
    own.fp32_precision = before


def test_fast_products_are_taken_only_where_they_are_exact(products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with numerics.fast_products():
        a, b = torch.randn(2, 300, 300).unbind()
        exact = a.double() @ b.double()
        assert (a @ b - exact).norm() < 1e-6 * exact.norm()
    assert products.fp32_precision == "ieee"
    for exact, taken in ((False, "ieee"), (True, "bf16")):
        monkeypatch.setattr(numerics, "_products_are_exact", lambda exact=exact: exact)
        with numerics.fast_products():
            assert products.fp32_precision == taken
    assert products.fp32_precision == "ieee"


def sampled_case(rows: int = 7, columns: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((rows, 3), (rows,), (columns, 3), (columns,), (rows,))
    hidden, positive, table, shift, weights = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    hits = torch.arange(rows) % 4, torch.tensor([2, 9, 2, 0, 9, 9])[:columns]
    return hidden.requires_grad_(), positive.requires_grad_(), table.requires_grad_(), shift, *hits, weights


def sampled_loss(hidden: Tensor, positive: Tensor, table: Tensor, *constants: Tensor) -> Tensor:
    shift, rows, columns, weights = constants
    return numerics.sampled_cross_entropy(hidden, positive, table, shift, (rows, columns), weights)


def dense_sampled_loss(hidden: Tensor, positive: Tensor, table: Tensor, *constants: Tensor) -> Tensor:
    shift, rows, columns, weights = constants
    total = torch.zeros((), dtype=torch.float64)
    for h, own, row, weight in zip(hidden, positive, rows, weights, strict=True):
        kept = columns != row
        others = torch.exp(table @ h + shift)[kept].sum()
        total = total + weight * (torch.log(own.exp() + others) - own)
    return total


# Chunks of one row, of two rows with a rest, of all; then rows and columns that fill up whole sizes.
@pytest.mark.parametrize(("budget", "least", "widths"), [(1, 1, 1), (10, 2, 1), (10_000, 1, 1), (2**20, 64, 128)])
def test_sampled_cross_entropy_and_its_gradients(
    budget: int, least: int, widths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CHUNK_CPU": budget, "LEAST_ROWS": least, "WIDTHS": widths}.items():
        monkeypatch.setattr(numerics, name, value)
    case = sampled_case()
    found, wanted = (f(*case) for f in (sampled_loss, dense_sampled_loss))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(2.0 * value, case[:3]) for value in (found, wanted)))
    assert torch.autograd.gradcheck(sampled_loss, case)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (7, 0), (0, 0)])
def test_sampled_cross_entropy_of_no_row_and_of_no_column(rows: int, columns: int) -> None:
    case = sampled_case(rows, columns)
    value = sampled_loss(*case)
    assert value.item() == 0.0
    assert not any(gradient.any() for gradient in torch.autograd.grad(value, case[:3]))


@pytest.mark.parametrize("budget", [1, 25, 10_000])
def test_picked_products_and_their_gradients(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "CHUNK_CPU", budget)
    hidden, table, _ = logsumexp_case()
    ids = torch.randint(0, 4, (7, 6), generator=torch.Generator().manual_seed(0))  # row 4 is never picked
    found, wanted = numerics.picked_products(hidden, table, ids), torch.einsum("nkd,nd->nk", table[ids], hidden)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x.sin().sum(), (hidden, table)) for x in (found, wanted)))
    assert torch.autograd.gradcheck(numerics.picked_products, (hidden, table, ids))
