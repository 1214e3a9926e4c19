"""How fast training is: against the tutorial's way, to its accuracy, stage by stage, in threads and in processes."""

import argparse
import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Iterator

from digitnet_cli import available_cpus, keep_freed_memory
from digitnet_data import Cells, load_cells, normalize
from digitnet_learner import evaluate
from digitnet_sampling import augment, draw_augmentation, draw_epoch

import torch
from chapter import Chapter
from measure import CHAPTER_EPOCHS, TARGET, median_stages, median_time, plural, run_measured, table, train_measured
from torch.nn import functional as F


def bench_chapter(args: argparse.Namespace) -> dict:
    """Images a second of the tutorial's way and of ours, three times in turn; its epochs on request, its validation."""
    repeats, steps = (1, 10) if args.quick else (3, 20)
    torch.set_num_threads(available_cpus())
    kinds = ("float32",) if args.quick else ("float32", "bfloat16")
    chapter, rates = Chapter(args.data), {kind: [] for kind in ("chapter", *kinds)}
    for _ in range(repeats):
        rates["chapter"].append(chapter.train(steps))
        for kind in kinds:
            options = ("--train-only", "--epochs", 1, *(["--bf16"] if kind == "bfloat16" else []))
            rates[kind].append(train_measured(args.data, args.out / kind, *options)["images_per_second"])
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
    """03_Training.py once with each of three seeds: seconds to TARGET and in all, and the errors that are left."""
    runs = []
    for seed in range(1 if args.quick else 3):
        out = args.out / f"seed{seed}"
        run = train_measured(args.data, out, "--seed", seed, *(("--epochs", 1) if args.quick else ()))
        options = ("--data", args.data, "--onnx", out / "sudoku_digitnet.onnx", "--out", out)
        # Only the camera pages are asked for: `out` has no real boards, which would take most of the time.
        run_measured(sys.executable, "05_Evaluate.py", *options, "--real", out)
        sets = json.loads((out / "evaluation.json").read_text())["sets"]
        run["camera"] = sets.get("camera pages", {}).get("low_is_blank")
        runs.append(run)
    head = ["seed", f"s to {TARGET}", "s in all", "wrong cells", "wrong digits", "wrong camera boards (0.65 rule)"]
    rows = [
        [seed, run["seconds_to_target"] or "not reached", run["seconds"]]
        + [run["val"]["wrong_cells"], run["val"]["wrong_digits"]]
        + ([f"{run['camera']['wrong_boards']} of {run['camera']['boards']}"] if run["camera"] else ["-"])
        for seed, run in enumerate(runs)
    ]
    table(f"03_Training.py with its own settings, {plural(len(runs), 'seed')}", head, rows)
    return {"runs": runs}


def bench_steps(args: argparse.Namespace) -> dict:
    """Microseconds a cell of each stage of 03_Training.py's step for the tutorial's network, and of the evaluation."""
    training, seconds = importlib.import_module("03_Training"), 0.4 if args.quick else 1.5
    recipe = training.RECIPES["digitnet"]
    batch = recipe.batch_size
    cells = Cells(*(part[::8] for part in load_cells(args.data / "val")))
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.from_numpy(cells.pixels[:, None]), torch.from_numpy(cells.labels)
    chosen = draw_epoch(labels, batch, recipe.blank_share, generator)
    model = training.NETWORKS["digitnet"]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)  # as long a step, and the weights stay

    def step(bf16: bool) -> Iterator[str]:
        drawn = draw_augmentation(batch, generator, **recipe.augmentation)
        x = augment(normalize(pixels[chosen]), *drawn)
        yield "augmentation"
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=recipe.label_smoothing)
        yield "forward"
        optimizer.zero_grad()
        loss.backward()
        yield "backward"
        optimizer.step()
        yield "optimiser"

    def measure(threads: int, kind: str) -> dict[str, float]:
        torch.set_num_threads(threads)
        model.train()
        stages = median_stages(functools.partial(step, kind == "bfloat16"), seconds)
        whole = median_time(lambda: evaluate(model, cells, recipe.label_smoothing), seconds / 3)
        return {name: value / batch * 1e6 for name, value in stages.items()} | {"evaluation": whole / len(labels) * 1e6}

    cpus = available_cpus()
    results = {f"{plural(cpus, 'thread')}, float32, memory not kept": measure(cpus, "float32")}
    keep_freed_memory()
    for threads in sorted({1, cpus}):
        for kind in ("float32", "bfloat16"):
            results[f"{plural(threads, 'thread')}, {kind}"] = measure(threads, kind)
    rows = [[way, *row.values(), 1e6 / (sum(row.values()) - row["evaluation"])] for way, row in results.items()]
    head = ["", *next(iter(results.values())), "step: cells/s"]
    table(f"One training step of {batch} cells, microseconds a cell", head, rows)
    return results


def bench_processes(args: argparse.Namespace) -> dict:
    """Images a second and peak memory of one process with threads and of several under torchrun; an epoch of each."""
    cpus = available_cpus()
    ways = [(1, 1)] + ([(1, cpus), (cpus, 1)] if cpus > 1 else []) + ([(4, 1)] if cpus != 4 else [])
    if args.quick:
        ways = ways[1:3]
    results = {}
    for processes, threads in ways:
        launcher = ("-m", "torch.distributed.run", "--nproc-per-node", processes) if processes > 1 else ()
        options = ("--train-only", "--epochs", 1, "--threads", threads)
        run = train_measured(args.data, args.out / "processes", *options, launcher=launcher)
        results[f"{processes} x {threads}"] = {name: run[name] for name in ("images_per_second", "peak_mib")}
    first = next(iter(results.values()))["images_per_second"]
    rows = [
        [*way.split(" x "), row["images_per_second"], row["images_per_second"] / first, row["peak_mib"]]
        for way, row in results.items()
    ]
    head = ["processes", "threads each", "images/s", "against the first", "peak MiB of the largest process"]
    table(f"Threads or processes, on {plural(cpus, 'core')}", head, rows)
    return results
