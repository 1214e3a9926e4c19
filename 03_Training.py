#!/usr/bin/env python3
"""Trains the digit recogniser on data/{train,val}/0..9, keeps the best epoch, and exports it to ONNX.

Writes artifacts/digitnet_best.pth (a bare state_dict), artifacts/sudoku_digitnet.onnx and
artifacts/training.json (settings, one record an epoch, versions, SHA-256 of the data).

Where the tutorial's script decodes every image anew each epoch, this one decodes once and trains from memory.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

from digitnet_cli import (
    UserError,
    argument_parser,
    available_cpus,
    describe_run,
    fraction,
    keep_freed_memory,
    natural_int,
    positive_float,
    positive_int,
    run_script,
    write_json,
)
from digitnet_data import CELL_SIZE, Cells, digest, load_cells, normalize, shared_pages
from digitnet_learner import Learner, evaluate
from digitnet_model import NETWORKS, load_model, start_standardized
from digitnet_onnx import export, open_session, run_logits
from digitnet_processes import check_same_cells, exit_at_once, join_processes, processes
from digitnet_resume import Signals, fingerprint, read_state, save_weights
from digitnet_sampling import augment, draw_augmentation, draw_epoch
from digitnet_scores import describe_scores

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

# Settings. Those of the command line stand in main().
WEIGHT_DECAY = 1e-4
AVERAGING = 0.9  # what is judged and kept are weights averaged over about 1 / (1 - this) steps: one step's are noisy
MOST_THREADS = 4  # by default: a step has too little work for more; processes share it better (make NPROC=N)


class Recipe(NamedTuple):
    """How one network is trained; options of the command line replace what they name."""

    epochs: int  # passes over as many cells as there are
    batch_size: int  # cells a step
    lr: float  # highest learning rate of the OneCycle schedule
    warm_up: float  # part of the steps in which the learning rate rises
    label_smoothing: float  # keeps the logits small; the best probability aims at 1 - 0.9 of it
    blank_share: float  # part of the cells shown that are blank; the digits share the rest equally
    # Degrees either way, parts of the side and of the size, part of the cells that are blurred.
    augmentation: dict[str, float]


RECIPES = {
    # The augmentation is the tutorial's, but moved and zoomed further (it has 0.02 and 0.05): cells that a grid
    # detector cut at wrong corners look like that.
    "digitnet": Recipe(
        10, 256, 5e-2, 0.02, 0.05, 0.1, dict(degrees=5, translate=0.1, scale=0.25, blur_probability=0.15)
    ),
    # Photo pages are bent, blurred and cut at wrong corners already, so little is left to augment. Blanks are many,
    # because their texture, folds and show-through are what is mistaken for digits.
    "digitnetv2": Recipe(
        10, 256, 1e-2, 0.1, 0.0, 0.4, dict(degrees=5, translate=0.04, scale=0.08, blur_probability=0.0)
    ),
}


def train(
    args: argparse.Namespace, train_cells: Cells, val_cells: Cells, run: dict, state_file: Path
) -> tuple[dict, list[dict]]:
    """Trains for args.epochs; returns the best epoch's state_dict and a record of every epoch.

    Goes on from the state in `state_file` if that is of the same `run` (digitnet_resume.fingerprint), and writes it
    after every epoch, and on Ctrl-C and SIGTERM within one. Several processes (torchrun) draw the same batches and the
    same augmentation, and share each batch. Raises UserError if the loss is not finite.
    """
    rank, world = processes()
    share = slice(rank, None, world)
    torch.manual_seed(args.seed)
    model = NETWORKS[args.model]().to(memory_format=torch.channels_last)
    pixels, labels = torch.from_numpy(train_cells.pixels[:, None]), torch.from_numpy(train_cells.labels)
    first = draw_epoch(labels, args.batch_size, args.blank_share, torch.Generator().manual_seed(args.seed * 100_003))
    start_standardized(model, normalize(pixels[first]))
    steps = -(-len(labels) // args.batch_size)
    learner = Learner(
        model,
        lr=args.lr,
        steps=args.epochs * steps,
        warm_up=args.warm_up,
        weight_decay=WEIGHT_DECAY,
        averaging=AVERAGING,
    )

    history, best_state, seconds, begun = [], None, 0.0, None  # begun: how far an interrupted epoch came
    states = [read_state(state_file, run) if rank == 0 else None]
    if world > 1:
        dist.broadcast_object_list(states)
    if state := states[0]:
        learner.load_state_dict(state)
        history, best_state, seconds, begun = (state[name] for name in ("history", "best", "seconds", "begun"))
        print(f"{state_file}: goes on in epoch {min(len(history) + 1, args.epochs)} of {args.epochs}")
    signals, start = Signals(), time.perf_counter() - seconds

    def save_state(begun: dict | None = None) -> None:
        seconds = time.perf_counter() - start
        run_state = {"run": run, "history": history, "best": best_state, "seconds": seconds, "begun": begun}
        save_weights(learner.state_dict() | run_state, state_file)

    for epoch in range(len(history) + 1, args.epochs + 1):
        # Drawn from seed and epoch alone, so that an epoch can be repeated without those before it.
        generator = torch.Generator().manual_seed(args.seed * 100_003 + epoch)
        epoch_start = time.perf_counter()
        model.train()
        order = draw_epoch(labels, steps * args.batch_size, args.blank_share, generator).split(args.batch_size)
        done, total = 0, torch.zeros(())  # steps of this epoch, and their losses
        if begun:
            done, total = begun["step"], begun["total"]
            generator.set_state(begun["generator"])
            begun = None
        progress = tqdm(order[done:], f"epoch {epoch}/{args.epochs}", steps, disable=rank > 0, initial=done)
        for step, batch in enumerate(progress, done + 1):
            affine, blurred = draw_augmentation(args.batch_size, generator, **args.augmentation)
            chosen = batch[share]
            x = augment(normalize(pixels[chosen]), affine[share], blurred[share])
            total += learner.step(x, labels[chosen], args.batch_size, args.label_smoothing, args.bf16)
            if signals.seen and world == 1 and step < steps:  # torchrun's processes stop at different steps
                save_state({"step": step, "total": total, "generator": generator.get_state()})
                progress.close()
                signals.leave(f"in epoch {epoch} of {args.epochs}", state_file)
        train_seconds = time.perf_counter() - epoch_start
        if world > 1:
            dist.all_reduce(total)
        record = {
            "epoch": epoch,
            "train_loss": total.item() / steps,
            "val": evaluate(learner.averaged.module, val_cells, args.label_smoothing),
            "images": (steps - done) * args.batch_size,
            "train_seconds": round(train_seconds, 3),
        }
        if not np.isfinite([record["train_loss"], record["val"]["loss"]]).all():
            kept = "nothing was saved"
            if history and rank == 0:
                path = state_file.with_name(f"{args.model}_stopped.pth")
                save_weights(best_state, path)
                kept = f"the best epoch's weights, {best_epoch(history)['epoch']}, are in {path}"
            raise UserError(f"the loss is not finite in epoch {epoch}: {kept}; try a lower --lr")

        record["seconds"] = round(time.perf_counter() - start, 2)
        history.append(record)
        print(f"val acc: {accuracy(record):.4f}")
        print(f"  {describe_scores(record['val'])}")
        if best_epoch(history) is record:
            best_state = learner.averaged_weights()
        if rank == 0:
            save_state()
        if signals.seen:
            signals.leave(f"after epoch {epoch} of {args.epochs}", state_file)
    signals.restore()
    return best_state, history


def accuracy(record: dict) -> float:
    """The part of all validation cells that is right."""
    return 1 - record["val"]["wrong_cells"] / record["val"]["cells"]


def best_epoch(history: list[dict]) -> dict:
    """The record with the fewest wrong validation cells, then the lowest validation loss: clients need confidence."""
    return min(history, key=lambda record: (record["val"]["wrong_cells"], record["val"]["loss"]))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="folder to write to")
    parser.add_argument("--model", choices=NETWORKS, default="digitnet", help="the network")
    for option, kind, what in [
        ("--epochs", positive_int, "passes over as many cells as are"),
        ("--batch-size", positive_int, "cells a step"),
        ("--lr", positive_float, "highest learning rate of the OneCycle schedule"),
        ("--label-smoothing", fraction, "part of the target's probability that is spread over all classes"),
        ("--blank-share", fraction, "part of the cells shown that are blank"),
    ]:
        name = option[2:].replace("-", "_")
        defaults = ", ".join(f"{getattr(recipe, name)} for {model}" for model, recipe in RECIPES.items())
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar="N", help=f"{what} ({defaults})")
    parser.add_argument("--seed", type=natural_int, default=0, help="of weights, order and augmentation")
    cores = max(1, available_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # torchrun's
    parser.add_argument(
        "--threads", type=positive_int, default=min(cores, MOST_THREADS), metavar="N", help="CPU threads a process"
    )
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: faster where the CPU computes in it")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train-only", action="store_true", help="stop when the weights are saved")
    only.add_argument("--export-only", action="store_true", help="export the saved weights, train nothing")
    args = parser.parse_args()
    if args.threads > 1024:
        parser.error(f"--threads: {args.threads} threads are more than any machine has, 1024 at most")
    args = argparse.Namespace(**RECIPES[args.model]._asdict() | vars(args))
    torch.set_num_threads(args.threads)
    weights, onnx_file = args.out / f"{args.model}_best.pth", args.out / "sudoku_digitnet.onnx"

    if not args.export_only:
        keep_freed_memory()
        if dist.is_torchelastic_launched():
            join_processes(args.batch_size)
        train_cells = load_cells(args.data / "train")
        val_cells = load_cells(args.data / "val")
        print(
            "Train batch shape:", torch.Size([min(args.batch_size, len(train_cells.labels)), 1, CELL_SIZE, CELL_SIZE])
        )
        data = {"train_sha256": digest(train_cells), "val_sha256": digest(val_cells)}
        if dist.is_initialized():
            check_same_cells(data)
        if args.batch_size > (most := max(1024, len(train_cells.labels))):
            raise UserError(f"--batch-size {args.batch_size} is more than there are cells: {most} at most")
        if shared := shared_pages(train_cells, val_cells):
            raise UserError(
                f"{args.data / 'val'} shares {len(shared)} pages with {args.data / 'train'}, {', '.join(shared[:3])}"
                f"{', …' if len(shared) > 3 else ''}: its score would say nothing; remove them from one of the two"
            )
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        matters = {name: settings[name] for name in settings.keys() - {"data", "out", "train_only", "export_only"}}
        run = fingerprint(matters | {"processes": processes()[1]}, data)
        state_file = args.out / f".{args.model}_state.pth"
        best_state, history = train(args, train_cells, val_cells, run, state_file)
        if processes()[0]:
            return  # the first process saves
        best = best_epoch(history)
        print(f"Best val acc: {accuracy(best):.4f}")
        print(f"  epoch {best['epoch']}: {describe_scores(best['val'])}")
        report = {"settings": settings, "best_epoch": best["epoch"], "data": data, "epochs": history}
        write_json(args.out / "training.json", report | {"run": describe_run()})
        save_weights(best_state, weights)  # last: for make, the weights stand for both
        state_file.unlink(missing_ok=True)
        print(f"Saved: {weights}")
    if args.train_only:
        return

    model = load_model(weights)
    export(model, onnx_file)
    # The tutorial's quick look, on a batch that was not traced; 04_Parity.py is the check.
    x = torch.randn(512, 1, CELL_SIZE, CELL_SIZE, generator=torch.Generator().manual_seed(args.seed))
    with torch.inference_mode():
        difference = run_logits(open_session(onnx_file), x.numpy()) - model(x).numpy()
    print("Parity MAE:", np.abs(difference).mean())


def run_main() -> None:
    """main(); under torchrun, nothing of Python's own end after it."""
    main()
    exit_at_once()


if __name__ == "__main__":
    run_script(run_main)
