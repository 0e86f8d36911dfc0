"""Energy of training, where the machine tells it: packages of the CPU (RAPL on Linux), the GPU (NVML).

Both count what the whole package or GPU takes, whoever uses it. RAPL's counters are readable by root alone unless the
machine is set up otherwise; NVML needs the package nvidia-ml-py. What cannot be read leaves no number.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch

from seqgen.results import RunRecord

POWERCAP = Path("/sys/class/powercap")
# RAPL counts to 65 kJ at the least, which two minutes of a busy server can fill.
OFTEN_S = 20.0


class Counter:
    """A counter of energy that begins anew when it is full.

    Args:
        read: Its value now, in microjoules.
        full: Where it begins anew; None where it never does.
    """

    def __init__(self, read: Callable[[], int], full: int | None) -> None:
        self.read, self.full = read, full
        self.last = read()

    def spent_kj(self) -> float:
        """Energy since the last call, less than one round of the counter."""
        now, before = self.read(), self.last
        self.last = now
        round_uj = self.full if now < before and self.full is not None else 0
        return (now - before + round_uj) / 1e9


def packages(root: Path) -> list[Counter]:
    """The counters of the CPU's packages; none where one cannot be read, since a part would pass for the whole."""
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):  # of AMD too
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue  # a part of a package, or the whole machine, which holds them
            full = int((folder / "max_energy_range_uj").read_text())
            found.append(Counter(lambda file=folder / "energy_uj": int(file.read_text()), full))  # type: ignore[misc]
        except (OSError, ValueError):
            return []
    return found


def gpu(device: torch.device) -> list[Counter]:
    """The counter of a GPU; none where NVML does not tell it."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return [Counter(lambda: 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)), None)]
    except nvml.NVMLError:
        return []


class EnergyMeter(L.Callback):
    """Puts the energy of a fit into the record, as ``timing.energy_kj``: CPU, and GPU where one trains.

    Nothing where a counter is missing, or where several processes train: each would see the whole machine.

    Args:
        record: The run's record; its owner writes it.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.counters: Sequence[Counter] = ()
        self.spent_kj: float | None = 0.0  # None once a part of the training was not measured
        self.looked = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"spent_kj": self.spent_kj}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the run that is resumed."""
        self.spent_kj = state_dict["spent_kj"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the counters."""
        device = trainer.strategy.root_device
        of_gpu = gpu(device) if device.type == "cuda" else []
        whole = trainer.world_size == 1 and (of_gpu or device.type == "cpu")
        of_cpu = packages(POWERCAP) if whole else []
        self.counters = [*of_cpu, *of_gpu] if of_cpu and self.spent_kj is not None else []
        self.spent_kj = self.spent_kj if self.counters else None
        self.looked = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look at the counters before they are full."""
        if self.counters and time.monotonic() - self.looked > OFTEN_S:
            self._look()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        """Likewise."""
        self.on_train_batch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave what was spent where the record is written next."""
        if self.counters:
            self._look()
            self.record.content["timing"]["energy_kj"] = self.spent_kj

    def _look(self) -> None:
        self.looked = time.monotonic()
        try:
            self.spent_kj = (self.spent_kj or 0.0) + sum(counter.spent_kj() for counter in self.counters)
        except (OSError, ValueError):  # it was taken away
            self.counters, self.spent_kj = (), None
