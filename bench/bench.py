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
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from digitnet_cli import (  # noqa: E402
    UserError,
    argument_parser,
    available_cpus,
    describe_run,
    positive_int,
    run_script,
    write_json,
)
from digitnet_data import Cells, load_cells, normalize  # noqa: E402
from digitnet_model import NETWORKS, load_model  # noqa: E402
from digitnet_onnx import open_session  # noqa: E402
from digitnet_sampling import augment, draw_augmentation, draw_epoch  # noqa: E402

from chapter import Chapter  # noqa: E402

TARGET = 0.9928  # validation accuracy that the tutorial names
CHAPTER_EPOCHS = 10
QUICK = ["chapter", "steps", "inference"]
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


# --- the parts: each prints its table and returns what goes into bench.json ---------------------


def bench_chapter(args: argparse.Namespace) -> dict:
    repeats, steps = (1, 10) if args.quick else (3, 40)
    torch.set_num_threads(available_cpus())
    kinds = ("float32",) if args.quick else ("float32", "bfloat16")
    chapter, rates = Chapter(args.data), {kind: [] for kind in ("chapter", *kinds)}
    for _ in range(repeats):
        rates["chapter"].append(chapter.train(steps))
        for kind in kinds:
            options = ("--train-only", "--epochs", 1, *(["--bf16"] if kind == "bfloat16" else []))
            rates[kind].append(train_measured(args, kind, *options)["images_per_second"])
    start = time.perf_counter()
    chapter.accuracy()
    validation = time.perf_counter() - start
    rate = {kind: statistics.median(values) for kind, values in rates.items()}
    images = len(chapter.loader.dataset)
    epoch = images / rate["chapter"]
    table(
        f"Training on {images:,} cells",
        ["way", "images/s", "against the chapter's"],
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
    runs = []
    for seed in range(1 if args.quick else 3):
        options = ("--seed", seed, *(("--epochs", 1) if args.quick else ()))
        run = train_measured(args, f"seed{seed}", *options)
        onnx, out = args.out / f"seed{seed}" / "sudoku_digitnet.onnx", args.out / f"seed{seed}"
        run_measured(sys.executable, "05_Evaluate.py", "--data", args.data, "--onnx", onnx, "--out", out)
        sets = json.loads((out / "evaluation.json").read_text())["sets"]
        run["camera"] = sets.get("camera pages", {}).get("low_is_blank")
        runs.append(run)
    head = ["seed", f"s to {TARGET}", "s in all", "wrong cells", "wrong digits", "wrong camera boards (0.65 rule)"]
    rows = [
        [seed, run["seconds_to_target"], run["seconds"], run["val"]["wrong_cells"], run["val"]["wrong_digits"]]
        + ([f"{run['camera']['wrong_boards']} of {run['camera']['boards']}"] if run["camera"] else ["-"])
        for seed, run in enumerate(runs)
    ]
    table("03_Training.py with its own settings, three seeds", head, rows)
    return {"runs": runs}


def bench_steps(args: argparse.Namespace) -> dict:
    training, seconds, batch = importlib.import_module("03_Training"), 0.2 if args.quick else 1.0, 256
    cells = Cells(*(part[::8] for part in load_cells(args.data / "val")))
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.from_numpy(cells.pixels[:, None]), torch.from_numpy(cells.labels)
    chosen, recipe = draw_epoch(labels, batch, 0.1, generator), training.RECIPES["digitnet"]
    results = {}
    for threads in sorted({1, available_cpus()}):
        torch.set_num_threads(threads)
        model = training.NETWORKS["digitnet"]().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def augmented():
            drawn = draw_augmentation(batch, generator, **recipe.augmentation)
            return augment(normalize(pixels[chosen]), *drawn)

        x, y = augmented(), labels[chosen]
        for kind in ("float32", "bfloat16"):

            def forward(bf16=kind == "bfloat16", x=x, y=y, model=model):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = model(x)
                return F.cross_entropy(logits.float(), y)

            model.train()
            both = median_time(lambda run=forward: run().backward(), seconds)
            with torch.no_grad():
                alone = median_time(forward, seconds)
            found = {
                "augmentation": median_time(augmented, seconds),
                "forward": alone,
                "backward": both - alone,
                "optimiser": median_time(optimizer.step, seconds / 4),
            }
            results[f"{threads} thread{'s' * (threads > 1)}, {kind}"] = {
                stage: value / batch * 1e6 for stage, value in found.items()
            } | {
                "evaluation": median_time(lambda m=model: training.evaluate(m, cells, 0.0), seconds) / len(labels) * 1e6
            }
    stages = list(next(iter(results.values())))
    table(
        f"One training step of {batch} cells, microseconds a cell",
        ["", *stages, "step: cells/s"],
        [[name, *row.values(), 1e6 / sum(list(row.values())[:-1])] for name, row in results.items()],
    )
    return results


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


def session(path: Path, threads: int = 0, spinning: bool = True, level: str = "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: as many as cores
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bench_inference(args: argparse.Namespace) -> dict:
    out = args.out / "inference"
    out.mkdir(exist_ok=True)
    torch.save(NETWORKS["digitnet"]().state_dict(), out / "digitnet_best.pth")  # untrained is as fast
    run_measured(sys.executable, "03_Training.py", "--out", out, "--export-only")
    path, model = out / "sudoku_digitnet.onnx", load_model(out / "digitnet_best.pth")
    cpus = available_cpus()
    ways = {
        "default": onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
        "ours (open_session)": open_session(path),
        "1 thread": session(path, 1),
        f"{cpus} threads, no spinning": session(path, cpus, spinning=False),
        "1 thread, level extended": session(path, 1, level="ORT_ENABLE_EXTENDED"),
        "1 thread, level off": session(path, 1, level="ORT_DISABLE_ALL"),
    }
    calls = {name: lambda x, s=one: s.run(None, {"input": x}) for name, one in ways.items()}

    def pytorch(x, threads):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(torch.from_numpy(x))

    calls |= {f"PyTorch, {n} thread{'s' * (n > 1)}": lambda x, n=n: pytorch(x, n) for n in sorted({1, cpus})}
    times, busy = {}, {}
    for _ in range(1 if args.quick else 5):
        for cells in (81, 512):
            x = np.random.default_rng(0).standard_normal((cells, 1, 28, 28), np.float32)
            for name, call in calls.items():
                cpu, runs = time.process_time(), time.perf_counter()
                times.setdefault((name, cells), []).append(median_time(lambda c=call, x=x: c(x), 0.2))
                share = (time.process_time() - cpu) / (time.perf_counter() - runs)
                busy.setdefault((name, cells), []).append(share)
    results = {
        name: {str(n): statistics.median(times[name, n]) * 1e3 for n in (81, 512)}
        | {"cores_busy": statistics.median(busy[name, 81])}
        for name in calls
    }
    rows = [[name, row["81"], row["512"], row["cores_busy"]] for name, row in results.items()]
    table("Inference", ["", "ms a board of 81", "ms for 512 cells", "cores busy (81)"], rows)
    return results


def bench_processes(args: argparse.Namespace) -> dict:
    cpus, repeats = available_cpus(), 1 if args.quick else 2
    ways = [(1, 1)] + ([(1, cpus), (cpus, 1)] if cpus > 1 else []) + ([(4, 1)] if cpus != 4 else [])
    if args.quick:
        ways = ways[1:3]
    rates, memory = {}, {}
    for repeat in range(repeats):
        for processes, threads in ways:
            if repeat and processes > cpus:
                continue  # the slowest way, and once is enough to see that
            launcher = ("-m", "torch.distributed.run", "--nproc-per-node", processes) if processes > 1 else ()
            options = ("--train-only", "--epochs", 1, "--threads", threads)
            run = train_measured(args, "processes", *options, launcher=launcher)
            rates.setdefault((processes, threads), []).append(run["images_per_second"])
            memory[processes, threads] = run["peak_mib"]
    rows = [[p, t, statistics.median(rates[p, t]), statistics.median(rates[p, t]) / statistics.median(rates[ways[0]])]
            for p, t in ways]  # fmt: skip
    table(
        f"Threads or processes, on {cpus} cores", ["processes", "threads each", "images/s", "against the first"], rows
    )
    return {f"{p} x {t}": values for (p, t), values in rates.items()}


def bench_growth(args: argparse.Namespace) -> dict:
    """The same cells under more names (hard links): one epoch, whole, as a user waits for it."""
    results = []
    for times in args.sizes:
        folder = args.out / "growth" / f"{times}x"
        for split in ("train", "val"):
            for label in range(10):
                target = folder / split / str(label)
                target.mkdir(parents=True, exist_ok=True)
                for entry in os.scandir(args.data / split / str(label)):
                    for copy in range(times):
                        if not (target / f"{copy}{entry.name}").exists():
                            os.link(entry.path, target / f"{copy}{entry.name}")
        small = argparse.Namespace(**vars(args) | {"data": folder})
        result = train_measured(small, f"growth/out{times}", "--train-only", "--epochs", 1)
        results.append({"times": times, "seconds": result["seconds"], "peak_mib": result["peak_mib"]})
    lines = {key: np.polyfit(args.sizes, [r[key] for r in results], 1).tolist() for key in ("seconds", "peak_mib")}
    rows = [[f"{r['times']}x", r["seconds"], r["peak_mib"], "measured"] for r in results]
    rows += [
        [f"{n}x", *(float(np.polyval(line, n)) for line in lines.values()), "fitted"]
        for n in (10, 100)
        if n > max(args.sizes)
    ]
    table("More data: load and one epoch, start to end", ["data", "s", "peak MiB", ""], rows)
    per, base = lines["peak_mib"]
    full = {gib: (gib * 1024 - base) / per for gib in (1, 4, 16)}
    print("\nMemory is full: " + ", ".join(f"{gib} GiB at {n:.0f}x" for gib, n in full.items()) + " (fitted)")
    sizes = [path.stat().st_blocks * 512 for split in ("train", "val") for path in (args.data / split).glob("*/*")]
    left = os.statvfs(args.data).f_favail / len(sizes)
    print(f"On disk 1x is {len(sizes):,} files in {sum(sizes) / 2**20:.0f} MiB; the files left here are {left:.0f}x")
    return {"measured": results, "line": lines, "files": len(sizes), "bytes_on_disk": sum(sizes)}


PARTS = {
    "chapter": bench_chapter,
    "seeds": bench_seeds,
    "steps": bench_steps,
    "scripts": bench_scripts,
    "inference": bench_inference,
    "processes": bench_processes,
    "growth": bench_growth,
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR", help="folder to write to")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure; all if not given")
    parser.add_argument("--quick", action="store_true", help="less of it, in a minute: " + ", ".join(QUICK))
    parser.add_argument(
        "--chapter-epochs", type=int, default=0, metavar="N", help="also run N epochs its way (half a minute each)"
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
    print(f"{run['processor']}, {run['cpus']} cores, {platform.machine()}, torch {torch.__version__}, "
          f"onnxruntime {onnxruntime.__version__}, {run['date']}")  # fmt: skip
    report = args.out / "bench.json"
    results = json.loads(report.read_text()) if report.exists() else {}
    for part in args.parts or (QUICK if args.quick else PARTS):
        start = time.perf_counter()
        results[part] = {"run": run, "quick": args.quick, "results": PARTS[part](args)}
        results[part]["seconds"] = round(time.perf_counter() - start, 1)
        write_json(report, results)
    if {"chapter", "seeds"} <= set(results):
        reached = [run["seconds_to_target"] for run in results["seeds"]["results"]["runs"]]
        if None not in reached:
            found, worst = results["chapter"]["results"], max(reached)
            training = CHAPTER_EPOCHS * found["epoch_seconds"]
            whole = training + CHAPTER_EPOCHS * found["validation_seconds"]
            print(
                f"\nTo val acc {TARGET}: {worst:.1f} s at worst, of {len(reached)} seeds. "
                f"The chapter's {CHAPTER_EPOCHS} epochs: {whole:.0f} s, {whole / worst:.0f} times as long "
                f"(their training alone: {training:.0f} s, {training / worst:.0f} times)"
            )
    print(f"\nSaved: {report}")


if __name__ == "__main__":
    run_script(main)
