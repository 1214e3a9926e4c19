#!/usr/bin/env python3
"""How fast are the scripts, against the tutorial's way of training, and how does the cost grow with the data?

Parts (all of them, or those that --parts names):
  chapter    images a second, the tutorial's way and ours in turn, and how long its epochs would take
  seeds      03_Training.py as it is with three seeds: time to 0.9928, and what is wrong after all epochs
  steps      microseconds a cell: augmentation, forward, backward, optimiser, evaluation; threads and number type
  scripts    seconds and peak memory of each script; loading, with and without the operating system's file cache
  inference  one board of 81 cells and 512 cells: ONNX Runtime's options, and PyTorch
  processes  threads in one process against processes under torchrun
  growth     time and memory for more of the same data, and the fitted line extended to 10 and 100 times

chapter and scripts run three times, their ways in turn, and give medians (of memory the highest); so does inference, in
three rounds of many calls; steps are medians of many calls. Run once are: each seed, each number of processes, each
size of growth, 02_PrepareData.py and the training of scripts, the validation of chapter; with --quick, everything but
steps' and inference's calls. Other work on the machine spoils the figures. Adds to bench.json in --out.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# First of all: it tells in one line if numpy or torch is missing.
from digitnet_cli import (
    argument_parser,
    describe_run,
    natural_int,
    positive_int,
    run_script,
    write_json,
)

from growth import bench_growth
from inference import bench_inference
from measure import CHAPTER_EPOCHS, TARGET, plural, run_measured, table, train_measured
from training import bench_chapter, bench_processes, bench_seeds, bench_steps

QUICK = ["chapter", "steps", "inference"]


def forget_files(folders: list[Path]) -> None:
    """Asks the system to drop the cells' files from its cache."""
    for path in (path for folder in folders for path in folder.glob("*/*.png")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bench_scripts(args: argparse.Namespace) -> dict:
    """Seconds and peak memory of each script, from start to end; those that are short three times, in turn."""
    out, folders = args.out / "scripts", [args.data / "train", args.data / "val"]
    onnx, weights = out / "sudoku_digitnet.onnx", out / "digitnet_best.pth"
    puzzles = ("--train", 30, "--val", 10) if args.quick else ()
    runs = {
        "02_PrepareData.py": [run_measured(sys.executable, "02_PrepareData.py", "--out", out / "data", *puzzles)],
        "03_Training.py, one epoch": [train_measured(args.data, out, "--train-only", "--epochs", 1)],
    }
    load = ("-c", "import sys; from digitnet_data import load_cells; [load_cells(f) for f in sys.argv[1:]]", *folders)
    short = {
        "import OpenCV alone": ("-c", "import cv2, digitnet_data"),
        "load train and val, files in memory": load,
        "03_Training.py --export-only": ("03_Training.py", "--out", out, "--export-only"),
        "05_Evaluate.py": ("05_Evaluate.py", "--onnx", onnx, "--data", args.data, "--out", out),
    }
    for _ in range(1 if args.quick else 3):
        for name, command in short.items():
            runs.setdefault(name, []).append(run_measured(sys.executable, *command))
        if hasattr(os, "posix_fadvise"):
            forget_files(folders)
            runs.setdefault("load train and val, files on disk", []).append(run_measured(sys.executable, *load))
    parity = ("04_Parity.py", "--onnx", onnx, "--weights", weights, "--data", args.data)
    runs["04_Parity.py"] = [run_measured(sys.executable, *parity)]
    rows = [
        [name, statistics.median(run["seconds"] for run in of), max(run["peak_mib"] for run in of), len(of)]
        for name, of in runs.items()
    ]
    table("Each script, from start to end", ["", "s", "peak MiB of the largest process", "runs"], rows)
    return runs


PARTS = {
    "chapter": bench_chapter,
    "seeds": bench_seeds,
    "steps": bench_steps,
    "scripts": bench_scripts,
    "inference": bench_inference,
    "processes": bench_processes,
    "growth": bench_growth,
}


def measure_part(part: str, args: argparse.Namespace, run: dict, report: Path) -> None:
    """Measures one part and adds what it came to, with the description of this `run`, to the JSON file `report`."""
    start = time.perf_counter()
    found = {"run": run, "quick": args.quick, "results": PARTS[part](args)}
    found["seconds"] = round(time.perf_counter() - start, 1)
    write_json(report, (json.loads(report.read_text()) if report.exists() else {}) | {part: found})


def compare(chapter: dict, seeds: dict) -> str:
    """The closing line: how many times as long the tutorial's epochs take as the slowest seed to TARGET.

    Takes the results of the parts chapter and seeds; a seed that did not come to TARGET is named instead.
    """
    reached = [run["seconds_to_target"] for run in seeds["runs"]]
    if late := [str(seed) for seed, seconds in enumerate(reached) if seconds is None]:
        return f"Val acc {TARGET} was not reached by seed {', '.join(late)}: no ratio to the chapter's epochs"
    worst, training = max(reached), CHAPTER_EPOCHS * chapter["epoch_seconds"]
    whole = training + CHAPTER_EPOCHS * chapter["validation_seconds"]
    return (
        f"To val acc {TARGET}: {worst:.1f} s at worst, of {plural(len(reached), 'seed')}. "
        f"The chapter's {CHAPTER_EPOCHS} epochs: {whole:.0f} s, {whole / worst:.0f} times as long "
        f"(their training alone: {training:.0f} s, {training / worst:.0f} times)"
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR", help="folder to write to")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure; all if not given")
    parser.add_argument("--quick", action="store_true", help="less of it, in under a minute: " + ", ".join(QUICK))
    parser.add_argument(
        "--chapter-epochs", type=natural_int, default=0, metavar="N", help="run N epochs its way, half a minute each"
    )
    parser.add_argument(
        "--sizes",
        type=positive_int,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="how many times the data growth measures",
    )
    args = parser.parse_args()
    args.data, args.out = args.data.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)

    run = describe_run()
    versions = [f"{name} {run['versions'].get(name, '?')}" for name in ("torch", "onnxruntime")]
    print(f"{run['processor']}, {run['cpus']} cores, {platform.machine()}, {', '.join(versions)}, {run['date']}")
    report = args.out / "bench.json"
    parts = args.parts or (QUICK if args.quick else [*PARTS])
    for part in parts:
        # Each in a process of its own: what one leaves in memory or running has slowed down another by half.
        work = partial(measure_part, part, args, run, report)
        process = multiprocessing.get_context("spawn").Process(target=run_script, args=(work,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
    if {"chapter", "seeds"} <= {*parts}:  # of this call: figures of two days would mix two speeds of the machine
        measured = json.loads(report.read_text())
        print(f"\n{compare(measured['chapter']['results'], measured['seeds']['results'])}")
    print(f"\nSaved: {report}")


if __name__ == "__main__":
    run_script(main)
