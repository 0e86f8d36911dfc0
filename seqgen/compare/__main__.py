"""`python -m seqgen.compare model=sasrec,mqsa_ted data=ml100k,beauty`: tune all alike, run over seeds, report.

The command line is that of a sweep: what it lists are the candidates. `hydra_plugins.seqgen_compare` plans them,
`seqgen.compare.rounds` carries them out.
"""

import sys

import hydra
from omegaconf import DictConfig

from seqgen import cli, config, explain


@hydra.main(config_path=config.CONFIG_DIR, config_name="compare", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    raise AssertionError("the sweeper starts the runs as processes of their own")


if __name__ == "__main__":
    sys.argv[1:] = cli.for_each_job(["--multirun", *sys.argv[1:]])
    explain.command("compare", _hydra_main)
