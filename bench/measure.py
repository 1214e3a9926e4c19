# SPDX-License-Identifier: Apache-2.0
"""Shared by all parts: run and measure commands, print tables."""

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from digitnet_cli import UserError

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.9928  # validation accuracy that the chapter names
CHAPTER_EPOCHS = 10  # its epochs
SAMPLE_SECONDS = 2  # between two looks at the memory, of which each holds the process up by 40 to 60 ms


def resident(pid: int) -> float:
    """Return the resident memory of a process and all that it has started, in MiB; shared pages count once."""
    memory = 0.0
    with contextlib.suppress(OSError):  # it has ended
        memory = int(re.findall(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0]) / 1024
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            memory += sum(resident(int(child)) for child in children.read_text().split())
    return memory


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[float]]:
    """Watch a process for a `with` block; the list's only value is the most memory seen, see resident."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def run_measured(*command: object) -> dict:
    """Run a command in the repository's folder and wait for it.

    Returns `seconds`, `peak_mib` (resident memory of all its processes) and `seconds_to_target`: until the first line
    with a validation accuracy of at least TARGET, or None. Raises UserError if the command fails.
    """
    start, reached = time.perf_counter(), None
    command = [str(part) for part in command]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as process,
        peak_memory(process.pid) as peak,
    ):
        for line in process.stdout:
            if reached is None and line.startswith("val acc: ") and float(line.split()[-1]) >= TARGET:
                reached = time.perf_counter() - start
        if process.wait():
            errors.seek(0)
            raise UserError(f"{' '.join(command)} failed: {errors.read()[-500:]}")
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak[0], "seconds_to_target": reached}


def train_measured(data: Path, out: Path, *options: object, launcher: tuple = ()) -> dict:
    """Run 03_Training.py from the beginning; `launcher` comes before the script, such as torchrun's options.

    Returns the values of run_measured, `images_per_second` (the median epoch) and `val`, the last epoch's errors.
    """
    for state in out.glob(".*_state.pth"):
        state.unlink()  # of an interrupted benchmark: training would continue from there
    result = run_measured(sys.executable, *launcher, "03_Training.py", "--data", data, "--out", out, *options)
    epochs = json.loads((out / "training.json").read_text())["epochs"]
    result["images_per_second"] = statistics.median(e["images"] / e["train_seconds"] for e in epochs)
    result["val"] = epochs[-1]["val"]
    return result


def chapter_cells(data: Path, out: Path) -> Path:
    """Return the folder `out` with links to the chapter's own cells of `data`, without the boards beside them."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for split in ("train", "val"):
        (out / split).symlink_to(data / split)
    return out


def in_epochs(seconds: float | None, args: argparse.Namespace) -> float | str:
    """Convert seconds to epochs of the chapter's way; return "-" before the part chapter has measured one."""
    return seconds / args.chapter_epoch if seconds and args.chapter_epoch else "-"


def plural(count: int, thing: str) -> str:
    """Return a number with its noun: "1 thread", "2 threads"."""
    return f"{count} {thing}{'s' * (count != 1)}"


def table(title: str, head: list[str], rows: list[list]) -> None:
    """Print a table in Markdown; floats have three digits, and are whole numbers from 1,000 on."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print("|", " | ".join(f"{v:,.3g}" if isinstance(v, float) and v < 1000 else
                              f"{v:,.0f}" if isinstance(v, float) else str(v) for v in row), "|")  # fmt: skip
