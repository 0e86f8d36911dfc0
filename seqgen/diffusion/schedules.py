"""Noise schedules: how much of the signal is left after each of T steps. conf/diffusion/x.yaml builds function x.

All raise a `SettingError` where a setting gives no schedule.
"""

import math

import torch

from seqgen.diffusion.process import Diffusion, from_alpha_bar
from seqgen.errors import check_positive


def linear(*, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Diffusion:
    """Variances that grow evenly (Ho et al., DDPM, NeurIPS 2020, section 4).

    Args:
        steps: T.
        beta_start: Variance of the first step.
        beta_end: Variance of the last step.
    """
    return Diffusion(torch.linspace(beta_start, beta_end, max(steps, 0), dtype=torch.float64))


def scaled_linear(*, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Diffusion:
    """Standard deviations that grow evenly (Rombach et al., latent diffusion, CVPR 2022, its code).

    Args:
        steps: T.
        beta_start: Variance of the first step.
        beta_end: Variance of the last step.
    """
    check_positive(beta_start=beta_start, beta_end=beta_end)
    deviation = torch.linspace(beta_start**0.5, beta_end**0.5, max(steps, 0), dtype=torch.float64)
    return Diffusion(deviation**2)


def cosine(*, steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Diffusion:
    """Signal cos^2(pi/2 (u + offset) / (1 + offset)) (Nichol and Dhariwal, ICML 2021, equation 17).

    Args:
        steps: T.
        offset: Keeps the first steps from being too small.
        max_beta: Largest variance of a step.
    """
    return from_alpha_bar(lambda u: torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2, steps, max_beta)


def sqrt(*, steps: int, offset: float = 1e-4, max_beta: float = 0.999) -> Diffusion:
    """Signal falls as one minus the root of u + offset (Li et al., Diffusion-LM, NeurIPS 2022, section 4.3).

    Args:
        steps: T.
        offset: Noise at the start.
        max_beta: Largest variance of a step.
    """
    return from_alpha_bar(lambda u: (1 - torch.sqrt(u + offset)).clamp(min=1e-9), steps, max_beta)


def sigmoid(
    *, steps: int, start: float = -3.0, end: float = 3.0, temperature: float = 1.0, max_beta: float = 0.999
) -> Diffusion:
    """Signal that falls as a sigmoid from `start` to `end` (Jabri et al., ICML 2023, appendix).

    Args:
        steps: T.
        start: Argument of the sigmoid at the first step.
        end: Argument at the last.
        temperature: Divides the arguments; smaller is steeper.
        max_beta: Largest variance of a step.
    """
    check_positive(temperature=temperature)

    def alpha_bar(u: torch.Tensor) -> torch.Tensor:
        low, high = (torch.sigmoid(torch.tensor(x / temperature, dtype=torch.float64)) for x in (start, end))
        here = torch.sigmoid((start + (end - start) * u) / temperature)
        return ((high - here) / (high - low)).clamp(min=1e-9)

    return from_alpha_bar(alpha_bar, steps, max_beta)
