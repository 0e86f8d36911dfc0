"""Two generated tasks that tell attention mechanisms apart: what a row of the map may depend on.

    python experiments/attention/tasks.py       # all of them, stored in experiments/attention/results/tasks.json
    python experiments/attention/tasks.py --only softmax uniform --steps 200 --json /tmp/tasks.json

- `recall`: an item is a key and a value, and each key of a sequence comes twice. Where it comes again, what follows is
  the value it had first. The best row looks for the item that is like the current one, wherever it stands.
- `control`: one item, anywhere in the sequence, says which distance is copied from then on. The best row depends on an
  item far off, and neither on what the current item is nor on what stands where it looks.

One layer, dropout 0, cross-entropy at the answers only, every training batch drawn anew; the same width, optimiser,
batches and number of parameters for all: generated attention reaches that number by the width of its decoder, the
others, which have none, by the width of the feed-forward network. Accuracy is the share of answers ranked first among
all items. Exit code 1 where softmax does not beat every map generated without content on `recall`.
"""

import argparse
import bisect
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from seqgen import config
from seqgen.data.catalog import Catalog
from seqgen.data.sequences import Group, SequenceBatch
from seqgen.metrics import target_ranks
from seqgen.model.base import SequentialRecommender
from seqgen.summary import quiet

RESULTS = Path(__file__).parent / "results" / "tasks.json"
LENGTH = 16
KEYS, VALUES = 12, 8  # of recall
ITEMS, DISTANCES = 32, (1, 2, 4, 7)  # of control
BATCH, TEST_BATCHES, SAMPLES, SEEDS = 64, 32, 8, (1, 2, 3)
SIZES = ["model.hidden_dim=32", "model.ffn_dim=128", "model.dropout=0", "attention.dropout=0", "attention.num_heads=2"]
TRAINING = ["optimizer.lr=0.003", f"data.max_len={LENGTH}"]
WIDTHS = range(8, 1025)
LARGEST = "vae content"  # whose number of parameters the others are brought to
WITHOUT_CONTENT = ("uniform", "synthesizer", "vae", "diffusion")  # whose rows see no item of a column


@dataclass(frozen=True)
class Mechanism:
    """An option of `attention=`, its settings, and the key whose width brings it to the common size."""

    option: str
    settings: tuple[str, ...] = ()
    width: str = "model.ffn_dim"
    draws: bool = False


def generated(option: str, width: str, *, draws: bool, latent: bool) -> dict[str, Mechanism]:
    sizes = ("attention.latent_dim=16",) if latent else ()
    return {
        name: Mechanism(option, (f"attention.content={content}", *sizes), f"attention.{width}", draws)
        for name, content in ((option, "false"), (f"{option} content", "true"))
    }


MECHANISMS = {
    **{name: Mechanism(name) for name in ("softmax", "multi_query", "linear", "hstu", "uniform")},
    **generated("synthesizer", "decoder_dim", draws=False, latent=True),
    **generated("vae", "decoder_dim", draws=True, latent=True),
    **generated("diffusion", "denoiser_dim", draws=True, latent=False),
}
# How D-GenAtt's reverse process and its loss are set: named by --only, not among those compared.
TWO = "attention.reverse_steps=2"
DIFFUSION = {
    f"diffusion, {text}": Mechanism(
        "diffusion", ("attention.content=false", *settings), "attention.denoiser_dim", draws=True
    )
    for text, settings in {
        "weight 0": ("attention.diffusion_weight=0",),
        "weight .1": ("attention.diffusion_weight=0.1",),
        "two steps": (TWO,),
        "two steps, weight 0": (TWO, "attention.diffusion_weight=0"),
        "two steps, weight .1": (TWO, "attention.diffusion_weight=0.1"),
        "two steps, uniform": (TWO, "attention.clean_map=uniform"),
        "two steps, uniform, weight .1": (TWO, "attention.clean_map=uniform", "attention.diffusion_weight=0.1"),
    }.items()
}
COMPARED = list(MECHANISMS)
MECHANISMS |= DIFFUSION


def recall(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Items (b, l) and answers (b, l), 0 where there is none.

    Item 1 + key * VALUES + value; the answer, where a key comes for the second time, is item 1 + KEYS * VALUES + value
    of the first time.
    """
    chosen = torch.rand(rows, KEYS, generator=generator).argsort(dim=1)[:, : LENGTH // 2].repeat(1, 2)
    key = chosen.gather(1, torch.rand(rows, LENGTH, generator=generator).argsort(dim=1))
    value = torch.randint(VALUES, (rows, LENGTH), generator=generator)
    before = (key[:, :, None] == key[:, None]).tril(-1)  # [row, i, j]: j came earlier, with the key of i
    first = value.gather(1, before.int().argmax(dim=2))
    return 1 + key * VALUES + value, torch.where(before.any(dim=2), 1 + KEYS * VALUES + first, 0)


def control(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Items (b, l) and answers (b, l), 0 where there is none.

    Item 1..ITEMS, but for one control item, 1 + ITEMS + c, at a slot drawn anew for each row; the answer at every later
    position is the item DISTANCES[c] before it, unless that is the control item itself.
    """
    items = torch.randint(1, ITEMS + 1, (rows, LENGTH), generator=generator)
    slot = torch.randint(LENGTH - 1, (rows, 1), generator=generator)
    which = torch.randint(len(DISTANCES), (rows, 1), generator=generator)
    items = items.scatter(1, slot, 1 + ITEMS + which)
    column = torch.arange(LENGTH)
    source = column - torch.tensor(DISTANCES)[which]
    has_answer = (column > slot) & (source >= 0) & (source != slot)
    return items, torch.where(has_answer, items.gather(1, source.clamp(min=0)), 0)


TASKS = {"recall": (recall, (KEYS + 1) * VALUES), "control": (control, ITEMS + len(DISTANCES))}


def batches(task: str, count: int, seed: int) -> Iterator[SequenceBatch]:
    """Batches whose targets are the answers alone."""
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.empty(0, dtype=torch.long)
    for _ in range(count):
        items, answers = TASKS[task][0](BATCH, generator)
        rows, lengths, place = torch.arange(BATCH), torch.full((BATCH,), LENGTH), answers.flatten().nonzero()[:, 0]
        yield SequenceBatch(
            groups=(Group(items=items, lengths=lengths, rows=rows, flat_index=place),),
            targets=answers.flatten()[place],
            target_rows=place // LENGTH,
            users=rows,
            cases=rows,
            seen_rows=nothing,
            seen_items=nothing,
            normalizer=float(len(place)),
        )


def catalog(task: str) -> Catalog:
    num_items = TASKS[task][1]
    counts = torch.ones(num_items + 1, dtype=torch.long)
    names = list(range(1, num_items + 1))
    return Catalog(
        fingerprint=task, num_items=num_items, num_users=BATCH, item_counts=counts, item_ids=names, user_ids=[]
    )


def build(cfg: DictConfig, task: str) -> SequentialRecommender:
    model: SequentialRecommender = config.build(cfg, "model", catalog=catalog(task))
    return model


def count_parameters(cfg: DictConfig, task: str) -> int:
    return sum(p.numel() for p in build(cfg, task).parameters())


def settings(name: str, task: str, folder: str, target: int | None = None) -> DictConfig:
    """The configuration of a mechanism, brought to `target` parameters where that is given."""
    mechanism = MECHANISMS[name]
    overrides = ["model=genatt", f"attention={mechanism.option}", *mechanism.settings, *SIZES, *TRAINING]
    cfg = config.compose(overrides, output_dir=folder)
    if target is None:
        return cfg
    group, key = mechanism.width.split(".")

    def size(width: int) -> int:
        cfg[group][key] = width
        return count_parameters(cfg, task)

    above = bisect.bisect_left(WIDTHS, target, key=size)
    cfg[group][key] = min(WIDTHS[max(above - 1, 0)], WIDTHS[above], key=lambda width: abs(size(width) - target))
    return cfg


@torch.no_grad()
def accuracy(model: SequentialRecommender, task: str) -> float:
    """Share of answers ranked first, over batches of a seed of their own."""
    hits = total = 0
    for batch in batches(task, TEST_BATCHES, seed=0):
        group = batch.groups[0]
        hidden = model.eval().encode(group.items, group.lengths)[0].flatten(0, 1)[group.flat_index]
        scores = hidden @ model.item_vectors.T
        scores[:, 0] = float("-inf")
        hits += int((target_ranks(scores, batch.targets) == 1).sum())
        total += len(batch.targets)
    return hits / total


def train(cfg: DictConfig, task: str, *, seed: int, steps: int) -> SequentialRecommender:
    L.seed_everything(seed, verbose=False)
    model = build(cfg, task)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    drawn = list(batches(task, steps, seed=seed))
    trainer.fit(model, DataLoader(drawn, batch_size=None))  # type: ignore[arg-type]
    return model


def one_run(name: str, task: str, *, seed: int, steps: int, folder: str) -> dict[str, Any]:
    target = count_parameters(settings(LARGEST, task, folder), task)
    cfg = settings(name, task, folder, target)
    started = time.process_time()
    model = train(cfg, task, seed=seed, steps=steps)
    row = {"task": task, "attention": name, "seed": seed, "steps": steps, "cpu_s": time.process_time() - started}
    row |= {"parameters": count_parameters(cfg, task), "accuracy": accuracy(model, task), "sampled": None}
    group, key = MECHANISMS[name].width.split(".")
    row |= {"ffn_dim": cfg.model.ffn_dim, "width": {f"{group}.{key}": cfg[group][key]}}
    if MECHANISMS[name].draws:
        cfg.model.inference.samples = SAMPLES
        drawing = build(cfg, task)
        drawing.load_state_dict(model.state_dict())
        row["sampled"] = accuracy(drawing, task)
    return row


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def show(rows: list[dict[str, Any]]) -> None:
    for task in TASKS:
        table = Table(title=f"{task}: share of answers ranked first, mean ± sd over seeds")
        for title in ("attention", "accuracy", f"{SAMPLES} draws", "parameters", "FFN", "decoder"):
            table.add_column(title, justify="left" if title == "attention" else "right")
        for name in MECHANISMS:
            runs = [row for row in rows if row["task"] == task and row["attention"] == name]
            if runs:
                drawn = spread([run["sampled"] for run in runs]) if MECHANISMS[name].draws else ""
                decoder = [str(v) for k, v in runs[0]["width"].items() if k != "model.ffn_dim"]
                numbers = [spread([run["accuracy"] for run in runs]), drawn, f"{runs[0]['parameters']:,}"]
                table.add_row(name, *numbers, str(runs[0]["ffn_dim"]), *decoder)
        if table.rows:
            Console().print(table)


def not_beaten(rows: list[dict[str, Any]]) -> list[str]:
    """Maps generated without content that are, on recall, not below softmax in the mean over seeds."""
    means: dict[str, float] = {}
    for name in ("softmax", *WITHOUT_CONTENT):
        values = [row["accuracy"] for row in rows if row["task"] == "recall" and row["attention"] == name]
        if values:
            means[name] = statistics.mean(values)
    return [
        name for name in WITHOUT_CONTENT if name in means and "softmax" in means and means[name] >= means["softmax"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MECHANISMS, default=COMPARED)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=1000, help=f"training batches of {BATCH} sequences")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for task in options.tasks:
                for name in options.only:
                    rows.append(one_run(name, task, seed=seed, steps=options.steps, folder=folder))
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")  # after each, so that none is lost
    show(rows)
    print(f"Written: {options.json}")
    if failed := not_beaten(rows):
        sys.exit(f"recall: softmax does not beat {', '.join(failed)}.")


if __name__ == "__main__":
    main()
