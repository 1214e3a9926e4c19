"""Training in several processes, as torchrun starts them: each computes its share of every batch.

One process alone is the usual case, and needs nothing of torchrun.
"""

from __future__ import annotations

import os
import sys

from digitnet_cli import UserError

import torch.distributed as dist


def processes() -> tuple[int, int]:
    """This process's number and how many there are: 0, 1 unless torchrun started us."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join_processes(batch_size: int) -> None:
    """Meets the other processes that torchrun started; only the first one prints from here on.

    Raises UserError if a batch has not a cell for each of them.
    """
    dist.init_process_group("gloo")
    rank, world = processes()
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (for the whole run)
    if batch_size < world:
        raise UserError(f"--batch-size {batch_size} is less than a cell for each of {world} processes: raise it")


def exit_at_once() -> None:
    """Ends this process, with exit code 0, if torchrun started it: without Python's own end.

    There gloo's threads, still alive, may hang or abort a process that has done all its work (seen once in some 100).
    """
    if dist.is_torchelastic_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check_same_cells(digests: dict[str, str]) -> None:
    """Raises UserError if not all processes have the same `digests` of their cells (digitnet_data.digest)."""
    _, world = processes()
    gathered: list[dict[str, str]] = [{}] * world
    dist.all_gather_object(gathered, digests)
    for rank, other in enumerate(gathered):
        if other != gathered[0]:
            raise UserError(f"process {rank} has other cells than process 0: copy the same data to every machine")
