"""Calls in several processes at once, which exchange tensors by gloo."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def among(processes: int, folder: Path, call: Callable[..., Any], *given: Any, fresh: bool = False) -> list[Any]:
    """What the call gives in each process, which it is told the number of; to Lightning they are those of one machine.

    Args:
        processes: Their number.
        folder: For their files; not used before.
        call: Takes the number of the process and what else is given.
        given: Anything.
        fresh: The processes come from one that has run nothing: what uses polars hangs in a fork of one that used it.
    """
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver" if fresh else "fork")
    multiprocessing.set_forkserver_preload(["seqgen.run", "seqgen.stages", "seqgen.model.encoded"])
    arguments = [(rank, processes, folder, call, given) for rank in range(processes)]
    started = [context.Process(target=_called, args=each) for each in arguments]
    for each in started:
        each.start()
    try:
        for each in started:
            each.join(60)
            assert each.exitcode == 0
    finally:
        for each in started:  # one that waits for another that has failed
            each.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _called(rank: int, processes: int, folder: Path, call: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    torch.save(call(rank, *given), folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
