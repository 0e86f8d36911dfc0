"""Run folders as a run leaves them, as far as the report reads them."""

import json
import os

import polars as pl
import pytest

from seqgen.errors import UserError
from seqgen.report import report

MODEL_A = {"choices": {"model": "a"}, "config": {"model": {"name": "a"}}}
MODEL_B = {"choices": {"model": "b"}, "config": {"model": {"name": "b"}}}


def write_run(folder, *, ranks=None, choices=(), config=(), metrics=(), seed=1, mtime=None, **keys):
    """Write a run folder; ``ranks`` is (user, target, rank) triples, or just ranks of users 0, 1, ..."""
    folder.mkdir(parents=True)
    paths = {"root": str(folder.parent), "output_dir": str(folder), "name": folder.name, "none": None}
    results = {
        "status": "finished",
        "error": None,
        "run_id": str(folder),
        "choices": {
            "model": "sasrec",
            "attention": "softmax",
            "diffusion": "none",
            "data": "ml1m",
            **dict(choices),
        },
        "seed": seed,
        "config": {"seed": seed, "paths": paths, **dict(config)},
        "data": {"fingerprint": "f1"},
        "parameters": 100,
        "metrics": dict(metrics),
        "timing": {"train_epoch_s": []},
    } | keys
    (folder / "results.json").write_text(json.dumps(results))
    if mtime:
        os.utime(folder / "results.json", (mtime, mtime))
    if ranks is not None:
        if not isinstance(ranks[0], tuple):
            ranks = [(user, 7, rank) for user, rank in enumerate(ranks)]
        write_ranks(folder, ranks)
    return folder


def write_ranks(folder, ranks):
    frame = pl.DataFrame(ranks, schema=["user", "target", "rank"], orient="row")
    frame.with_columns(history_len=5, top=[[1, 2]]).write_parquet(folder / "ranks.parquet")


def sentence_of(folder, **options):
    with pytest.raises(UserError) as error:
        report([folder], **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_two_runs(folder):
    write_run(folder / "0", **MODEL_A, ranks=[1, 2], metrics={"test/ndcg@10": 0.1})
    write_run(folder / "1", **MODEL_B, ranks=[1, 2], metrics={"test/ndcg@10": 0.1})
    return folder
