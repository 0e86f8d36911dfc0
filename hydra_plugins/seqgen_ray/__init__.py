"""`hydra/launcher=ray`: the jobs of a sweep, queued over CPUs and GPUs by Ray."""

from hydra_plugins.seqgen_ray.launcher import RayLauncher

__all__ = ["RayLauncher"]
