"""A comparison in W&B, read back from the file of an offline run; the sweep file."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml
from comparisons import comparison
from conftest import ROOT

from seqgen import config
from seqgen.report import dashboard
from seqgen.report.dashboard import log_comparison
from seqgen.report.tables import markdown


def test_the_tables_of_a_comparison_are_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    curves = {"data": ["toys"] * 4, "label": ["a", "a", "b", "b"], "seed": [1] * 4, "epoch": [0, 1, 0, 1]}
    own = SimpleNamespace(
        summary=pl.DataFrame({"data": ["toys", "toys"], "model": ["a", "b"], "test/ndcg@10": [0.25, None]}),
        curves=pl.DataFrame(curves | {"train_loss": [2.0] * 4, "value": [0.1, 0.2, 0.3, None]}),
        groups=pl.DataFrame(schema={"data": pl.String}),
        compare="test/ndcg@10",
        monitor="val/ndcg@10",
    )
    log_comparison(own, "seqgen")
    run = next(tmp_path.glob("wandb/offline-run-*"))
    tables = {
        file.name.split("_")[0]: json.loads(file.read_text()) for file in run.glob("files/media/table/report/*.json")
    }
    assert tables["summary"]["data"] == [["toys", "a", 0.25], ["toys", "b", None]]
    assert tables["summary"]["columns"] == ["data", "model", "test/ndcg@10"]
    assert len(tables["curves"]["data"]) == 4
    assert "groups" not in tables
    deadline = time.monotonic() + 30  # W&B's own process writes it
    while b"val/ndcg@10 on toys" not in (recorded := b"".join(f.read_bytes() for f in run.glob("*.wandb"))):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert b"report/curves/toys" in recorded
    assert b"val/ndcg@10 on toys, mean over seeds" in recorded


def test_a_report_holds_the_table_and_panels_of_the_compared_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface", reason="seqgen[wandb-report] is absent")
    asked: list[dict[str, Any]] = []

    def answered(api: object, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        asked.append(variables)
        if "spec" not in variables:
            return {"project": {"internalId": "1"}}
        names = {"id": "7", "name": variables["name"], "displayName": variables["displayName"], "type": "runs"}
        place = {"project": {"name": "p", "entityName": "me"}, "user": {"username": "me"}, "description": ""}
        return {"upsertView": {"view": {**names, **place, "spec": variables["spec"], "updatedAt": "2026-01-01"}}}

    monkeypatch.setattr(
        interface, "_get_api", lambda: SimpleNamespace(projects=lambda entity: [], create_project=print)
    )
    monkeypatch.setattr(interface, "execute_graphql", answered)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.test")
    own = comparison(run_ids=("a1", "b2"))
    saved = dashboard.report_of(own, project="p", entity="me").save()
    assert saved.id == "7"
    blocks = json.loads(asked[-1]["spec"])["blocks"]
    assert any(markdown(own) in block.values() for block in blocks)
    text = json.dumps(blocks)
    for part in (
        '["a1", "b2"]',
        "run_id",
        "choices.value.model",
        "val/ndcg@10",
        "test/ndcg@10",
        "timing/train_epoch_s",
    ):
        assert part in text


def test_the_sweep_file_gives_command_lines_that_compose(tmp_path: Path) -> None:
    sweep = yaml.safe_load((ROOT / "examples/wandb_sweep.yaml").read_text())
    assert sweep["command"][-1] == "${args_no_hyphens}"
    given = [text for text in sweep["command"] if "=" in text]
    for name, parameter in sweep["parameters"].items():
        given.append(f"{name}={parameter.get('value', (parameter.get('values') or [parameter.get('min')])[0])}")
    cfg = config.compose(given, output_dir=tmp_path)
    assert cfg.monitor == sweep["metric"]["name"]
    assert cfg.optimizer.lr == sweep["parameters"]["optimizer.lr"]["min"]
