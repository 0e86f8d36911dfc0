"""Write the tables of the pages from the stored runs: `make tables`.

A page holds `<!-- table: NAME -->`, the table, `<!-- end -->`; each NAME is a function of PAGES. Numbers come from the
stored runs (`results/runs.jsonl` and its history), from `references.json` beside the page (numbers that no stored run
of ours gives, each with its source), and from the table of metrics.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from seqgen.metric_table import METRICS
from seqgen.report.assembly import compute
from seqgen.stored import read_runs

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Runs = Sequence[Mapping[str, Any]]
LISTS = [f"test/{metric}@{k}" for metric in ("hr", "ndcg") for k in (5, 10, 20)]
LISTS_HEADER = ["HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20"]
NDCG = "val/ndcg@10"


@cache
def stored(experiment: str, folder: str = "results") -> dict[str, Runs]:
    """The stored runs of an experiment by name, in the order of their seeds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in read_runs(ROOT / "experiments" / experiment / folder):
        found.setdefault(run["name"], []).append(run)
    return found


@cache
def references(experiment: str) -> dict[str, Any]:
    """Numbers of others, and of ours whose runs are not stored, each with its source."""
    content: dict[str, Any] = json.loads((ROOT / "experiments" / experiment / "references.json").read_text())
    return content


def number(value: float, digits: int = 4) -> str:
    """A number as the pages have it, `.0610`."""
    return f"{value:.{digits}f}".removeprefix("0")


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean, and sample standard deviation where there are several: `.0610 ± .0010`."""
    parts = [statistics.mean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
    return " ± ".join(number(part, digits) for part in parts)


def metric(runs: Runs, name: str, digits: int = 4) -> str:
    """A metric over seeds; of runs that were stopped their best validation; empty where it was not measured."""
    values = [run["metrics"].get(name) for run in runs]
    if name == NDCG and not any(run["metrics"] for run in runs):
        values = [max(epoch[name] for epoch in run["history"]) for run in runs]
    return spread([v for v in values if v is not None], digits) if None not in values else ""


def referred(row: Mapping[str, float], names: Iterable[str]) -> list[str]:
    """The metrics of a row of references; empty where it lacks one."""
    return [number(row[name]) if name in row else "" for name in names]


def cpu_s(run: Mapping[str, Any]) -> list[float]:
    """CPU-seconds of each epoch."""
    times: list[float] = run["timing"]["train_epoch_cpu_s"]
    return times


def mean_epochs(runs: Runs) -> str:
    """Epochs trained, mean over seeds."""
    return f"{statistics.mean(run['epochs'] for run in runs):.0f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every row has as many cells as the header."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"a row of the table with the header {header} has another number of cells")
    text = ("| " + " | ".join(line) + " |" for line in lines)
    return "".join(line.replace("|  |", "| |").replace("|  |", "| |") + "\n" for line in text)


def metrics_table() -> str:
    """The metrics of `seqgen.metric_table`."""
    better = {True: "large", False: "small", None: ""}
    rows = []
    for row in METRICS.values():
        needs = ["categories"] * row.needs_categories + [f"K > {row.least_k - 1}"] * (row.least_k > 1)
        name = f"`{row.name}@K`" if row.at_k else f"`{row.name}`"
        rows.append([name, row.explanation, better[row.higher_is_better], ", ".join(needs)])
    return markdown(["metric", "", "better", "needs"], rows)


def attention(data: str, kinds: Sequence[tuple[str, str]]) -> Callable[[], str]:
    """Kinds of attention on one data set; each kind is the name of its runs and its label."""

    def table() -> str:
        rows = []
        for kind, label in kinds:
            runs, interval = stored("attention")[f"{data}_{kind}"], ""
            if kind != "softmax":
                pair = (runs, stored("attention")[f"{data}_softmax"])
                means = [statistics.mean(run["metrics"]["test/ndcg@10"] for run in group) for group in pair]
                low, high = references("attention")["intervals"][data][kind]
                interval = f"{means[0] - means[1]:+.4f} [{low:+.4f}, {high:+.4f}]"
            rows.append(
                [
                    f"`{label}`",
                    str(len(runs)),
                    metric(runs, NDCG),
                    metric(runs, "test/ndcg@10"),
                    interval,
                    *(metric(runs, f"test/{name}@10", digits) for name, digits in ATTENTION_METRICS.values()),
                    mean_epochs(runs),
                    f"{statistics.mean(statistics.median(cpu_s(run)) for run in runs):.1f}",
                    f"{runs[0]['parameters']:,}",
                ]
            )
        first = ["attention", "seeds", "val NDCG@10", "test NDCG@10", "Δ to softmax"]
        return markdown([*first, *ATTENTION_METRICS, "epochs", "CPU-s an epoch", "parameters"], rows)

    return table


@cache
def tuned_differences() -> dict[tuple[str, str], dict[str, Any]]:
    """The report's rows of all tuned runs by data set and kind of attention; Holm's correction is over all of them."""
    summary = compute([ROOT / "experiments/attention/tuned"], baseline="genatt/softmax").summary
    return {(row["data"], row["attention"]): row for row in summary.iter_rows(named=True)}


def tuned(data: str) -> Callable[[], str]:
    """Kinds of attention that were tuned alike on one data set."""

    def table() -> str:
        rows = []
        for kind in TUNED_KINDS:
            runs, row = stored("attention", "tuned")[f"{data}_{kind}"], tuned_differences()[data, kind]
            difference = p = ""
            if row["difference"] is not None:
                difference = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
                p = f"{row['p_holm']:.2f}" if row["p_holm"] >= 0.01 else "< 0.01"
            cells = [f"`{kind}`", metric(runs, NDCG), metric(runs, "test/ndcg@10"), difference, p]
            cells += [metric(runs, f"test/{name}@10", digits) for name, digits in ATTENTION_METRICS.values()]
            cpu = statistics.mean(statistics.median(cpu_s(run)) for run in runs)
            rows.append([*cells, mean_epochs(runs), f"{cpu:.1f}", f"{runs[0]['parameters']:,}"])
        first = ["attention", "val NDCG@10", "test NDCG@10", "Δ to softmax", "p (Holm)"]
        return markdown([*first, *ATTENTION_METRICS, "epochs", "CPU-s an epoch", "parameters"], rows)

    return table


def studies(data: str) -> Callable[[], str]:
    """What the study of each kind found on one data set, beside the settings as they are, its first trial."""

    def table() -> str:
        trials = pl.read_csv(ROOT / f"experiments/attention/tuned/trials_{data}.csv")
        searched = [name for name in trials.columns if "." in name]
        rows = []
        for kind in TUNED_KINDS:
            ours = (pl.col("candidate") == kind) & (pl.col("state") != "stopped")  # which were done again
            own = trials.filter(ours).sort("trial")
            pruned = own.filter(pl.col("state") == "pruned").height
            best = own.filter(pl.col("state") == "complete").sort(NDCG, descending=True).row(0, named=True)
            found = ", ".join(f"{name} {best[name]:.2g}" for name in searched if best[name] is not None)
            first = number(own[NDCG][0]) if own["state"][0] == "complete" else "pruned"
            counts = f"{own.height} ({pruned})"
            rows.append([f"`{kind}`", counts, f"{own['epochs'].sum()}", first, number(best[NDCG]), found])
        header = ["attention", "trials (pruned)", "epochs", "as it is", "best"]
        return markdown([*header, "settings of the best"], rows)

    return table


def readme_attention() -> str:
    """Kinds of attention tuned alike, on both data sets; a star where the difference to softmax stands."""
    rows = []
    for kind in TUNED_KINDS:
        cells = [f"`{kind}`"]
        for data in TUNED_DATA:
            p = tuned_differences()[data, kind]["p_holm"]
            star = " *" if p is not None and p < 0.05 else ""
            cells.append(metric(stored("attention", "tuned")[f"{data}_{kind}"], "test/ndcg@10") + star)
        rows.append(cells)
    return markdown(["", "MovieLens-100K", "Beauty"], rows)


TUNED_DATA = ("ml100k", "beauty")
TUNED_KINDS = ("softmax", "multi_query", "uniform", "linear", "hstu", "synthesizer", "vae", "diffusion")
ATTENTION_METRICS = {
    "HR@10": ("hr", 4),
    "category coverage": ("category_coverage", 4),
    "ILD": ("ild", 3),
    "F": ("f", 4),
    "item coverage": ("coverage", 3),
    "Gini": ("gini", 3),
}
KINDS = [(kind, kind) for kind in ("softmax", "multi_query", "uniform", "synthesizer", "vae", "diffusion")]
OF_POSITION = [(f"{kind}_position", f"{kind}, content=false") for kind in ("vae", "diffusion")]


def cddrec_sets() -> str:
    """CDDRec and SASRec on Office and Beauty."""
    authors = references("cddrec")["authors_office"]
    given = [f"{authors['epochs']}", f"{authors['cpu_s']}", *referred(authors, [NDCG, *LISTS])]
    rows = [["**Office**", *[""] * 9], ["authors' code, epoch 3, one run", *given]]
    for label, name in (
        ("sasrec, loss=bce", "sasrec_bce_office"),
        ("**cddrec**", "cddrec_office"),
        ("sasrec, loss=ce, dropout .5", "sasrec_ce_office"),
        ("**Beauty**", ""),
        ("sasrec, loss=bce", "sasrec_bce_beauty"),
        ("**cddrec**", "cddrec_beauty"),
    ):
        if not name:
            rows.append([label, *[""] * 9])
            continue
        runs = stored("cddrec")[name]
        total = f"{statistics.mean(sum(cpu_s(run)) for run in runs):.0f}"
        rows.append([label, mean_epochs(runs), total, *(metric(runs, m) for m in (NDCG, *LISTS))])
    return markdown(["", "epochs", "CPU-s", "val NDCG@10", *LISTS_HEADER], rows)


def cddrec_other_sets() -> str:
    """CDDRec and SASRec on the sets with one seed."""
    rows = []
    for data in ("toys", "tools"):
        pair = [stored("cddrec")[f"{model}_{data}"] for model in ("cddrec", "sasrec_bce")]
        cells = [metric(runs, name) for runs in pair for name in (NDCG, "test/ndcg@10")]
        rows.append([data.capitalize(), *cells])
    return markdown(["", "cddrec, val", "cddrec, test", "sasrec loss=bce, val", "sasrec loss=bce, test"], rows)


def cddrec_first_epochs() -> str:
    """Validation after each of the first epochs, Office."""
    authors = references("cddrec")["authors_first_epochs"][NDCG]
    rows = [["authors' code", *map(number, authors)]]
    for run in stored("cddrec")["cddrec_office"]:
        values = [epoch[NDCG] for epoch in run["history"][: len(authors)]]
        rows.append([f"seqgen, seed {run['seed']}", *map(number, values)])
    return markdown(["epoch", *(str(epoch + 1) for epoch in range(len(authors)))], rows)


ABLATION = (
    ("default: 2 drawn steps, exact contrast, tau .1, lambda 20, no augmented view", "cddrec_office"),
    ("clean targets (`model.noisy_targets=false`)", "ablation_clean_targets"),
    ("`model.cross_divergence=kl`, 20 epochs", "ablation_kl"),
    ("`model.decoder.time_in=memory`²", "ablation_time_in_memory"),
    ("`model.decoder.time_in=both`²", "ablation_time_in_both"),
    ("without contrast (`model.contrast.weight=0`), 25 epochs", "ablation_no_contrast"),
    ("augmented view (`model.views.crop=0.6 model.views.mask=0.3 model.views.reorder=0.6`)", "ablation_augmented"),
    ("all 20 steps (`model.steps_per_batch=null`), stopped after 7 epochs", "ablation_all_steps"),
    ("objective of the authors' code¹, stopped after 4 epochs", "ablation_authors_objective"),
    ("**x_t fed back** (`model.decoder.condition_on_x_t=true model.noisy_targets=false`), ours", ""),
    ("reverse chain of all 20 steps (`model.inference.steps=20`)", "ablation_condition_on_x_t"),
    ("the same networks, one jump from T (`model.inference.steps=1`)", "ablation_condition_on_x_t_jump"),
    ("chain, `diffusion=cosine '~diffusion.beta_end'`", "ablation_condition_on_x_t_cosine"),
    ("the same network, one jump from T", "ablation_condition_on_x_t_cosine_jump"),
)


def cddrec_ablation() -> str:
    """What mattered on Office."""
    rows = []
    for label, name in ABLATION:
        if not name:
            rows.append([label, *[""] * 5])
            continue
        runs = stored("cddrec")[name]
        cost = first = ""
        if runs[0]["history"]:
            least = min(statistics.median(cpu_s(run)) for run in runs)
            cost = f"{least:.1f}" if least < 100 else f"{least:.0f}"
            after = zip(*([epoch[NDCG] for epoch in run["history"][:3]] for run in runs), strict=True)
            first = " ".join(number(statistics.mean(values)) for values in after)
        tested = metric(runs, "test/ndcg@10") or "not tested"
        rows.append([label, str(len(runs)), metric(runs, NDCG) if first else "", tested, cost, first])
    return markdown(["", "seeds", "val NDCG@10", "test NDCG@10", "CPU-s an epoch", "after epochs 1, 2, 3"], rows)


def mqsa_ted_beauty() -> str:
    """MQSA-TED on Beauty, seed by seed."""
    given, runs = references("mqsa_ted"), stored("mqsa_ted")["mqsa_ted_beauty"]
    rows = [
        [given[key]["label"], str(given[key]["epochs"]), *referred(given[key], LISTS)] for key in ("published", "probe")
    ]
    for run in runs:
        label = f"seqgen, seed {run['seed']} (epoch {run['best_epoch'] + 1})"
        rows.append([label, mean_epochs([run]), *(metric([run], name) for name in LISTS)])
    label = f"**seqgen, mean of {len(runs)} seeds**"
    rows.append([label, mean_epochs(runs), *(metric(runs, name) for name in LISTS)])
    return markdown(["", "epochs", *LISTS_HEADER], rows)


def mqsa_ted_first_epochs() -> str:
    """Losses and validation of the first epochs beside the authors' code."""
    ours = next(run for run in stored("mqsa_ted")["mqsa_ted_beauty"] if run["seed"] == 1)
    rows = []
    for epoch, theirs in enumerate(references("mqsa_ted")["first_epochs"]["epochs"]):
        for label, values in (("reference code", theirs), ("seqgen", ours["history"][epoch])):
            losses = [f"{values[f'train/{part}']:.3f}" for part in ("loss", "recommendation", "distillation")]
            hits, gains = ([number(values[f"val/{m}@{k}"]) for k in (5, 10, 20)] for m in ("hr", "ndcg"))
            rows.append([str(epoch + 1), label, " / ".join(losses), " ".join(hits), " ".join(gains)])
    header = ["epoch", "", "loss total / recommendation / distillation", "HR@5 / 10 / 20", "NDCG@5 / 10 / 20"]
    return markdown(header, rows)


def mqsa_ted_ml1m() -> str:
    """MQSA-TED on ML-1M."""
    runs = stored("mqsa_ted")["mqsa_ted-multi_query-ml1m"]
    return markdown(["epochs", *LISTS_HEADER], [[mean_epochs(runs), *(metric(runs, name) for name in LISTS)]])


def readme_mqsa_ted() -> str:
    """MQSA-TED beside the published numbers, in short."""
    published, runs = references("mqsa_ted")["published"], stored("mqsa_ted")["mqsa_ted_beauty"]
    rows = [
        [f"published ({published['epochs']} epochs, quoted second hand)", *referred(published, LISTS)],
        [f"seqgen, mean of {len(runs)} seeds", *(metric(runs, name) for name in LISTS)],
    ]
    return markdown(["", *LISTS_HEADER], rows)


def readme_cddrec() -> str:
    """CDDRec beside SASRec, in short."""
    rows = []
    for label, name in (("cddrec", "cddrec"), ("sasrec loss=bce", "sasrec_bce"), ("sasrec loss=ce", "sasrec_ce")):
        groups = [stored("cddrec").get(f"{name}_{data}") for data in ("office", "beauty")]
        rows.append([f"`{label}`", *(metric(runs, "test/ndcg@10") if runs else "" for runs in groups)])
    return markdown(["", "Office", "Beauty"], rows)


def peers() -> str:
    """What `benchmarks/compare_peers.py` has measured and worded, and where."""
    content = json.loads((ROOT / "benchmarks/results/peers.json").read_text())
    blank = [""] * (len(content["columns"]) - 1)
    rows = [row for table in content["tables"] for row in ([f"**{table['title']}**", *blank], *table["rows"])]
    return markdown(content["columns"], rows) + f"\n{content['circumstances']}\n"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "metrics": metrics_table,
        "mqsa_ted": readme_mqsa_ted,
        "cddrec": readme_cddrec,
        "attention": readme_attention,
        "peers": peers,
    },
    "experiments/attention/README.md": {
        "tuned_ml100k": tuned("ml100k"),
        "studies_ml100k": studies("ml100k"),
        "tuned_beauty": tuned("beauty"),
        "studies_beauty": studies("beauty"),
        "ml100k": attention("ml100k", [*KINDS, *OF_POSITION]),
        "beauty": attention("beauty", KINDS),
    },
    "experiments/cddrec/README.md": {
        "sets": cddrec_sets,
        "other_sets": cddrec_other_sets,
        "first_epochs": cddrec_first_epochs,
        "ablation": cddrec_ablation,
    },
    "experiments/mqsa_ted/README.md": {
        "beauty": mqsa_ted_beauty,
        "first_epochs": mqsa_ted_first_epochs,
        "ml1m": mqsa_ted_ml1m,
    },
}


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A page's text with its tables written anew.

    Raises:
        ValueError: The text lacks the markers of a table, has them twice, or has those of another.
    """
    if sorted(name for _, name, _ in MARKED.findall(text)) != sorted(tables):
        raise ValueError(f"the page must hold the markers of {', '.join(tables)}, each once")
    return MARKED.sub(lambda found: f"{found[1]}{tables[found[2]]()}{found[3]}", text)


def main() -> None:
    for page, tables in PAGES.items():
        before = (ROOT / page).read_text(encoding="utf-8")
        text = filled(before, tables)
        (ROOT / page).write_text(text, encoding="utf-8")
        print(f"{page}: {'as it was' if text == before else 'written'}")


if __name__ == "__main__":
    main()
