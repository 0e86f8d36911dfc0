"""The forward and reverse process against closed forms and against Bayes' rule done numerically."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from seqgen.diffusion import schedules
from seqgen.diffusion.process import Diffusion
from seqgen.errors import SettingError, UserError

SCHEDULES = {
    "linear": {"beta_end": 0.04},
    "scaled_linear": {"beta_end": 0.04},
    "cosine": {},
    "sqrt": {},
    "sigmoid": {},
}
T = 20


@pytest.fixture(params=sorted(SCHEDULES))
def process(request):
    return getattr(schedules, request.param)(steps=T, **SCHEDULES[request.param])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_signal_falls_from_one(process):
    assert process.num_steps == T
    assert process.alpha_bar.dtype == torch.float64
    assert process.alpha_bar[0] == 1
    assert (process.alpha_bar.diff() < 0).all()
    assert (process.alpha_bar > 0).all()
    assert process.signal_to_noise().equal(process.alpha_bar[1:] / (1 - process.alpha_bar[1:]))


def test_tables_against_the_definitions():
    beta = [1e-4 + (0.04 - 1e-4) * k / (T - 1) for k in range(T)]
    expected = [1.0]
    for b in beta:
        expected.append(expected[-1] * (1 - b))
    torch.testing.assert_close(
        schedules.linear(steps=T, beta_end=0.04).alpha_bar, torch.tensor(expected, dtype=torch.float64)
    )
    roots = [0.01 + (0.2 - 0.01) * k / (T - 1) for k in range(T)]
    scaled = schedules.scaled_linear(steps=T, beta_end=0.04).alpha_bar
    assert scaled[-1].item() == pytest.approx(math.prod(1 - r * r for r in roots), rel=1e-12)

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    cosine = schedules.cosine(steps=T).alpha_bar
    for t in range(T):  # the last beta is cut
        assert cosine[t].item() == pytest.approx(f(t / T) / f(0), rel=1e-12)
    assert (cosine[-1] / cosine[-2]).item() == pytest.approx(0.001)
    square_root = schedules.sqrt(steps=T).alpha_bar
    assert square_root[10].item() == pytest.approx((1 - math.sqrt(0.5 + 1e-4)) / (1 - math.sqrt(1e-4)), rel=1e-12)
    assert schedules.sigmoid(steps=T).alpha_bar[T // 2].item() == pytest.approx(0.5, rel=1e-12)


def test_the_reference_settings_of_cddrec():
    """Section B.3 of the notes: abar at the last step, noise of the target at the first and the last."""
    for steps, beta_end, last, noise in ((20, 0.04, 0.666, 0.578), (30, 0.002, 0.969, 0.176), (20, 0.08, 0.439, 0.749)):
        process = schedules.linear(steps=steps, beta_end=beta_end)
        assert process.alpha_bar[-1].item() == pytest.approx(last, abs=5e-4)
        assert (1 - process.alpha_bar[-1]).sqrt().item() == pytest.approx(noise, abs=5e-4)
        assert (1 - process.alpha_bar[1]).sqrt().item() == pytest.approx(0.01, abs=1e-5)


def test_single_steps_compose_to_the_direct_marginal(process):
    # The mean and the variance of x_t after t single steps, by linearity: on (1, 0) and on unit noise.
    mean, variance = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for t in range(1, T + 1):
        mean = process.q_step(mean, t, zero)
        variance = process.q_step(variance.sqrt(), t, zero) ** 2 + process.q_step(zero, t, one) ** 2
        torch.testing.assert_close(mean, process.q_sample(one, t, zero))
        torch.testing.assert_close(variance, process.q_sample(zero, t, one) ** 2)


@pytest.mark.parametrize(("t", "s"), [(5, 4), (20, 19), (12, 3), (2, 1)])
def test_posterior_against_bayes_rule(process, t, s):
    """q(x_s | x_t, x_0) is q(x_t | x_s) q(x_s | x_0), normalised: integrated on a grid."""
    clean, noisy = 0.7, -0.4
    now, then = process.signal(t).item(), process.signal(s).item()
    keep = now / then
    mean, variance = process.posterior(
        torch.tensor([clean], dtype=torch.float64), torch.tensor([noisy], dtype=torch.float64), t, s
    )
    width = 12 * variance.sqrt().item()
    x = torch.linspace(mean.item() - width, mean.item() + width, 40_001, dtype=torch.float64)
    log = -((noisy - keep**0.5 * x) ** 2) / (2 * (1 - keep)) - (x - then**0.5 * clean) ** 2 / (2 * (1 - then))
    density = torch.softmax(log, dim=0)
    assert (density * x).sum().item() == pytest.approx(mean.item(), rel=1e-9, abs=1e-9)
    assert (density * (x - mean) ** 2).sum().item() == pytest.approx(variance.item(), rel=1e-6)


def test_posterior_at_the_last_step_is_the_clean_value(process):
    clean, noisy = normal(3, 4), normal(3, 4, seed=1)
    mean, variance = process.posterior(clean, noisy, 7, 0)
    torch.testing.assert_close(mean, clean)
    assert variance == 0
    torch.testing.assert_close(process.ddpm_step(clean, noisy, 7, 0, normal(3, 4, seed=2)), clean)


@pytest.mark.parametrize("kind", ["clean", "noise", "previous"])
def test_predictions_lead_back_to_the_clean_value(process, kind):
    clean, noise = normal(6, 4), normal(6, 4, seed=1)
    t = torch.tensor([1, 2, 7, 13, 19, 15])
    noisy = process.q_sample(clean, t, noise)
    prediction = {"clean": clean, "noise": noise, "previous": process.posterior(clean, noisy, t, t - 1)[0]}[kind]
    torch.testing.assert_close(process.clean_from(prediction, noisy, t, kind), clean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("t", "s"), [(5, 4), (20, 19), (12, 3), (3, 0)])
def test_ddim_with_eta_one_is_ddpm(process, t, s):
    clean, noisy, noise = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    torch.testing.assert_close(
        process.ddim_step(clean, noisy, t, s, eta=1.0, noise=noise), process.ddpm_step(clean, noisy, t, s, noise)
    )


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_keeps_the_marginal(process, eta):
    """With the true x_0, x_s has q(x_s | x_0): its signal and its variance, by linearity in the noises."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    t, s = 14, 6
    signal = process.ddim_step(one, process.q_sample(one, t, zero), t, s, eta=eta, noise=zero)
    from_noisy = process.ddim_step(zero, process.q_sample(zero, t, one), t, s, eta=eta, noise=zero)
    fresh = process.ddim_step(zero, zero, t, s, eta=eta, noise=one)
    torch.testing.assert_close(signal[0], process.signal(s).sqrt())
    torch.testing.assert_close(from_noisy[0] ** 2 + fresh[0] ** 2, 1 - process.signal(s))


def test_a_chain_with_the_true_clean_value_ends_at_it(process):
    clean = normal(5, 3)
    x = process.q_sample(clean, T, normal(5, 3, seed=1))
    ends = process.grid(4)
    assert (ends[0], ends[-1], len(ends)) == (T, 0, 5)
    for t, s in pairwise(ends):
        x = process.ddim_step(clean, x, t, s)
    torch.testing.assert_close(x, clean)


def test_steps_may_differ_by_row(process):
    clean, noise = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    t = torch.tensor([1, 9, 20])
    together = process.q_sample(clean, t, noise)
    for row, step in enumerate(t.tolist()):
        torch.testing.assert_close(together[row], process.q_sample(clean[row], step, noise[row]))


def test_tables_are_not_rounded_with_the_network(process):
    exact = process.alpha_bar.clone()
    process.to(torch.bfloat16)
    assert process.alpha_bar.equal(exact)
    half = torch.ones(2, dtype=torch.bfloat16)
    assert process.q_sample(half, 3, half).dtype == torch.bfloat16
    assert "alpha_bar" not in process.state_dict()


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_no_step_is_refused(name):
    with pytest.raises(SettingError, match=r"^steps must be at least 1"):
        getattr(schedules, name)(steps=0)


def test_variances_outside_their_range_are_refused():
    for start, end in ((0.0, 0.1), (0.1, 1.0), (-0.1, 0.5)):
        with pytest.raises(
            SettingError, match=r"^steps=5 must each add noise of a variance in \(0, 1\), but it runs from"
        ):
            schedules.linear(steps=5, beta_start=start, beta_end=end)
    with pytest.raises(UserError, match=r"21 reverse steps must lie in 1 to the 20 steps"):
        schedules.linear(steps=T).grid(21)
    assert isinstance(schedules.linear(steps=1), Diffusion)


def test_divergence_is_the_kl_in_units_of_the_variance(process):
    t = torch.tensor([1, 7, T])
    mean, clean, deviation = normal(3, 4, 5), normal(4, 5, seed=1), torch.tensor([0.01, 0.2, 0.5]).double()
    found = process.divergence(mean, deviation, clean, t)
    for k, step in enumerate(t.tolist()):
        signal = process.alpha_bar[step]
        forward = Normal(signal.sqrt() * clean, (1 - signal).sqrt())
        wanted = (1 - signal) * kl_divergence(Normal(mean[k], deviation[k]), forward).mean(1)
        torch.testing.assert_close(found[k], wanted)
