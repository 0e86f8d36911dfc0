"""The sweeper of `python -m seqgen.compare`: from a command line to candidates, through the rounds to the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.seqgen_grid.left_out import as_job, swept_keys
from hydra_plugins.seqgen_grid.sweeper import GridSweeper

if TYPE_CHECKING:
    from hydra_plugins.seqgen_ray.launcher import RayLauncher
    from seqgen.compare.candidates import Candidate
    from seqgen.compare.rounds import Plan


class CompareSweeper(GridSweeper):
    """Compares candidates: each is tuned with the same budget, and its winner run over seeds."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Carry out the comparison, or what is left of it.

        Args:
            arguments: Overrides of the command line, lists of candidates among them.

        Raises:
            UserError: The candidates cannot be compared, or some runs did not finish.
        """
        from seqgen.cli import stopped_in_words
        from seqgen.compare import rounds
        from seqgen.compare.candidates import refuse_other_data
        from seqgen.report.__main__ import main as report

        assert self.config is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        launcher = self._ray_launcher()
        plan = self._plan(arguments, launcher)
        plan.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, plan.folder / "multirun.yaml")
        print(f"Comparison {plan.folder}: {', '.join(c.label for c in plan.candidates)}", flush=True)
        stopped = "the comparison is stopped; the same command goes on with it"
        with stopped_in_words(stopped), launcher._ray() as ray:
            measured = rounds.measure(ray, plan)
            refuse_other_data(plan.candidates, measured)
            rounds.show_costs(ray, plan, measured)
            if self.config.compare.estimate:
                return []
            found = rounds.tune(ray, plan)
            folders = rounds.finish(ray, plan, found)
        rounds.show_found(plan, found)
        if any(candidate.study for candidate in plan.candidates):
            rounds.write_trials(plan, plan.folder / "trials.csv")
        page = plan.folder / "report.html"
        first = ["--baseline", name] if (name := rounds.baseline(plan, folders)) else []
        files = ["--html", str(page), "--csv", str(plan.folder / "report.csv")]
        report([*map(str, folders), *first, "--details", *files])
        print(f"Page: {page}")
        return []

    def _ray_launcher(self) -> "RayLauncher":
        # Only now: Hydra loads the plugins that it finds anew, after others of them have imported them.
        from hydra_plugins.seqgen_ray.launcher import RayLauncher
        from seqgen.errors import UserError

        if not isinstance(self.launcher, RayLauncher):
            assert self.config is not None
            name = self.config.hydra.runtime.choices["hydra/launcher"]
            raise UserError(f"hydra/launcher={name}: seqgen.compare runs with hydra/launcher=ray, its default.")
        return self.launcher

    def _plan(self, arguments: Sequence[str], launcher: "RayLauncher") -> "Plan":
        """The comparison that a command line asks for.

        Raises:
            UserError: A setting is wrong, or the candidates cannot be compared.
        """
        from seqgen.compare.candidates import names, refuse_unequal
        from seqgen.compare.rounds import Plan
        from seqgen.settings import key_of
        from seqgen.signatures import check_type
        from seqgen.sweeps.jobs import threads

        assert self.config is not None
        told = self.config.compare
        for key, kind in (("trials", int), ("workers", int), ("tuning_seed", int), ("estimate", bool), ("prune", bool)):
            check_type(f"compare.{key}", told[key], kind)
        mine = [text for text in arguments if not key_of(text).startswith("compare.")]
        parsed = self._parser().parse_overrides([*self._parse_config(), *mine])
        seeds, grid, searched = _divided(parsed)
        folder = Path(str(self.config.hydra.sweep.dir)).resolve()
        environment = threads(launcher.num_cpus)
        asked = list(self.split_arguments(grid, None)[0])
        swept = swept_keys(asked)
        planned = self._usable(asked, swept)
        chosen: list[Any] = [job.config.hydra.runtime.choices for job in planned]
        called = names([job.overrides for job in planned], swept, [(c.model, c.data) for c in chosen])
        candidates = [
            self._candidate(job.overrides, job.config, name, folder, searched, environment)
            for job, name in zip(planned, called, strict=True)
        ]
        refuse_unequal(candidates)
        return Plan(
            candidates=candidates,
            swept=swept,
            folder=folder,
            monitor=str(self.config.monitor),
            seeds=seeds,
            tuning_seed=told.tuning_seed,
            trials=told.trials,
            workers=told.workers,
            num_cpus=launcher.num_cpus,
            num_gpus=launcher.num_gpus,
            environment=environment,
        )

    def _candidate(
        self,
        overrides: Sequence[str],
        composed: DictConfig,
        name: tuple[str, str],
        folder: Path,
        searched: Sequence[str],
        environment: dict[str, str],
    ) -> "Candidate":
        from seqgen import config
        from seqgen.check import check, check_shape, drop_unused
        from seqgen.compare.candidates import Candidate, place
        from seqgen.compare.rounds import TUNING
        from seqgen.tuning.search import SEARCH, study_of

        assert self.config is not None
        with as_job(composed, folder / TUNING):
            cfg = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", "compare")])
            check_shape(cfg)
            drop_unused(cfg)
            check(cfg)
            plain = config.plain(cfg)
        told = self.config.compare
        passed_on = [text for text in self.config.hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
        choices: Any = composed.hydra.runtime.choices
        study = None
        if told.trials > 0 and choices.get("model") in config.options(SEARCH):
            of_study = [
                f"{SEARCH}={choices.model}",
                f"hydra.sweep.dir='{folder / TUNING / place(*name)}'",
                f"hydra.sweeper.n_trials={told.trials}",
                f"seed={told.tuning_seed}",
            ]
            pruner = [] if told.prune else ["hydra.sweeper.pruner=null"]
            study = study_of([*of_study, *pruner, *passed_on, *searched, *overrides], environment=environment)
        return Candidate(*name, overrides=[*passed_on, *overrides], study=study, config=plain)


def _divided(parsed: Sequence[Override]) -> tuple[list[int], list[Override], list[str]]:
    """The seeds of the final runs, the overrides that make the candidates, and the search spaces."""
    from seqgen.errors import UserError

    last = {override.get_key_element(): override for override in parsed}
    seeds, grid, searched = [1], [], []
    for key, override in last.items():
        value = override.value()
        if key == "seed":
            texts = list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(value)]
            if not all(text.isdigit() for text in texts):
                raise UserError(f"{override.input_line} must list whole numbers, such as seed=1,2,3.")
            seeds = [int(text) for text in texts]
        elif override.is_sweep_override() and not _lists_candidates(value):
            searched.append(str(override.input_line))
        else:
            grid.append(override)
    return seeds, grid, searched


def _lists_candidates(value: Any) -> bool:
    """Whether a sweep is a simple list, or the list of one value that `seqgen.cli.for_each_job` makes."""
    return isinstance(value, ChoiceSweep) and (value.simple_form or len(value.list) == 1)
