"""What the parts share: commands run to their end and measured, functions timed, tables printed."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from digitnet_cli import UserError

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.9928  # validation accuracy that the tutorial names
CHAPTER_EPOCHS = 10  # its epochs
# Runs a command and writes its peak memory (KiB, of its largest process): a child counts the memory of the process that
# started it, and this one has torch in it.
LAUNCHER = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[2:]); "
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(code)"
)


def run_measured(*command: object) -> dict:
    """Runs a command to its end: seconds, peak memory in MiB, seconds to the first val acc >= TARGET (or None)."""
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


def train_measured(args: argparse.Namespace, name: str, *options: object, launcher: tuple = ()) -> dict:
    """Runs 03_Training.py with `options`; adds images a second (the median epoch) and the last epoch's errors."""
    out = args.out / name
    result = run_measured(
        sys.executable, *launcher, ROOT / "03_Training.py", "--data", args.data, "--out", out, *options
    )
    epochs = json.loads((out / "training.json").read_text())["epochs"]
    result["images_per_second"] = statistics.median(e["images"] / e["train_seconds"] for e in epochs)
    result["val"] = epochs[-1]["val"]
    return result


def median_time(call: Callable[[], object], seconds: float) -> float:
    """Median seconds of one call, repeated for about `seconds` (at least five times) after two to warm up."""
    call(), call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(title: str, head: list[str], rows: list[list]) -> None:
    """Prints a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print("|", " | ".join(f"{v:,.3g}" if isinstance(v, float) and v < 1000 else
                              f"{v:,.0f}" if isinstance(v, float) else str(v) for v in row), "|")  # fmt: skip
