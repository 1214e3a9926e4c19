# SPDX-License-Identifier: Apache-2.0
"""Measure the speed of training: against the chapter's way, to its accuracy, with threads and processes."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from chapter import Chapter
from measure import CHAPTER_EPOCHS, ROOT, TARGET, in_epochs, plural, run_measured, table, train_measured

from digitnet_machine import available_cpus

SILENT = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
LOAD_SECONDS = 10  # more than a training needs to load its cells


def bench_chapter(args: argparse.Namespace) -> dict:
    """Measure images per second of the chapter's way and of ours, three times in turn, and time its validation."""
    repeats, steps = (1, 10) if args.quick else (3, 20)
    torch.set_num_threads(available_cpus())
    cpuinfo = Path("/proc/cpuinfo")
    computes_in_bf16 = cpuinfo.exists() and "bf16" in cpuinfo.read_text()  # others take ten times as long
    kinds = ("float32", "bfloat16") if computes_in_bf16 and not args.quick else ("float32",)
    chapter, rates = Chapter(args.cells), {kind: [] for kind in ("chapter", *kinds)}
    for _ in range(repeats):
        rates["chapter"].append(chapter.train(steps))
        for kind in kinds:
            options = ("--train-only", "--epochs", 1, *(["--bf16"] if kind == "bfloat16" else []))
            rates[kind].append(train_measured(args.cells, args.out / kind, *options)["images_per_second"])
    start = time.perf_counter()
    chapter.accuracy()
    validation = time.perf_counter() - start
    rate = {kind: statistics.median(values) for kind, values in rates.items()}
    images = len(chapter.loader.dataset)
    epoch = images / rate["chapter"]
    table(
        f"Training on {images:,} cells",
        ["way", "images/s", "relative to the chapter's"],
        [[kind, value, value / rate["chapter"]] for kind, value in rate.items()],
    )
    result = {"images_per_second": rates, "epoch_seconds": epoch, "validation_seconds": validation}
    print(f"\nThe chapter's {CHAPTER_EPOCHS} epochs at that rate: {CHAPTER_EPOCHS * (epoch + validation):.0f} s, "
          f"{CHAPTER_EPOCHS * epoch:.0f} s of them for the training, the rest for the validation")  # fmt: skip
    if args.chapter_epochs:
        start, accuracies = time.perf_counter(), []
        for _ in range(args.chapter_epochs):
            chapter.train()
            accuracies.append(chapter.accuracy())
        result |= {"chapter_accuracy": accuracies, "chapter_run_seconds": time.perf_counter() - start}
        print(f"The chapter's way, run: val acc {accuracies[-1]:.4f} after {result['chapter_run_seconds']:.0f} s")
    return result


def bench_seeds(args: argparse.Namespace) -> dict:
    """Train one epoch with each of three seeds; measure seconds to TARGET, and count the errors after it."""
    runs = []
    for seed in range(1 if args.quick else 3):
        out = args.out / f"seed{seed}"
        run = train_measured(args.cells, out, "--seed", seed, "--epochs", 1)
        options = ("--data", args.data, "--onnx", out / "sudoku_digitnet.onnx", "--out", out)
        # Only camera pages: `out` has no real boards, which would take most of the time.
        run_measured(sys.executable, "05_Evaluate.py", *options, "--real", out)
        sets = json.loads((out / "evaluation.json").read_text())["sets"]
        run["camera"] = sets.get("camera pages", {}).get("thresholded")
        runs.append(run)
    head = ["seed", f"s to {TARGET}", "in chapter's epochs", "wrong cells", "wrong digits", "wrong camera boards"]
    rows = [
        [seed, run["seconds_to_target"] or "not reached", in_epochs(run["seconds_to_target"], args)]
        + [run["val"]["wrong_cells"], run["val"]["wrong_digits"]]
        + ([f"{run['camera']['wrong_boards']} of {run['camera']['boards']}"] if run["camera"] else ["-"])
        for seed, run in enumerate(runs)
    ]
    table(f"03_Training.py --epochs 1, {plural(len(runs), 'seed')}", head, rows)
    return {"runs": runs}


def bench_busy(args: argparse.Namespace) -> dict:
    """Measure images per second quiet, beside a busy loop and beside a second training, three times in turn."""
    out = args.out / "busy"
    options = ("--train-only", "--epochs", 1)
    training = (sys.executable, "03_Training.py", "--data", args.cells, "--out", out / "other", "--epochs", 1000)
    beside = {"nothing": None, "a busy loop": (sys.executable, "-c", "while True: pass"), "a second training": training}
    rates = {name: [] for name in beside}
    for _ in range(1 if args.quick else 3):
        for name, command in beside.items():
            other = subprocess.Popen(list(map(str, command)), cwd=ROOT, **SILENT) if command else None
            try:
                if name == "a second training":  # until it has loaded its cells
                    time.sleep(LOAD_SECONDS)
                rates[name].append(train_measured(args.cells, out, *options)["images_per_second"])
            finally:
                if other:
                    other.kill()
                    other.wait()
    rate = {name: statistics.median(values) for name, values in rates.items()}
    rows = [[name, value, value / rate["nothing"]] for name, value in rate.items()]
    table("Training beside other programs", ["beside", "images/s", "relative to quiet"], rows)
    return rates


def bench_processes(args: argparse.Namespace) -> dict:
    """Measure images per second and memory of one process with threads and of several under torchrun; an epoch each."""
    cpus = available_cpus()
    ways = [(1, 1)] + ([(1, cpus), (cpus, 1)] if cpus > 1 else []) + ([(4, 1)] if cpus != 4 else [])
    if args.quick:
        ways = ways[1:3]
    results = {}
    for processes, threads in ways:
        launcher = (
            ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes) if processes > 1 else ()
        )
        options = ("--train-only", "--epochs", 1, "--threads", threads)
        run = train_measured(args.cells, args.out / "processes", *options, launcher=launcher)
        results[f"{processes} x {threads}"] = {name: run[name] for name in ("images_per_second", "peak_mib")}
    first = next(iter(results.values()))["images_per_second"]
    rows = [
        [*way.split(" x "), row["images_per_second"], row["images_per_second"] / first, row["peak_mib"]]
        for way, row in results.items()
    ]
    head = ["processes", "threads each", "images/s", "relative to the first", "peak MiB, all processes"]
    table(f"Threads or processes, on {plural(cpus, 'core')}", head, rows)
    return results
