"""Energy of training, from counters as Linux and NVML show them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import QUIET, TINY

from seqgen import config, energy
from seqgen.run import run


def rapl(root: Path, place: str, **files: object) -> Path:
    folder = root / place
    folder.mkdir(parents=True)
    for file, content in ({"max_energy_range_uj": 65_000_000_000} | files).items():
        (folder / file).write_text(f"{content}\n")
    return folder


def test_a_counter_that_begins_anew_loses_nothing() -> None:
    values = iter([60e9, 64e9, 2e9, 2e9])
    counter = energy.Counter(lambda: int(next(values)), 65_000_000_000)
    assert [counter.spent_kj() for _ in range(3)] == [4.0, 3.0, 0.0]


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    folders = [rapl(tmp_path, f"intel-rapl:{n}", name=f"package-{n}", energy_uj=5) for n in (0, 1)]
    rapl(tmp_path, "intel-rapl:0:0", name="core", energy_uj=3)
    rapl(tmp_path, "intel-rapl:2", name="psys", energy_uj=3)
    counters = energy.packages(tmp_path)
    for number, folder in enumerate(folders, start=1):
        (folder / "energy_uj").write_text(f"{number * 10**9 + 5}")
    assert [counter.spent_kj() for counter in counters] == [1.0, 2.0]
    (folders[1] / "energy_uj").unlink()  # not readable
    assert energy.packages(tmp_path) == []
    assert energy.packages(tmp_path / "no") == []


def test_a_gpu_tells_its_own_and_without_nvml_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    values, asked = iter([7, 2007]), []
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda _: next(values),  # in mJ
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="ab-1"))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (counter,) = energy.gpu(torch.device("cuda:0"))
    assert (counter.spent_kj(), asked) == (0.002, ["GPU-ab-1"])

    def fails() -> None:
        raise NVMLError

    nvml.nvmlInit = fails
    assert energy.gpu(torch.device("cuda:0")) == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.gpu(torch.device("cuda:0")) == []


def test_a_run_records_its_energy_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rapl(tmp_path / "powercap", "intel-rapl:0", name="package-0", energy_uj=0)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(energy, "OFTEN_S", 0.0)
    look = energy.EnergyMeter._look

    def spend(meter: energy.EnergyMeter) -> None:
        (folder / "energy_uj").write_text(f"{int((folder / 'energy_uj').read_text()) + 10**9}")
        look(meter)

    monkeypatch.setattr(energy.EnergyMeter, "_look", spend)
    overrides = ["model=sasrec", *TINY, *QUIET]
    first = run(config.compose([*overrides, "trainer.max_epochs=1"], output_dir=tmp_path / "1")).record["timing"]
    assert first["energy_kj"] >= 2  # a batch, and the end of the epoch
    more = [f"ckpt_path={tmp_path}/1/checkpoints/last.ckpt", "trainer.max_epochs=2"]
    again = run(config.compose([*overrides, *more], output_dir=tmp_path / "2")).record["timing"]
    assert again["energy_kj"] == 2 * first["energy_kj"]
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "no")
    more[1] = "trainer.max_epochs=3"
    more[0] = f"ckpt_path={tmp_path}/2/checkpoints/last.ckpt"
    run(config.compose([*overrides, *more], output_dir=tmp_path / "3"))
    assert "energy_kj" not in json.loads((tmp_path / "3/results.json").read_text())["timing"]
