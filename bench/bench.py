#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure how fast the scripts are, against the chapter's way of training.

part       what is measured                                                            runs, statistic
chapter    images per second, the chapter's way and ours in turn                      3, median; its validation once
seeds      03_Training.py --epochs 1 with three seeds: time to 0.9928, errors          1 per seed
scripts    seconds and peak memory of each script, and of loading the cells            3, median; long ones once
inference  a board of 81 cells and 512 cells: ONNX Runtime's options, and PyTorch      many calls in 3 rounds, median
photo      photos of 1,000 pixels and 12 megapixels, one thread; the whole command     8 of each, median; 5
processes  threads in one process against processes under torchrun                     1 each
busy       training quiet, beside a busy loop, beside a second training               3 in turn, median

Training is measured on the chapter's own cells. Measures every part unless --parts names some. Other work on the
machine spoils the figures. Adds to bench.json in --out.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from digitnet_cli import argument_parser, run_script, seed
from digitnet_machine import write_json
from digitnet_scores import describe_run

PARTS = ("chapter", "seeds", "scripts", "inference", "photo", "processes", "busy")
TRAINING = {"chapter", "seeds", "scripts", "processes", "busy"}  # parts that take the chapter's own cells
QUICK = ("chapter", "inference")


def parse_args() -> argparse.Namespace:
    """Read the command line; args.parts stays None without --parts."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with train/ and val/")
    add("--out", type=Path, default=Path("build/bench"), metavar="DIR", help="folder to write to")
    add("--parts", nargs="+", choices=PARTS, help="what to measure; all if not given")
    add("--quick", action="store_true", help=f"shorter and rougher, in under a minute: {', '.join(QUICK)}")
    add("--chapter-epochs", type=seed, default=0, metavar="N", help="also run N of the chapter's epochs")
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = parse_args()

from inference import bench_inference
from measure import CHAPTER_EPOCHS, TARGET, chapter_cells, in_epochs, plural, run_measured, table, train_measured
from photo import bench_photo
from training import bench_busy, bench_chapter, bench_processes, bench_seeds


def bench_scripts(args: argparse.Namespace) -> dict:
    """Measure seconds and peak memory of each script, imports included; the short ones three times, in turn."""
    out = args.out / "scripts"
    onnx, weights = out / "sudoku_digitnet.onnx", out / "digitnet_best.pth"
    puzzles = ("--train", 30, "--val", 10) if args.quick else ()
    runs = {
        "02_PrepareData.py": [run_measured(sys.executable, "02_PrepareData.py", "--out", out / "data", *puzzles)],
        "03_Training.py, one epoch": [train_measured(args.data, out, "--train-only", "--epochs", 1)],
    }
    load = "import sys; from pathlib import Path; from digitnet_boards import load_split; "
    load += "[load_split(Path(sys.argv[1]), split) for split in ('train', 'val')]"
    short = {
        "load train and val": ("-c", load, args.data),
        "03_Training.py --export-only": ("03_Training.py", "--out", out, "--export-only"),
        "05_Evaluate.py": ("05_Evaluate.py", "--onnx", onnx, "--data", args.data, "--out", out),
    }
    for _ in range(1 if args.quick else 3):
        for name, command in short.items():
            runs.setdefault(name, []).append(run_measured(sys.executable, *command))
    parity = ("04_Parity.py", "--onnx", onnx, "--weights", weights, "--data", args.data)
    runs["04_Parity.py"] = [run_measured(sys.executable, *parity)]
    rows = []
    for name, of in runs.items():
        seconds = statistics.median(run["seconds"] for run in of)
        rows.append([name, seconds, in_epochs(seconds, args), max(run["peak_mib"] for run in of), len(of)])
    head = ["", "s", "in chapter's epochs", "peak MiB, all processes", "runs"]
    table("Each script, from start to end", head, rows)
    return runs


def measure_part(part: str, run: dict, report: Path, args: argparse.Namespace) -> None:
    """Measure one part and add its results, with the description of this `run`, to the JSON file `report`."""
    measure = {
        "chapter": bench_chapter,
        "seeds": bench_seeds,
        "scripts": bench_scripts,
        "inference": bench_inference,
        "photo": bench_photo,
        "processes": bench_processes,
        "busy": bench_busy,
    }[part]
    start = time.perf_counter()
    found = {"run": run, "quick": args.quick, "results": measure(args)}
    found["seconds"] = round(time.perf_counter() - start, 1)
    write_json(report, (json.loads(report.read_text()) if report.exists() else {}) | {part: found})


def compare(chapter: dict, seeds: dict) -> str:
    """Return the closing line, which compares the chapter's epochs with the slowest seed's time to TARGET.

    Takes the results of the parts chapter and seeds. If seeds did not reach TARGET, the line names them instead.
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


def main(args: argparse.Namespace) -> None:
    """Measure the parts, each in a process of its own; print tables and write bench.json."""
    args.data, args.out = args.data.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = args.parts or (QUICK if args.quick else PARTS)
    if TRAINING.intersection(parts):
        args.cells = chapter_cells(args.data, args.out / "cells")

    run = describe_run()
    versions = [f"{name} {run['versions'].get(name, '?')}" for name in ("torch", "onnxruntime")]
    print(f"{run['processor']}, {run['cpus']} cores, {platform.machine()}, {', '.join(versions)}, {run['date']}")
    report = args.out / "bench.json"
    args.chapter_epoch = None  # seconds, once they are measured
    for part in parts:
        # A process per part: memory and threads of one part have slowed down another by half. This one computes
        # nothing, so it can be forked, which saves the imports.
        work = partial(measure_part, part, run, report)
        process = multiprocessing.get_context("fork").Process(target=run_script, args=(work, args))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
        if part == "chapter":
            args.chapter_epoch = json.loads(report.read_text())[part]["results"]["epoch_seconds"]
    if {"chapter", "seeds"} <= {*parts}:  # both from this call: the machine's speed differs between days
        measured = json.loads(report.read_text())
        print(f"\n{compare(measured['chapter']['results'], measured['seeds']['results'])}")
    print(f"\nSaved: {report}")


if __name__ == "__main__":
    run_script(main, ARGS)
