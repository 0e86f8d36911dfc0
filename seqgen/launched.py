"""Processes of one run that somebody else starts, `torchrun`: each has the command line, and they agree on the rest.

Free of torch where nothing was launched.
"""

import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

from seqgen.errors import UserError

STARTED = "SEQGEN_STARTED"  # the time in the name of the output folder, where the processes have agreed on one
PATIENCE = timedelta(minutes=5)
ONLY_SHOWS = {"--help", "-h", "--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc"}


def is_first() -> bool:
    """Whether this is the process of the run that writes and speaks."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return {os.environ.get(name, "0") for name in ("LOCAL_RANK", "NODE_RANK")} == {"0"}


def is_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def completed(arguments: Sequence[str]) -> list[str]:
    """A command line under torchrun, with the number of processes that torchrun has started; otherwise as it is.

    The processes agree on the time that names the output folder; all but the first leave it alone.

    Raises:
        UserError: The command line says another number, or is of a sweep.
    """
    if not is_by_torchrun() or not ONLY_SHOWS.isdisjoint(arguments):
        return list(arguments)
    if not {"-m", "--multirun"}.isdisjoint(arguments):
        raise UserError(
            "--multirun under torchrun would start the whole sweep in every process; use hydra/launcher=ray with "
            "hydra.launcher.num_gpus= and trainer.devices=, or torchrun for a single run."
        )
    local, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    added = []
    for key, number, option in (
        ("trainer.devices", local, "--nproc_per_node"),
        ("trainer.num_nodes", total // local, "--nnodes"),
    ):
        given = [text.partition("=")[2] for text in arguments if text.partition("=")[0] == key]
        if not given:
            added.append(f"{key}={number}")
        elif given[-1] not in (str(number), "auto"):
            raise UserError(f"{key}={given[-1]} is not what torchrun has started, {number} ({option}); leave it out.")
    rank = int(os.environ["RANK"])
    if rank > 0:
        added += ["hydra.output_subdir=null", f"hydra.job.name=process_{rank}"]
    os.environ[STARTED] = _agreed(datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"), rank)
    return [*arguments, *added]


def _agreed(own: str, rank: int) -> str:
    """What the first process says, through the store that torchrun keeps for its processes."""
    from torch.distributed import DistError, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    key = f"seqgen/{os.environ['TORCHELASTIC_RUN_ID']}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/started"
    try:
        store = TCPStore(address, port, is_master=False, timeout=PATIENCE)
        if rank == 0:
            store.set(key, own)
        return store.get(key).decode()
    except DistError as error:
        raise UserError(
            f"torchrun's store at {address}:{port} does not answer: {' '.join(str(error).split())}"
        ) from error


def refused(error: UserError) -> None:
    """Say once why the processes end, and end this one."""
    if is_first():
        print(f"seqgen: {error}", file=sys.stderr)
    sys.exit(1)
