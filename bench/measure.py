# SPDX-License-Identifier: Apache-2.0
"""Shared by all parts: run and measure commands, print tables."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from digitnet_cli import UserError

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.9928  # validation accuracy that the chapter names
CHAPTER_EPOCHS = 10  # its epochs
# Runs a command and writes its peak memory (KiB, of its largest process). A separate launcher, because a child's count
# includes the memory of its parent, and this process has imported torch.
LAUNCHER = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[2:]); "
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(code)"
)


def run_measured(*command: object) -> dict:
    """Run a command in the repository's folder and wait for it.

    Returns `seconds`, `peak_mib` (memory of its largest process) and `seconds_to_target`: until the first line with a
    validation accuracy of at least TARGET, or None. Raises UserError if the command fails.
    """
    start, reached = time.perf_counter(), None
    command = [str(part) for part in command]
    with tempfile.TemporaryFile("w+") as errors, tempfile.NamedTemporaryFile("r") as memory:
        command = [sys.executable, "-S", "-c", LAUNCHER, memory.name, *command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        for line in process.stdout:
            if reached is None and line.startswith("val acc: ") and float(line.split()[-1]) >= TARGET:
                reached = time.perf_counter() - start
        if process.wait():
            errors.seek(0)
            raise UserError(f"{' '.join(command)} failed: {errors.read()[-500:]}")
        peak = int(memory.read()) / 1024
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak, "seconds_to_target": reached}


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
    """Link the chapter's own cells of `data` into the folder `out`, and return it, or `data` if it has no others.

    The chapter trains on these alone. Only its pages have a clean print; photos of newspapers have none.
    """
    shutil.rmtree(out, ignore_errors=True)
    for split in ("train", "val"):
        for label in map(str, range(10)):
            (out / split / label).mkdir(parents=True)
        cells = list((data / split).glob("[0-9]/*.png"))
        chapter = {path.name.partition("_")[0] for path in cells if "_clean_" in path.name}
        if not chapter:
            return data
        for path in cells:
            if path.name.partition("_")[0] in chapter:
                (out / split / path.parent.name / path.name).symlink_to(path)
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
