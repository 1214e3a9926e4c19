#!/usr/bin/env python3
"""Is the ONNX file the same model as the PyTorch weights? Exit code 0 if it is, 1 and the reasons if not.

Checks, in this order: the file's contract (checker, opset, IR version, one file, names, types, the batch as
the only free dimension), random batches of several sizes, then every validation cell: the logits' mean and
largest absolute difference, the same class everywhere, and the same accuracy on both sides.
All failures are collected, then told, one a line. Writes artifacts/parity.json.
"""

from pathlib import Path

import numpy as np
import torch

from digitnet_cli import (
    UserError,
    argument_parser,
    describe_run,
    positive_float,
    run_script,
    sha256,
    write_json,
)
from digitnet_data import CELL_SIZE, load_cells, normalize, score
from digitnet_model import load_model
from digitnet_onnx import MAX_BATCH, contract_failures, open_session, run_logits

# Settings. Those of the command line stand in main().
RANDOM_BATCHES = (1, 2, 3, 81, 512)  # cells; 81 is a board
SEED = 0  # of the random batches


def compare(model: torch.nn.Module, session, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of PyTorch and of ONNX Runtime, both [N, 10], for float32 [N, 1, 28, 28].

    Raises ValueError if the shapes differ.
    """
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    logits = run_logits(session, inputs)
    if logits.shape != expected.shape:
        raise ValueError(f"logits have shape {logits.shape}, not {expected.shape}")
    return expected, logits


def measure(expected: np.ndarray, logits: np.ndarray) -> dict:
    """How far two sets of logits are apart."""
    difference = np.abs(expected.astype(np.float64) - logits)
    return {
        "cells": len(logits),
        "mae": float(difference.mean()),
        "max_abs": float(difference.max()),
        "different_class": int((expected.argmax(1) != logits.argmax(1)).sum()),
    }


def main() -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--weights", type=Path, default=Path("artifacts/digitnet_best.pth"), metavar="FILE", help="the state_dict")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/")
    add("--max-mae", type=positive_float, default=1e-4, help="largest mean absolute difference of logits allowed")
    add("--report", type=Path, metavar="FILE", help="JSON report; parity.json beside the ONNX file if not given")
    args = parser.parse_args()
    report_file = args.report or args.onnx.with_name("parity.json")

    model, cells = load_model(args.weights), load_cells(args.data / "val")
    failures = contract_failures(args.onnx) if args.onnx.is_file() else []
    try:
        session = open_session(args.onnx)
    except UserError as error:
        raise UserError("; ".join([str(error), *failures])) from None
    print(f"contract: {'broken' if failures else 'kept'}")

    rng = np.random.default_rng(SEED)
    inputs = {
        f"random batch of {n}": rng.standard_normal((n, 1, CELL_SIZE, CELL_SIZE), np.float32) for n in RANDOM_BATCHES
    }
    inputs["validation cells"] = normalize(cells.pixels[:, None])
    measured, sides = {}, {}
    for name, batch in inputs.items():
        try:
            parts = [compare(model, session, batch[i : i + MAX_BATCH]) for i in range(0, len(batch), MAX_BATCH)]
        except Exception as error:  # onnxruntime's errors have no common base class
            failures.append(f"{name}: {' '.join(str(error).split())[:200]}")
            continue
        expected, logits = (np.concatenate(side) for side in zip(*parts, strict=True))
        result = measured[name] = measure(expected, logits)
        print(f"{name}: MAE {result['mae']:.2e}, max {result['max_abs']:.2e}, other class {result['different_class']}")
        if not result["mae"] <= args.max_mae:  # not a number fails, too
            failures.append(f"{name}: MAE {result['mae']:.2e} is above {args.max_mae:g}")
        if name == "validation cells":
            sides = {"pytorch": score(cells, expected.argmax(1)), "onnx": score(cells, logits.argmax(1))}
            if result["different_class"]:
                failures.append(f"{name}: {result['different_class']} get another class")
            wrong = {side: scores["wrong_cells"] for side, scores in sides.items()}
            if wrong["pytorch"] != wrong["onnx"]:
                failures.append(f"{name}: {wrong['pytorch']} wrong in PyTorch, {wrong['onnx']} in ONNX Runtime")
            for side, count in wrong.items():
                print(f"{side} val acc: {1 - count / len(batch):.4f}, {count} of {len(batch):,} cells wrong")

    mae = max((result["mae"] for result in measured.values()), default=float("nan"))
    verdict = "failed" if failures else "passed"
    summary = f"parity {verdict}: largest MAE {mae:.1e} over {len(cells.labels):,} validation cells and random batches"
    write_json(
        report_file,
        {
            "summary": summary,
            "passed": not failures,
            "failures": failures,
            "max_mae": args.max_mae,
            "measured": measured,
            "accuracy": sides,
            "sha256": {str(path): sha256(path) for path in (args.onnx, args.weights)},
            "run": describe_run(),
        },
    )
    if failures:
        raise UserError(f"{args.onnx} is not the model of {args.weights}:\n  " + "\n  ".join(failures))
    print(summary)
    return 0


if __name__ == "__main__":
    run_script(main)
