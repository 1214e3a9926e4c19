#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that the ONNX file is the same model as the PyTorch weights: exit code 0 if so, 1 and every reason if not.

Contract: onnx.checker with full shape inference, opset, IR version, one file, names, types, the batch as the only
free dimension, finite weights, and every weight bit for bit that of the state_dict.
Answers: noise in batches of several sizes, inputs at the ends of the range, all validation cells, and cells of drawn
newspaper photos, in fonts that training never sees.
PyTorch in float64 is the reference, so that a mismatch can be attributed to one stage: PyTorch's float32, the
exported graph (ONNX Runtime with its optimizer off), or ONNX Runtime's optimizer (the graph as shipped).
Collects every failure and prints one per line. Writes parity.json and, with --write-golden, golden vectors.

On another machine, with numpy and onnxruntime alone (requirements-inference.txt), copy both files there and run
  python3 04_Parity.py --onnx sudoku_digitnet.onnx --golden golden.npz
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH leaves it out
from digitnet_cli import argument_parser, positive_float, start_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxruntime import InferenceSession

# --- settings: those of the command line stand in parse_args -----------------------------------
# oneDNN's two names for a mode in which PyTorch computes float32 in bfloat16, which breaks parity by design.
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


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
    add("--report", type=Path, metavar="FILE", help="JSON report; parity.json beside the ONNX file if not given")
    args = parser.parse_args()
    if args.golden and args.write_golden:
        parser.error("--golden checks and --write-golden writes: give one of them")
    return args


if __name__ == "__main__":
    start_script()
    ARGS = parse_args()  # before any package is imported: --help and a wrong option answer at once

import numpy as np

import digitnet_parity as parity
from digitnet_cli import UserError, cpu_flags, describe_run, keep_freed_memory, run_script, sha256, write_json
from digitnet_data import CONFIDENCE_THRESHOLD, load_cells
from digitnet_onnx import contract_failures, first_line, load_model, open_session, run_logits, softmax
from digitnet_parity import Limits, Reference, logit_difference
from digitnet_scores import score


def fast_math() -> dict[str, str]:
    """Return the variables of FAST_MATH that are set, with their values."""
    return {name: os.environ[name] for name in FAST_MATH if name in os.environ}


def count_changes(reference: Reference, logits: np.ndarray, rounding: float) -> dict:
    """Count argmax changes and threshold crossings between PyTorch and `logits`, ignoring ties within `rounding`.

    `rounding` is the largest difference of two logits: any two float32 programs may break such ties differently.
    """
    second, best = np.sort(reference.float64_logits, axis=1)[:, -2:].T
    sure = best - second > 2 * rounding
    confident = np.abs(softmax(reference.float64_logits).max(1) - CONFIDENCE_THRESHOLD) > rounding
    classes = [side.argmax(1) for side in (reference.logits, logits)]
    blanks = [softmax(side).max(1) < CONFIDENCE_THRESHOLD for side in (reference.logits, logits)]
    return {
        "smallest_margin": float((best - second).min()),
        "different_class": int((np.not_equal(*classes) & sure).sum()),
        "different_blank": int((np.not_equal(*blanks) & confident).sum()),
    }


def attribute(errors: dict[str, dict], result: dict, limits: Limits) -> list[str]:
    """Return a line for each stage whose logits exceed the limits; `errors` are the stages' differences to float64."""
    failures = []
    exceeded = {stage: limits.failures(error) for stage, error in errors.items()}
    if exceeded["PyTorch"]:
        modes = [f"{name}={value}" for name, value in fast_math().items()]
        cause = f"{' and '.join(modes)} is set: unset it" if modes else f"none of {', '.join(FAST_MATH)} is set"
        failures.append(f"PyTorch's own float32 differs from float64: {exceeded['PyTorch']} ({cause})")
    if exceeded["exported graph"]:
        failures.append(f"the exported graph differs from float64 PyTorch: {exceeded['exported graph']}")
    elif exceeded["optimized"]:
        failures.append(
            f"the result of ONNX Runtime's graph optimizer differs from float64 PyTorch: {exceeded['optimized']}"
        )
    if not failures and (total := limits.failures(result)):
        failures.append(f"rounding in PyTorch and ONNX Runtime adds up: {total}")
    return failures


def compare(
    reference: Reference, unoptimized: InferenceSession, optimized: InferenceSession, limits: Limits
) -> tuple[list[str], dict]:
    """Compare ONNX Runtime, without and with its optimizer, with PyTorch; return failures and measurements."""
    try:
        graph_logits = run_logits(unoptimized, reference.inputs, reference.batch)
        logits = run_logits(optimized, reference.inputs, reference.batch)
        result: dict = {"cells": len(reference.inputs), **logit_difference(reference.logits, logits)}
        errors = {
            "PyTorch": logit_difference(reference.float64_logits, reference.logits),
            "exported graph": logit_difference(reference.float64_logits, graph_logits),
            "optimized": logit_difference(reference.float64_logits, logits),
        }
    except Exception as error:  # onnxruntime's errors have no common base class
        return [f"{reference.name}: {first_line(error)}"], {}

    failures = attribute(errors, result, limits)
    if reference.cells:
        result |= count_changes(reference, logits, result["max_abs"])
        if result["different_class"]:
            failures.append(f"{result['different_class']} of {len(logits):,} get another class")
        if result["different_blank"]:
            failures.append(f"{result['different_blank']} of {len(logits):,} change sides of {CONFIDENCE_THRESHOLD}")
        for side, answers in (("pytorch", reference.logits), ("onnx", logits)):
            result[side] = score(reference.cells, answers.argmax(1))
    result["max_error_to_float64"] = {stage: error["max_abs"] for stage, error in errors.items()}
    return [f"{reference.name}: {failure}" for failure in failures], result


def check(
    onnx_file: Path, weights: dict, references: list[Reference], limits: Limits, log: Callable[[str], None] = print
) -> tuple[list[str], dict[str, dict]]:
    """Check contract and answers; return every failure, and the measurements by set. `log` gets the table's lines.

    Raises UserError, with every failure found so far, if ONNX Runtime cannot load the file.
    """
    failures = contract_failures(onnx_file, weights) if onnx_file.is_file() else []
    try:
        unoptimized, optimized = open_session(onnx_file, optimize=False), open_session(onnx_file)
    except UserError as error:
        raise UserError("; ".join([str(error), *failures])) from None
    count = sum(value.size for value in weights.values())
    log(f"contract and {count:,} weights: {'broken' if failures else 'kept'}")
    log(f"{'':21} {'':7} PyTorch - ONNX Runtime  other  smallest  largest error to float64 of")
    log(f"{'inputs':21} {'cells':>7}    MAE   largest    class    margin  PyTorch   graph   optimized")
    measured = {}
    for reference in references:
        found, result = compare(reference, unoptimized, optimized, limits)
        failures += found
        if result:
            measured[reference.name] = result
            margin = f"{result['smallest_margin']:.1e}" if reference.cells else "-"
            errors = "  ".join(f"{error:.1e}" for error in result["max_error_to_float64"].values())
            log(
                f"{reference.name:21} {result['cells']:7,}  {result['mae']:.1e}  {result['max_abs']:.1e} "
                f"{result.get('different_class', '-'):>7} {margin:>9}  {errors}"
            )
    return failures, measured


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

    torch.set_num_threads(1)  # compute_reference runs batches side by side instead
    model = load_model(args.weights)
    sets = {"validation cells": load_cells(args.data / "val"), **parity.newspaper_cells()}
    references = parity.make_references(model, sets)
    weights = parity.exported_weights(model)
    failures, measured = check(args.onnx, weights, references, limits)
    for name in (name for name in sets if name in measured):
        wrong = {side: measured[name][side]["wrong_cells"] for side in ("pytorch", "onnx")}
        cells = measured[name]["cells"]
        print(f"{name}: {wrong['pytorch']} of {cells:,} wrong in PyTorch, {wrong['onnx']} in ONNX Runtime")

    if args.write_golden and not failures:
        inputs, logits = parity.choose_golden(references)
        parity.write_golden(args.write_golden, inputs, logits, args.onnx, describe_run())
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
    verdict = args.report or args.onnx.with_name("parity.json")
    verdict.unlink(missing_ok=True)  # an earlier verdict must not remain if this check fails to run
    keep_freed_memory()
    limits = Limits(args.max_mae, args.max_abs)
    failures, report = (check_on_any_machine if args.golden else check_beside_pytorch)(args, limits)
    summary = summarize(failures, report["measured"])
    content = {"summary": summary, "passed": not failures, "failures": failures, "limits": limits._asdict(), **report}
    content["sha256"] = {str(args.onnx): sha256(args.onnx), **content.get("sha256", {})}
    content["run"] = describe_run() | {"cpu_flags": cpu_flags(), "fast_math": fast_math()}
    write_json(verdict, content)
    if failures:
        expected = args.golden or args.weights
        raise UserError(f"{args.onnx} is not the model of {expected}:\n  " + "\n  ".join(failures))
    print(summary)


if __name__ == "__main__":
    run_script(main, ARGS)
