"""`python -m seqgen.data data=beauty`: the card of a data set, printed and as a page.

It takes the overrides of `python -m seqgen.run` and refuses what that would; no model is built.
"""

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from seqgen import cli, config, explain
from seqgen.check import check

NOW = "${now:%Y-%m-%d_%H-%M-%S-%f}"
HELP = """seqgen: what a data set holds, and how far its split can be trusted.

  python -m seqgen.data data=beauty                            its card: tables, card.html, card.json
  python -m seqgen.data data=beauty data.split=global_time     with one moment that divides all users
  python -m seqgen.data -m data=beauty,toys                    one card after another
"""
# The configuration of a run, with folders and a help text of its own. As a configuration and not as more overrides:
# what is typed still comes last.
CARD = {
    "defaults": ["config", "_self_", {"override hydra/sweeper": "basic"}],
    "hydra": {
        "job": {"name": "card"},
        "output_subdir": ".hydra",
        "run": {"dir": "outputs/cards/${hydra:runtime.choices.data}/" + NOW},
        "sweep": {"dir": "outputs/cards/multirun/" + NOW, "subdir": "${hydra.job.num}-${hydra:runtime.choices.data}"},
        "help": {"header": HELP},
    },
}
ConfigStore.instance().store(name="card", node=CARD)


def make(cfg: DictConfig) -> None:
    """Print the card of a composed configuration and write its page into the output folder.

    Raises:
        UserError: Something in the configuration, the data or a file is wrong.
    """
    check(cfg)
    from seqgen.card.numbers import card  # torch; --help answers without it
    from seqgen.card.page import write_page
    from seqgen.card.tables import print_card

    numbers = card(config.build(cfg, "data"))
    print_card(numbers)
    print(f"Page: {write_page(numbers, cfg.paths.output_dir)}")


@hydra.main(config_path=config.CONFIG_DIR, config_name="card", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> None:
    cli.kept(make, cfg)


if __name__ == "__main__":
    explain.command("card", _hydra_main)
