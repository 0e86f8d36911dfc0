"""A model that diffuses: noise schedule, each part of the objective by step, accuracy by setting of inference."""

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from seqgen.diagnosis import TrainedRun
from seqgen.model.cddrec import CDDRec

if TYPE_CHECKING:
    from seqgen.data.datamodule import SequenceDataModule

BATCHES = 20  # of training, over which the losses are taken where no other number is given


def measure(trained: TrainedRun, *, batches: int | None, validate: bool = True) -> dict[str, Any]:
    """`schedule`, `loss` and `inference`.

    Args:
        trained: A run of `model=cddrec`.
        batches: Number of training batches the losses are taken over; None takes 20.
        validate: False leaves `inference` empty.
    """
    model = trained.model()
    assert isinstance(model, CDDRec)
    return {
        "schedule": _schedule(model),
        "loss": _loss_by_step(model, trained.data, batches or BATCHES),
        "inference": _accuracy_by_inference(trained, model) if validate else [],
    }


def _schedule(model: CDDRec) -> dict[str, list[float]]:
    """By step 1..T: what is left of the signal, signal to noise, deviation of target and prediction."""
    process = model.diffusion
    steps = torch.arange(1, process.num_steps + 1)
    numbers = {
        "signal": process.alpha_bar[1:],
        "signal_to_noise": process.signal_to_noise(),
        "noise_of_target": (1 - process.alpha_bar[1:]).sqrt(),
        "noise_of_prediction": model.deviation(steps),
    }
    return {name: values.tolist() for name, values in numbers.items()}


@torch.no_grad()
def _loss_by_step(model: CDDRec, data: "SequenceDataModule", batches: int) -> dict[str, list[float]]:
    """Each part of the objective by step, mean over some training batches, without dropout."""
    steps = torch.arange(1, model.diffusion.num_steps + 1)
    sums: dict[str, Any] = {}
    count = 0
    for batch in data.train_dataloader():
        for name, values in model.step_losses(model.trained_on(batch), steps)[0].items():
            sums[name] = sums.get(name, 0.0) + values
        count += 1
        if count == batches:
            break
    return {name: (values / count).tolist() for name, values in sums.items()}


def _accuracy_by_inference(trained: TrainedRun, model: CDDRec) -> list[dict[str, Any]]:
    """Validation metrics by number of steps (averaged, or of the reverse chain), and by samples of the noise."""
    last = model.diffusion.num_steps
    steps = sorted({1, *(2**k for k in range(1, 10) if 2**k < last), last})
    settings = [{"steps": count, "samples": 0, "noise": False} for count in steps]
    if last > 1 or model.chain:  # a single direct step has no noise
        settings += [{"steps": 1, "samples": count, "noise": True} for count in (1, 10)]
    return [inference | trained.validate(**inference, temperature=1.0) for inference in settings]


def logged(numbers: dict[str, Any]) -> dict[str, float]:
    """Accuracy by setting of inference, for the loggers."""
    return {
        f"steps={row['steps']},samples={row['samples']}/{name}": value
        for row in numbers["inference"]
        for name, value in row.items()
        if name.startswith("val/")
    }


def draw(numbers: dict[str, Any], *, metric: str) -> dict[str, Figure]:
    """One picture for each part."""
    schedule, losses, rows = numbers["schedule"], numbers["loss"], numbers["inference"]
    steps = range(1, len(schedule["signal"]) + 1)
    names = ("schedule", "loss", "inference") if rows else ("schedule", "loss")
    drawn = {name: Figure(figsize=(7, 4), layout="constrained") for name in names}
    axes = drawn["schedule"].subplots(1, 2)
    axes[0].plot(steps, schedule["signal_to_noise"], marker=".")
    axes[0].set(yscale="log", xlabel="step t", ylabel="signal to noise")
    for name in ("signal", "noise_of_target", "noise_of_prediction"):
        axes[1].plot(steps, schedule[name], marker=".", label=name.replace("_", " "))
    axes[1].set(xlabel="step t")
    axes[1].legend()
    plots = drawn["loss"].subplots(1, len(losses), squeeze=False)[0]
    for axis, (name, values) in zip(plots, losses.items(), strict=True):
        axis.plot(steps, values, marker=".")
        axis.set(xlabel="step t", title=name.replace("_", " "))
    if rows:
        _draw_accuracy(drawn["inference"], rows, metric)
    return drawn


def _draw_accuracy(figure: Figure, rows: list[dict[str, Any]], metric: str) -> None:
    axis = figure.subplots()
    names = [f"{r['steps']} step(s)" + (f", noise, {r['samples']} sample(s)" if r["noise"] else "") for r in rows]
    axis.bar_label(axis.barh(names[::-1], [row[metric] for row in rows][::-1]), fmt="%.4f", padding=3)
    axis.margins(x=0.12)
    axis.set(xlabel=metric)
