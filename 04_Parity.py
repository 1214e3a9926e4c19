#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that the ONNX file is the same model as the PyTorch weights: exit code 0 if so, 1 and every reason if not.

Contract: onnx.checker with full shape inference, opset, IR version, one file, names, types, the batch as the only
free dimension, finite weights, and every weight bit for bit that of the state_dict.
Answers: noise in batches of several sizes, inputs at the ends of the range, all validation cells, and cells of drawn
newspaper photos, in fonts that training never sees.
PyTorch in float64 is the reference, so that a mismatch can be attributed to one stage: PyTorch's float32, the
exported graph (ONNX Runtime with its optimizer off), or ONNX Runtime's optimizer (the graph as shipped).
Collects every failure and prints one per line. Writes parity.json, its summary as parity.txt and, with
--write-golden, golden vectors.

On another machine, with numpy and onnxruntime alone (requirements-inference.txt), copy both files there and run
  python3 04_Parity.py --onnx sudoku_digitnet.onnx --golden golden.npz
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.realpath(__file__)))  # PYTHONSAFEPATH leaves it out
from digitnet_cli import UserError, argument_parser, keep_inputs, positive_float, run_script

# isort: split
import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import digitnet_parity as parity
from digitnet_data import normalize
from digitnet_machine import sha256, write_file, write_json
from digitnet_onnx import load_model, open_session
from digitnet_parity import Limits, Reference
from digitnet_scores import describe_run

if TYPE_CHECKING:
    import torch

# --- settings: those of the command line stand in parse_args -----------------------------------
GOLDEN_CELLS_PER_CLASS = 20  # from each set of cells, which keeps the golden file far below 1 MB


def parse_args() -> argparse.Namespace:
    """Read the command line; --golden excludes --write-golden."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--weights", type=Path, default=Path("artifacts/digitnet_best.pth"), metavar="FILE", help="the state_dict")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/")
    add("--max-mae", type=positive_float, default=1e-4, help="largest mean absolute difference of logits allowed")
    add("--max-abs", type=positive_float, default=1e-3, help="largest absolute difference of logits allowed")
    add("--golden", type=Path, metavar="FILE", help="compare with these golden vectors: needs no weights, data, torch")
    add("--write-golden", type=Path, metavar="FILE", help="write golden vectors there once parity has passed")
    add("--report", type=Path, metavar="FILE", help="JSON report (parity.json or golden.json beside --onnx)")
    args = parser.parse_args()
    if args.golden and args.write_golden:
        parser.error("--golden checks and --write-golden writes: give one of them")
    return args


def exported_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the arrays that the exported file must hold, by name."""
    from digitnet_model import fold_batchnorm

    return {name: value.numpy() for name, value in fold_batchnorm(model).state_dict().items()}


def choose_golden(references: list[Reference]) -> tuple[np.ndarray, np.ndarray]:
    """Choose golden vectors: inputs, float32 [N, 1, 28, 28], and PyTorch's logits, float32 [N, 10].

    Takes some cells of every class from each set, and little noise, because noise does not compress.
    """
    inputs, logits = [], []
    for reference in (reference for reference in references if reference.cells or len(reference.inputs) < 50):
        labels = reference.cells.labels if reference.cells else np.zeros(len(reference.inputs))
        most = GOLDEN_CELLS_PER_CLASS if reference.cells else len(labels)
        for of_class in (np.flatnonzero(labels == label) for label in np.unique(labels)):
            chosen = of_class[np.linspace(0, len(of_class) - 1, min(most, len(of_class)), dtype=int)]
            inputs.append(normalize(reference.inputs[chosen]) if reference.cells else reference.inputs[chosen])
            logits.append(reference.logits[chosen])
    return np.concatenate(inputs), np.concatenate(logits)


def write_golden(path: Path, inputs: np.ndarray, logits: np.ndarray, onnx_file: Path, versions: dict) -> None:
    """Write the golden vectors for `onnx_file`, whole or not at all."""
    made_from, made_with = np.array(sha256(onnx_file)), np.array(json.dumps(versions))
    content = io.BytesIO()  # to a name without .npz, numpy would add it
    np.savez_compressed(content, inputs=inputs, logits=logits, onnx_sha256=made_from, versions=made_with)
    write_file(path, content.getvalue())


def check_on_any_machine(args: argparse.Namespace, limits: Limits) -> tuple[list[str], dict]:
    """Check the ONNX file against golden vectors; return every failure, and the report."""
    sessions = {"as shipped": open_session(args.onnx), "optimizer off": open_session(args.onnx, optimize=False)}
    failures, report = parity.check_golden(args.golden, args.onnx, sessions, limits)
    for place, result in report["measured"].items():
        print(f"{place:24} MAE {result['mae']:.1e}, largest {result['max_abs']:.1e}")
    return failures, report


def check_beside_pytorch(args: argparse.Namespace, limits: Limits) -> tuple[list[str], dict]:
    """Check the ONNX file against the weights, and write golden vectors if asked; return failures and report."""
    import torch

    from digitnet_boards import load_split

    torch.set_num_threads(1)  # compute_reference runs batches side by side instead
    model = load_model(args.weights)
    sets = {"validation cells": load_split(args.data, "val"), **parity.newspaper_cells()}
    references = parity.make_references(model, sets)
    weights = exported_weights(model)
    failures, measured = parity.check(args.onnx, weights, references, limits)
    for name in (name for name in sets if name in measured):
        wrong = {side: measured[name][side]["wrong_cells"] for side in ("pytorch", "onnx")}
        cells = measured[name]["cells"]
        print(f"{name}: {wrong['pytorch']} of {cells:,} wrong in PyTorch, {wrong['onnx']} in ONNX Runtime")

    if args.write_golden and not failures:
        inputs, logits = choose_golden(references)
        write_golden(args.write_golden, inputs, logits, args.onnx, describe_run())
        print(f"golden vectors: {len(inputs)} in {args.write_golden}")
    report = {"measured": measured, "weights": sum(value.size for value in weights.values())}
    return failures, report | {"sha256": {str(args.weights): sha256(args.weights)}}


def summarize(failures: list[str], measured: dict[str, dict]) -> str:
    """Return the verdict as one line."""
    if not measured:
        return "parity failed: nothing could be measured"
    mae, largest = (max(result[name] for result in measured.values()) for name in ("mae", "max_abs"))
    counts: dict[str, int] = {}
    for name, result in measured.items():
        if "smallest_margin" in result:  # a set of cells
            kind = name.partition(" cells")[0]
            counts[kind] = counts.get(kind, 0) + result["cells"]
    over = ", ".join(f"{count:,} {kind} cells" for kind, count in counts.items()) or f"{len(measured)} configurations"
    line = f"parity {'failed' if failures else 'passed'}: largest MAE {mae:.1e}, difference {largest:.1e} over {over}"
    if counts:
        margin = min(result["smallest_margin"] for result in measured.values() if "smallest_margin" in result)
        line += f"; smallest margin of a best logit {margin:.1e}"
    return line


def main(args: argparse.Namespace) -> None:
    """Check, write the report, print the verdict. Raises UserError with every failure."""
    verdict = args.report or args.onnx.with_name("golden.json" if args.golden else "parity.json")
    written = verdict, verdict.with_suffix(".txt")
    keep_inputs([*written, args.write_golden], [args.onnx, args.weights, args.golden])
    for old in written:
        old.unlink(missing_ok=True)  # an earlier verdict must not remain if this check fails to run
    limits = Limits(args.max_mae, args.max_abs)
    failures, report = (check_on_any_machine if args.golden else check_beside_pytorch)(args, limits)
    summary = summarize(failures, report["measured"])
    content = {"summary": summary, "passed": not failures, "failures": failures, "limits": limits._asdict(), **report}
    content["sha256"] = {str(args.onnx): sha256(args.onnx), **content.get("sha256", {})}
    content["run"] = describe_run() | {"fast_math": parity.fast_math()}
    write_json(verdict, content)
    write_file(verdict.with_suffix(".txt"), f"{summary}\n".encode())
    if failures:
        expected = args.golden or args.weights
        raise UserError(f"{args.onnx} is not the model of {expected}:\n  " + "\n  ".join(failures))
    print(summary)


if __name__ == "__main__":
    run_script(main, parse_args())
