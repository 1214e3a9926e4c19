# SPDX-License-Identifier: Apache-2.0
"""What touches the operating system: cores, processes, memory, locks, and files that survive a power cut."""

import contextlib
import ctypes
import errno
import functools
import glob
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from digitnet_cli import UserError, first_line


def read_system_file(path: Path) -> str:
    """Return the text of a file in /proc or /sys, or "" if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def available_cpus() -> int:
    """Return the cores that this process may use: by its CPU affinity and container, shared with torchrun's others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = math.ceil(min(cores, container_limits(Path("/"))["cpus"]))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@functools.cache  # reading them takes as long as reading some boards
def container_limits(system: Path) -> dict[str, float]:
    """Return the limits of this process's control groups, version 1 or 2; `system` is the root folder.

    "cpus", and bytes of "memory" and "swap"; inf if there is none.
    """
    limits = {"cpus": math.inf, "memory": math.inf, "swap": math.inf}
    files = (("memory", "memory.max"), ("memory", "memory.limit_in_bytes"), ("swap", "memory.swap.max"))
    for line in read_system_file(system / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        folder = system / "sys/fs/cgroup" / controllers / group.lstrip("/")
        for place in (folder, *folder.parents):  # a container may not see its own folder; parents limit it as well
            for kind, name in files:
                limits[kind] = min([limits[kind], *map(int, re.findall(r"^\d+", read_system_file(place / name)))])
            times = [read_system_file(place / f"cpu.{name}") for name in ("max", "cfs_quota_us", "cfs_period_us")]
            for quota, period in re.findall(r"^(\d+)\s+(\d+)", "".join(times)):  # others are no limit
                limits["cpus"] = min(limits["cpus"], int(quota) / int(period))
    return limits


def set_up_worker(parent: int) -> None:
    """Prepare a process of the pool; `parent` is the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the parent, however that ends
        if os.getppid() != parent:  # it has already ended
            os._exit(1)


@contextlib.contextmanager
def open_pool(workers: int, cure: str = "close other programs") -> Iterator[futures.Executor]:
    """Start a pool of processes; use a thread of this process for one worker, or if no others can be started.

    Raises UserError if a process is killed; its message ends with `cure`.
    """
    pool: futures.Executor = futures.ThreadPoolExecutor(1)
    if workers > 1:
        try:
            with futures.ThreadPoolExecutor(tasks := workers + 2) as probe:  # the pool has two threads of its own,
                probe.map(threading.Barrier(tasks).wait, [1] * tasks)  # and would wait for ever without one of them
            context = multiprocessing.get_context("fork")  # by this process, so that they end with it
            processes = futures.ProcessPoolExecutor(workers, context, set_up_worker, (os.getpid(),))
            processes.submit(os.getpid)  # starts them all, and a thread
            pool = processes
        except (ImportError, OSError, RuntimeError) as error:  # no semaphores (NotImplementedError), threads, /dev/shm
            for worker in multiprocessing.active_children():  # they would wait for work for ever
                worker.kill()
            print(f"cannot start {workers} processes ({first_line(error)}): using one")
    try:
        yield pool
    except futures.BrokenExecutor:
        raise UserError(f"one of {workers} processes was killed, probably as memory is full: {cure}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def side_by_side(function: Callable, parts: Sequence) -> list:
    """Call `function` for each part, such as a batch, in a thread per core; return the results.

    ONNX Runtime's and PyTorch's own would share each batch, and spin while they wait: slow beside another program.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    with futures.ThreadPoolExecutor(available_cpus()) as pool:
        return list(pool.map(function, parts))


def keep_freed_memory() -> None:
    """Have glibc keep the large blocks that a step frees for the next; else the system clears them page by page."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD of malloc.h, in bytes: its highest value
        mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD


def sync(path: Path | str) -> None:
    """Sync a file's content, or a folder's list of names, to disk, so that it survives a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # by others, a file system says that it never syncs
            raise
    finally:
        os.close(opened)


def alone_in(folder: Path) -> contextlib.AbstractContextManager:
    """Lock `folder` against other runs for a `with` block, or until the process ends, however it ends.

    Raises UserError if another run holds the lock.
    """
    from filelock import FileLock, Timeout  # here: reading a photo needs neither locks nor this package

    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise UserError(f"another run is writing to {folder}: wait until it ends, or name another") from None
    except OSError:  # not all file systems have locks
        return contextlib.nullcontext()


def write_file(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name in the same folder, sync, then rename: `path` is complete or unchanged."""
    folders = [path.parent, *(folder.parent for folder in path.parents if not folder.exists())]
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        pid = leftover.name.removesuffix(path.suffix).rpartition(".")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            leftover.unlink(missing_ok=True)  # of a process that was killed
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, path)
        for folder in folders:
            sync(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # a full disk has no name
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def sha256(path: Path | str) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
