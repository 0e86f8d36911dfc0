"""The forward process q and its exact reversal, for any schedule.

    step t = 1..T adds noise of variance beta_t; t = 0 is clean
    abar_t = prod_{s <= t} (1 - beta_s), abar_0 = 1

Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (DDPM); Song et al., "Denoising Diffusion Implicit
Models", ICLR 2021 (DDIM). A reverse step may lead from t to any earlier s, not only to t - 1. All tables are float64,
whatever the precision of the network. Steps are given as a Python int, or as a tensor of one step per leading element.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from seqgen.errors import SettingError, UserError

Prediction = Literal["clean", "noise", "previous"]
Step = int | Tensor


class Diffusion(nn.Module):
    """A diffusion process of T steps.

    Args:
        beta: Variance of the noise of each step, (T,), each in (0, 1).

    Raises:
        SettingError: Of `steps`, T, which every schedule takes: there is none, or a variance is outside (0, 1).
    """

    alpha_bar: Tensor

    def __init__(self, beta: Tensor) -> None:
        super().__init__()
        beta = beta.double()
        if len(beta) == 0:
            raise SettingError("steps must be at least 1.")
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise SettingError(
                f"steps={len(beta)} must each add noise of a variance in (0, 1), but it runs from {beta.min():.3g} to "
                f"{beta.max():.3g}; change the schedule's bounds."
            )
        alpha_bar = torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Diffusion":
        # Moves with the module, but is never rounded: trainer.precision=bf16-true casts every buffer.
        exact = self.alpha_bar
        super()._apply(fn, recurse)
        self.alpha_bar = exact.to(self.alpha_bar.device)
        return self

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def signal(self, t: Step) -> Tensor:
        """abar_t, float64, of the shape of t."""
        return self.alpha_bar[t]

    def signal_to_noise(self) -> Tensor:
        """abar_t / (1 - abar_t) for t = 1..T, (T,) float64."""
        return self.alpha_bar[1:] / (1 - self.alpha_bar[1:])

    def q_sample(self, clean: Tensor, t: Step, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) (DDPM, equation 4)."""
        signal = self.signal(t)
        return _scale(signal.sqrt(), clean) + _scale((1 - signal).sqrt(), noise)

    def q_step(self, previous: Tensor, t: Step, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_{t-1}) (DDPM, equation 2)."""
        keep = self.signal(t) / self.signal(t - 1)
        return _scale(keep.sqrt(), previous) + _scale((1 - keep).sqrt(), noise)

    def posterior(self, clean: Tensor, noisy: Tensor, t: Step, s: Step) -> tuple[Tensor, Tensor]:
        """Mean of q(x_s | x_t, x_0), s < t, and its variance, float64 (DDPM, equation 7 for s = t - 1)."""
        weights = self._posterior_weights(t, s)
        return _scale(weights[0], clean) + _scale(weights[1], noisy), self.posterior_variance(t, s)

    def posterior_variance(self, t: Step, s: Step) -> Tensor:
        """Variance of q(x_s | x_t, x_0), float64, of the shape of t."""
        now, then = self.signal(t), self.signal(s)
        return (1 - then) / (1 - now) * (1 - now / then)

    def _posterior_weights(self, t: Step, s: Step) -> tuple[Tensor, Tensor]:
        now, then = self.signal(t), self.signal(s)
        keep = now / then
        return then.sqrt() * (1 - keep) / (1 - now), keep.sqrt() * (1 - then) / (1 - now)

    def divergence(self, mean: Tensor, deviation: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """KL(N(mean, deviation^2) || q(x_t | x_0)) in units of the second variance, (K, N).

        The mean over the dimensions of (1 - abar_t) KL. The KL itself divides the squared distance by 1 - abar_t, which
        may be 1e-4 at the first step: its sigmoid would have no gradient there.

        Args:
            mean: (K, N, D).
            deviation: (K,).
            clean: x_0, (N, D).
            t: (K,).
        """
        signal = self.signal(t)[:, None]
        ratio = deviation[:, None].double() ** 2 / (1 - signal)
        distance = (mean - _scale(signal[:, 0].sqrt(), clean.expand_as(mean))).square().mean(-1)
        return 0.5 * (distance + ((1 - signal) * (ratio - 1 - ratio.log())).to(mean.dtype))

    def clean_from(self, prediction: Tensor, noisy: Tensor, t: Step, kind: Prediction) -> Tensor:
        """x_0 from a network's prediction of x_0 (`clean`), of the noise, or of the mean of x_{t-1} (`previous`)."""
        if kind == "clean":
            return prediction
        if kind == "noise":
            signal = self.signal(t)
            return _scale(signal.rsqrt(), noisy) - _scale(((1 - signal) / signal).sqrt(), prediction)
        of_clean, of_noisy = self._posterior_weights(t, t - 1)
        return _scale(1 / of_clean, prediction) - _scale(of_noisy / of_clean, noisy)

    def ddpm_step(self, clean: Tensor, noisy: Tensor, t: Step, s: Step, noise: Tensor) -> Tensor:
        """x_s from x_t and the predicted x_0, with the posterior's variance; the last step (s = 0) adds no noise."""
        mean, variance = self.posterior(clean, noisy, t, s)
        return mean + _scale(variance.sqrt(), noise)

    def ddim_step(
        self, clean: Tensor, noisy: Tensor, t: Step, s: Step, *, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """x_s from x_t and the predicted x_0 (DDIM, equations 12 and 16).

        Args:
            clean: Predicted x_0.
            noisy: x_t.
            t: Where x_t is.
            s: Where to go, s < t.
            eta: 0 is deterministic, 1 is `ddpm_step`.
            noise: Standard normal; needed with eta > 0.
        """
        now, then = self.signal(t), self.signal(s)
        variance = eta**2 * self.posterior_variance(t, s)
        direction = _scale((1 - now).rsqrt(), noisy) - _scale((now / (1 - now)).sqrt(), clean)
        moved = _scale(then.sqrt(), clean) + _scale((1 - then - variance).clamp(min=0).sqrt(), direction)
        if eta == 0:
            return moved
        assert noise is not None
        return moved + _scale(variance.sqrt(), noise)

    def grid(self, count: int) -> list[int]:
        """`count` reverse steps spread evenly: their ends from T down to 0, count + 1 numbers.

        Raises:
            UserError: There are not so many steps.
        """
        if not 1 <= count <= self.num_steps:
            raise UserError(f"{count} reverse steps must lie in 1 to the {self.num_steps} steps of the schedule.")
        return [round(self.num_steps * k / count) for k in range(count, -1, -1)]


def _scale(weight: Tensor, x: Tensor) -> Tensor:
    """weight, one per leading element of x or one for all, times x, in the precision of x."""
    return weight.to(x.dtype).reshape(weight.shape + (1,) * (x.ndim - weight.ndim)) * x


def from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], steps: int, max_beta: float) -> Diffusion:
    """A process whose signal follows a function of time in [0, 1], each beta cut at `max_beta`."""
    signal = alpha_bar(torch.arange(max(steps, 0) + 1, dtype=torch.float64) / max(steps, 1))
    return Diffusion((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))
