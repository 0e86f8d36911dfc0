"""All parts of a diagnosis that a model has: numbers, pictures, and what is logged of them."""

from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from seqgen.diagnosis import TrainedRun, attention, attention_pictures, denoising, diversity
from seqgen.model.cddrec import CDDRec
from seqgen.model.encoded import EncodedRecommender

CASES = 256  # test cases that the statistics of attention are taken over, where no other number is given


@dataclass
class Diagnosis:
    """What was found in a trained model.

    Attributes:
        numbers: By part.
        figures: Name -> picture.
        logged: Single numbers for the loggers.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)


def can_be_diagnosed(model: object) -> bool:
    """Whether a model has an encoder of attention blocks to look into."""
    return isinstance(model, EncodedRecommender)


def look_into(
    trained: TrainedRun, *, user: Any = None, cases: int = CASES, batches: int | None = None, validate: bool = True
) -> Diagnosis:
    """Diagnose a model that has attention.

    Args:
        trained: The run.
        user: Original id of the user whose maps are drawn; None takes the first that is tested.
        cases: Test cases that the statistics of attention are taken over, at most.
        batches: Training batches that the loss by step of a diffusion is taken over; None takes 20.
        validate: False leaves out what needs a validation for each setting of inference, which takes long.

    Raises:
        UserError: There is no such user.
    """
    model, found = trained.model(), Diagnosis()
    cases = min(cases, len(trained.data.split.test))
    maps, layers = attention.maps_of_user(trained, user), attention.measure(trained, cases=cases)
    found.numbers |= {"user": maps, "cases": cases, "attention": layers}
    found.figures["attention"] = attention_pictures.draw_maps(maps)
    found.figures["attention_statistics"] = attention_pictures.draw_statistics(layers, cases=cases)
    found.logged |= attention.logged(layers)
    if attention.draws(trained) and validate:
        rows = diversity.measure(trained)
        found.numbers["diversity"] = rows
        found.figures["diversity"] = diversity.draw(rows, lengths=list(trained.config.metrics.k))
        found.logged |= diversity.logged(rows)
    if isinstance(model, CDDRec):
        parts = denoising.measure(trained, batches=batches, validate=validate)
        found.numbers |= parts
        found.figures |= denoising.draw(parts, metric=trained.config.monitor)
        found.logged |= denoising.logged(parts)
    return found
