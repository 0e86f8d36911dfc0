"""Dropout against what it must be: the share that is dropped, independent of its neighbours, the mean, the gradient."""

import math

import pytest
import torch

from seqgen.attention import attend
from seqgen.dropout import LEVELS, Dropout, drop


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.9])
def test_elements_are_dropped_independently_with_their_probability(p: float) -> None:
    torch.manual_seed(1)
    count = 2**20
    dropped = (drop(torch.ones(count), p, True) == 0).double()
    spread = math.sqrt(p * (1 - p))
    assert abs(dropped.mean().item() - p) < 5 * spread / math.sqrt(count)
    for lag in (1, 2, 3, 4, 5, 8, 64):  # four neighbours share the bits of one number
        correlation = ((dropped[lag:] - p) * (dropped[:-lag] - p)).mean().item() / spread**2
        assert abs(correlation) < 5 / math.sqrt(count)


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.99999])
def test_the_mean_stays_exactly(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = torch.arange(LEVELS, dtype=torch.int32).to(torch.int16)  # each number of 16 bits once
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *_: self.copy_(everything.view(torch.int64)))
    dropped = drop(torch.ones(LEVELS, dtype=torch.float64), p, True)
    assert dropped.mean().item() == pytest.approx(1.0, abs=1e-12)
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=0.5 / LEVELS)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4), (2, 3, 5)])
def test_the_gradient_is_that_of_what_was_kept(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, requires_grad=True) + 1
    out = drop(x, 0.5, True)
    assert out.shape == x.shape
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, out.detach() / x.detach())


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    module, x = Dropout(0.3), torch.rand(100)
    torch.manual_seed(2)
    first = module(x)
    torch.manual_seed(2)
    assert module(x).equal(first)
    assert not module(x).equal(first)
    assert module.eval()(x) is x
    assert drop(x, 0.0, True) is x


def test_other_types_are_left_to_torch() -> None:
    torch.manual_seed(3)
    wanted = torch.nn.functional.dropout(torch.ones(64, dtype=torch.bfloat16), 0.5)
    torch.manual_seed(3)
    assert drop(torch.ones(64, dtype=torch.bfloat16), 0.5, True).equal(wanted)


def test_attention_with_dropout_is_the_fused_one_but_for_what_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 2, 2, 6, 4, dtype=torch.float64).unbind()
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    fused = attend(query, key, value, allowed, dropout=0.0, causal=True)
    torch.testing.assert_close(attend(query, key, value, allowed, dropout=0.0), fused)
    monkeypatch.setattr("seqgen.attention.drop", lambda x, p, training: x)
    torch.testing.assert_close(attend(query, key, value, allowed, dropout=0.5, causal=True), fused)
