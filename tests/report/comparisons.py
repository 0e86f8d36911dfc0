"""A comparison by hand: two data sets, three settings each, one of them named by somebody who means harm."""

import polars as pl

from seqgen.report.assembly import SCHEMAS
from seqgen.report.comparison import Comparison

HOSTILE = "</script><img src=http://x.test/a onerror=document.title='broken'><b>%{x}</b>&amp;'\""
NAMES = [("sasrec", "softmax", 0.11), ("mqsa_ted", "multi_query", 0.15), (HOSTILE, "-", 0.12)]
DATA = ["beauty", "<i>toys</i>"]


def label(model: str, attention: str, data: str) -> str:
    return f"{model} / {attention} / {data}"


def summary() -> pl.DataFrame:
    rows = []
    for data in DATA:
        first = label(*NAMES[0][:2], data)
        for place, (model, attention, value) in enumerate(NAMES):
            row = {"data": data, "model": model, "attention": attention, "label": label(model, attention, data)}
            row |= {"seeds": 2, "test/ndcg@10": value, "test/ndcg@10 std": 0.004}
            row |= {"test/coverage@10": 0.9 - 0.3 * place, "test/coverage@10 std": 0.01}
            difference = None if place == 0 else value - 0.11
            ends = (None, None) if difference is None else (difference - 0.02, difference + 0.02)
            p = None if difference is None else (0.001, 0.4)[place - 1]
            row |= {"difference": difference, "low": ends[0], "high": ends[1], "baseline": first, "p": p, "p_holm": p}
            row |= {"best": place == 1, "not_worse": place in (1, 2), "pareto": place < 2}
            row |= {"train_epoch_s": (9.5, 120.0, 30.0)[place], "train_s": (95.0, 12_000.0, 300.0)[place]}
            row |= {"total_s": 100.0, "peak_memory_mb": 500.0 + place, "parameters": 12_345.0 * (place + 1)}
            rows.append(row | {"published": 0.2 if place == 1 else None})
    return pl.DataFrame(rows, infer_schema_length=None)


def comparison(**changed: object) -> Comparison:
    known = [(data, label(model, attention, data), value) for data in DATA for model, attention, value in NAMES]
    curves = [
        (data, name, seed, epoch, 5 / (epoch + 1), value * (epoch + seed) / 9)
        for data, name, value in known
        for seed in (1, 2)
        for epoch in range(6)
    ]
    buckets = [("history length", f"{start} to {start + 99}", 1000 - start) for start in (1, 101, 201, 901, 1001)]
    buckets += [("transition seen", "seen", 700), ("transition seen", HOSTILE, 300)]
    groups = [(data, name, *bucket, value) for data, name, value in known for bucket in buckets]
    published = {"paper": "A paper", "table": "1", "name": "MQSA-TED", "data": "beauty", "metric": "test/ndcg@10"}
    published |= {"value": 0.2, "comparable": True, "protocol": HOSTILE, "label": label(*NAMES[1][:2], "beauty")}
    stopped = "stopped in epoch 3: python -m seqgen.run ckpt_path=outputs/a/checkpoints/last.ckpt"
    parts = {
        "summary": summary(),
        "curves": pl.DataFrame(curves, schema=SCHEMAS["curves"], orient="row"),
        "groups": pl.DataFrame(groups, schema=SCHEMAS["groups"], orient="row"),
        "unfinished": pl.DataFrame([("outputs/a", "stopped", stopped)], schema=SCHEMAS["unfinished"], orient="row"),
        "compare": "test/ndcg@10",
        "monitor": "val/ndcg@10",
        "samples": 1000,
        "notes": [f"a note on {HOSTILE}"],
        "published": pl.DataFrame([published]),
        "axes": ("test/ndcg@10", "test/coverage@10", "train_s"),
        "versions": ("seqgen 0.1.0 abcdef0, torch 2.13.0, Python 3.11.7, cpu",),
        "written": (0.0, 86_400.0),
    }
    return Comparison(**(parts | changed))
