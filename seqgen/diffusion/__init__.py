"""Gaussian diffusion: noise schedules, and the arithmetic of the forward and the reverse process. No networks."""
