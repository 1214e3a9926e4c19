#!/usr/bin/env python3
"""How fast are the scripts, against the tutorial's way of training, and how does the cost grow with the data?

Parts (all of them, or those that --parts names):
  chapter    images a second, the tutorial's way and ours in turn; time to a validation accuracy of 0.9928
  seeds      03_Training.py as it is with three seeds: time to 0.9928, and what is wrong after all epochs
  steps      microseconds an image: augmentation, forward, backward, optimiser, evaluation; threads and number type
  scripts    seconds and peak memory of each script; loading, with and without the operating system's file cache
  inference  one board of 81 cells and 512 cells: ONNX Runtime's options, and PyTorch
  processes  threads in one process against processes under torchrun
  growth     time and memory for more of the same data, and the fitted line extended to 10 and 100 times

Medians of repeated runs, taken in turn. Other work on the machine spoils them. Adds to bench.json in --out.
"""

import argparse
import json
import os
import platform
import sys
import time
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
from measure import CHAPTER_EPOCHS, TARGET, plural, run_measured, table
from training import bench_chapter, bench_processes, bench_seeds, bench_steps

QUICK = ["chapter", "steps", "inference"]


def bench_scripts(args: argparse.Namespace) -> dict:
    out, puzzles = args.out / "scripts", ("--train", 30, "--val", 10) if args.quick else ()
    data, onnx, weights = out / "data", out / "sudoku_digitnet.onnx", out / "digitnet_best.pth"
    training = ("03_Training.py", "--out", out)
    load = "import sys; from digitnet_data import load_cells; [load_cells(f) for f in sys.argv[1:]]"
    folders = (args.data / "train", args.data / "val")
    commands = {
        "import OpenCV alone": ("-c", "import cv2, digitnet_data"),
        "load train and val, files in memory": ("-c", load, *folders),
        "02_PrepareData.py": ("02_PrepareData.py", "--out", data, *puzzles),
        "03_Training.py, one epoch": (*training, "--data", args.data, "--epochs", 1, "--train-only"),
        "03_Training.py --export-only": (*training, "--export-only"),
        "04_Parity.py": ("04_Parity.py", "--onnx", onnx, "--weights", weights, "--data", args.data),
        "05_Evaluate.py": ("05_Evaluate.py", "--onnx", onnx, "--data", args.data, "--out", out),
    }  # fmt: skip
    results = {name: run_measured(sys.executable, *command) for name, command in commands.items()}
    if hasattr(os, "posix_fadvise"):
        for path in (path for folder in folders for path in folder.glob("*/*.png")):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        results["load train and val, files on disk"] = run_measured(sys.executable, "-c", load, *folders)
    rows = [[name, result["seconds"], result["peak_mib"]] for name, result in results.items()]
    table("Each script, from start to end", ["", "s", "peak MiB"], rows)
    return results


PARTS = {
    "chapter": bench_chapter,
    "seeds": bench_seeds,
    "steps": bench_steps,
    "scripts": bench_scripts,
    "inference": bench_inference,
    "processes": bench_processes,
    "growth": bench_growth,
}


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
    parser.add_argument("--quick", action="store_true", help="less of it, in a minute: " + ", ".join(QUICK))
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
    results, measured = json.loads(report.read_text()) if report.exists() else {}, {}
    for part in args.parts or (QUICK if args.quick else PARTS):
        start = time.perf_counter()
        measured[part] = PARTS[part](args)
        seconds = round(time.perf_counter() - start, 1)
        results[part] = {"run": run, "quick": args.quick, "results": measured[part], "seconds": seconds}
        write_json(report, results)
    if {"chapter", "seeds"} <= measured.keys():  # of this call: figures of two days would mix two speeds of the machine
        print(f"\n{compare(measured['chapter'], measured['seeds'])}")
    print(f"\nSaved: {report}")


if __name__ == "__main__":
    run_script(main)
