"""What a comparison compares: candidates that share data, split, candidates of the ranking, metrics and budget.

Free of torch and of Hydra.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqgen.errors import UserError
from seqgen.settings import flatten, key_of
from seqgen.tuning.study import Study

# Below `data`, what changes how a model is trained or what it costs, not which cases are ranked and how.
OF_TRAINING = (
    "batch_size", "cache_dir", "eval_batch_size", "max_len", "num_workers", "seed", "storage", "stride", "windows",
)  # fmt: skip
# Of the other nodes, places on a machine and what is shown.
OF_PLACES = ("default_root_dir", "dirpath", "enable_model_summary", "enable_progress_bar", "profiler", "resumed_from")
SHARED = ("data", "metrics", "monitor", "trainer", "callbacks")


@dataclass(frozen=True)
class Candidate:
    """One model with one choice of settings on one data set, before it is tuned.

    Attributes:
        name: Of its settings; the candidates on the other data sets share it.
        data: Name of the data set.
        overrides: What is not searched, as on the command line, but for the seed.
        study: That tunes the rest; None where there is nothing to tune.
        config: As composed, plain and resolved.
    """

    name: str
    data: str
    overrides: Sequence[str]
    study: Study | None
    config: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What it goes by in messages."""
        return f"{self.name} on {self.data}"


def place(name: str, data: str) -> str:
    """Where the folders of a candidate are, within those of a round."""
    return "/".join(re.sub(r"[^\w.+=-]+", "_", part) for part in (data, name))


def names(
    jobs: Sequence[Sequence[str]], swept: Sequence[str], choices: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The name and the data set of each candidate, from what the comparison goes through.

    Args:
        jobs: Overrides of each.
        swept: Keys that the comparison goes through.
        choices: Model and data set of each.

    Raises:
        UserError: Two candidates on one data set cannot be told apart.
    """
    found = []
    for job, (model, data_set) in zip(jobs, choices, strict=True):
        values = {key_of(text): text.partition("=")[2] for text in job}
        said = {key: values[key] for key in swept if key in values}
        of_data = [key for key in said if key == "data" or _of_data(key)]
        data = [data_set, *(f"{key}={said[key]}" for key in of_data if key != "data")]
        bare = [value if key in ("model", "attention", "experiment") else f"{key}={value}"
                for key, value in said.items() if key not in of_data]  # fmt: skip
        found.append(("-".join(bare) or model, " ".join(data)))
    if len(set(found)) < len(found):
        twice = next(pair for pair in found if found.count(pair) > 1)
        raise UserError(f"{' on '.join(twice)} is listed twice; leave one out.")
    return found


def _of_data(key: str) -> bool:
    return key.startswith("data.") and key.split(".")[1] not in OF_TRAINING


def refuse_unequal(candidates: Sequence[Candidate]) -> None:
    """Refuse what would compare apples with pears: other cases, other candidates, other metrics or another budget.

    Raises:
        UserError: Names the key, the candidates and their values.
    """
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        other = first.setdefault(candidate.data, candidate)
        ours, theirs = _shared(candidate.config), _shared(other.config)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"{key} is {theirs.get(key)} for {other.name} and {ours.get(key)} for {candidate.name} on "
                    f"{candidate.data}: a comparison needs the same cases, metrics and budget; set {key}= for all."
                )


def _shared(config: Mapping[str, Any]) -> dict[str, str]:
    settings = {k: v for name in SHARED for k, v in flatten(config[name], name).items()}
    return {
        key: value
        for key, value in settings.items()
        if key.rpartition(".")[2] not in OF_PLACES
        and not (key.startswith("data.") and key.split(".")[1] in OF_TRAINING)
    }


def refuse_other_data(candidates: Sequence[Candidate], records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse candidates whose data turned out to differ, once all have prepared them.

    Args:
        candidates: The candidates.
        records: The `results.json` of a run of each.

    Raises:
        UserError: Names two.
    """
    first: dict[str, tuple[str, str | None]] = {}
    for candidate, record in zip(candidates, records, strict=True):
        own = (record["data"] or {}).get("fingerprint")
        name, theirs = first.setdefault(candidate.data, (candidate.name, own))
        if own != theirs:
            raise UserError(
                f"{name} and {candidate.name} were given different data or test cases on {candidate.data}; they "
                "cannot be compared."
            )
