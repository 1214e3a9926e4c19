#!/usr/bin/env python3
"""Is the ONNX file the same model as the PyTorch weights? Exit code 0 if it is, 1 and every reason if not.

Contract: onnx.checker with full shape inference, opset, IR version, one file, names, types, the batch as the only
free dimension, finite weights, and every weight bit for bit that of the state_dict.
Answers: noise in batches of several sizes, inputs at the ends, all validation cells, all cells of real photos.
PyTorch in float64 is the judge, so that a difference is laid at the right door: PyTorch's float32, the exported
graph (ONNX Runtime with its optimiser off), or ONNX Runtime's optimiser (the graph as it ships).
All failures are collected, then told, one a line. Writes parity.json and, if asked, golden vectors.

On another machine, with numpy and onnxruntime alone (requirements-inference.txt), copy both files there and run
  python3 04_Parity.py --onnx sudoku_digitnet.onnx --golden golden.npz
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from digitnet_cli import (
    UserError,
    argument_parser,
    cpu_flags,
    describe_run,
    keep_freed_memory,
    positive_float,
    run_script,
    sha256,
    write_json,
)
from digitnet_data import (
    BLANK_BELOW,
    REAL_BOARDS,
    REAL_CUTS,
    load_boards,
    load_cells,
)
from digitnet_golden import Limits, check_golden, difference, write_golden
from digitnet_onnx import contract_failures, in_short, open_session, run_logits, softmax
from digitnet_scores import score

import numpy as np

if TYPE_CHECKING:
    from digitnet_reference import Reference

    from onnxruntime import InferenceSession

# Settings. Those of the command line stand in main().
# A porter's environment may switch PyTorch's float32 to bfloat16, which breaks parity by design.
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def fast_math() -> dict[str, str]:
    """The variables of FAST_MATH that are set, with their values."""
    return {name: os.environ[name] for name in FAST_MATH if name in os.environ}


def count_changes(reference: Reference, logits: np.ndarray, rounding: float) -> dict:
    """How many cells get another class in `logits` than from PyTorch, and how many are read otherwise by clients.

    A cell counts only if float64 is surer of it than `rounding`, the largest difference of two logits: a tie in
    the last bits may fall either way in any two float32 programs.
    """
    second, best = np.sort(reference.judge, axis=1)[:, -2:].T
    sure = best - second > 2 * rounding
    confident = np.abs(softmax(reference.judge).max(1) - BLANK_BELOW) > rounding
    classes = [side.argmax(1) for side in (reference.logits, logits)]
    blanks = [softmax(side).max(1) < BLANK_BELOW for side in (reference.logits, logits)]
    return {
        "smallest_margin": float((best - second).min()),
        "different_class": int((np.not_equal(*classes) & sure).sum()),
        "different_blank": int((np.not_equal(*blanks) & confident).sum()),
    }


def compare(
    reference: Reference, plain: InferenceSession, shipped: InferenceSession, limits: Limits
) -> tuple[list[str], dict]:
    """ONNX Runtime without and with its optimiser against PyTorch: every failure in a line, and what was measured."""
    try:
        unoptimised, logits = (run_logits(session, reference.inputs, reference.batch) for session in (plain, shipped))
        result = {"cells": len(reference.inputs), **difference(reference.logits, logits)}
        errors = {
            "PyTorch": difference(reference.judge, reference.logits),
            "exported graph": difference(reference.judge, unoptimised),
            "as optimised": difference(reference.judge, logits),
        }
    except Exception as error:  # onnxruntime's errors have no common base class
        return [f"{reference.name}: {in_short(error)}"], {}

    failures = []
    blame = {name: limits.failures(error) for name, error in errors.items()}
    if blame["PyTorch"]:
        modes = [f"{name}={value}" for name, value in fast_math().items()]
        cause = f"{' and '.join(modes)} is set: unset it" if modes else f"none of {', '.join(FAST_MATH)} is set"
        failures.append(f"PyTorch's own float32 is off from float64: {blame['PyTorch']} ({cause})")
    if blame["exported graph"]:
        failures.append(f"the exported graph is off from float64 PyTorch: {blame['exported graph']}")
    elif blame["as optimised"]:
        failures.append(f"ONNX Runtime's graph optimiser takes it off from float64 PyTorch: {blame['as optimised']}")
    if not failures and (told := limits.failures(result)):
        failures.append(f"rounding in PyTorch and ONNX Runtime adds up: {told}")

    if reference.cells:
        result |= count_changes(reference, logits, result["max_abs"])
        if result["different_class"]:
            failures.append(f"{result['different_class']} of {len(logits):,} get another class")
        if result["different_blank"]:
            failures.append(f"{result['different_blank']} of {len(logits):,} change sides of {BLANK_BELOW}")
        for side, answers in (("pytorch", reference.logits), ("onnx", logits)):
            result[side] = score(reference.cells, answers.argmax(1))
    result["max_error_to_float64"] = {name: error["max_abs"] for name, error in errors.items()}
    return [f"{reference.name}: {failure}" for failure in failures], result


def check(
    onnx_file: Path, weights: dict[str, np.ndarray], references: list[Reference], limits: Limits, told=print
) -> tuple[list[str], dict[str, dict]]:
    """All of parity: every failure in a line, and the measurements by set; `told` gets each line for people.

    Raises UserError, with all that was found, if ONNX Runtime cannot load the file.
    """
    failures = contract_failures(onnx_file, weights) if onnx_file.is_file() else []
    try:
        plain, shipped = open_session(onnx_file, optimise=False), open_session(onnx_file)
    except UserError as error:
        raise UserError("; ".join([str(error), *failures])) from None
    count = sum(value.size for value in weights.values())
    told(f"contract and {count:,} weights: {'broken' if failures else 'kept'}")
    told(f"{'':21} {'':7} PyTorch - ONNX Runtime  other  smallest  largest error to float64 of")
    told(f"{'inputs':21} {'cells':>7}    MAE   largest    class    margin  PyTorch   graph   optimised")
    measured = {}
    for reference in references:
        found, result = compare(reference, plain, shipped, limits)
        failures += found
        if result:
            measured[reference.name] = result
            margin = f"{result['smallest_margin']:.1e}" if reference.cells else "-"
            errors = "  ".join(f"{error:.1e}" for error in result["max_error_to_float64"].values())
            told(
                f"{reference.name:21} {result['cells']:7,}  {result['mae']:.1e}  {result['max_abs']:.1e} "
                f"{result.get('different_class', '-'):>7} {margin:>9}  {errors}"
            )
    return failures, measured


def check_on_any_machine(args: argparse.Namespace, limits: Limits) -> tuple[list[str], dict]:
    """The ONNX file against golden vectors: every failure in a line, and the report."""
    sessions = {"as it ships": open_session(args.onnx), "optimiser off": open_session(args.onnx, optimise=False)}
    failures, report = check_golden(args.golden, args.onnx, sessions, limits)
    for place, result in report["measured"].items():
        print(f"{place:24} MAE {result['mae']:.1e}, largest {result['max_abs']:.1e}")
    return failures, report


def check_beside_pytorch(args: argparse.Namespace, limits: Limits) -> tuple[list[str], dict]:
    """The ONNX file against the weights: every failure in a line, and the report; writes golden vectors if asked."""
    from digitnet_model import load_model
    from digitnet_reference import choose_golden, exported_weights, make_references

    import torch

    torch.set_num_threads(1)  # for so small a network more cost more than they give
    model = load_model(args.weights)
    sets = {"validation cells": load_cells(args.data / "val")}
    if (args.real / "labels.csv").is_file():
        sets |= {f"real cells cut {100 * cut:.0f} %": load_boards(args.real, cut) for cut in REAL_CUTS}
    else:
        print(f"no photos in {args.real}: passed over")
    references = make_references(model, sets)
    weights = exported_weights(model)
    failures, measured = check(args.onnx, weights, references, limits, print)
    for name in (name for name in sets if name in measured):
        wrong = {side: measured[name][side]["wrong_cells"] for side in ("pytorch", "onnx")}
        print(
            "{}: {pytorch} of {:,} wrong in PyTorch, {onnx} in ONNX Runtime".format(
                name, len(sets[name].labels), **wrong
            )
        )

    if args.write_golden and not failures:
        inputs, logits = choose_golden(references)
        write_golden(args.write_golden, inputs, logits, args.onnx, describe_run())
        print(f"golden vectors: {len(inputs)} in {args.write_golden}")
    report = {"measured": measured, "weights": sum(value.size for value in weights.values())}
    return failures, report | {"sha256": {str(args.weights): sha256(args.weights)}}


def summarise(failures: list[str], measured: dict[str, dict]) -> str:
    """The verdict in one line."""
    if not measured:
        return "parity failed: nothing could be measured"
    mae, largest = (max(result[name] for result in measured.values()) for name in ("mae", "max_abs"))
    margins = {name: result["smallest_margin"] for name, result in measured.items() if "smallest_margin" in result}
    kinds = dict.fromkeys(name.partition(" cells")[0] for name in margins)
    counts = {kind: sum(measured[name]["cells"] for name in margins if name.startswith(kind)) for kind in kinds}
    over = ", ".join(f"{count:,} {kind} cells" for kind, count in counts.items()) or f"{len(measured)} ways of running"
    line = f"parity {'failed' if failures else 'passed'}: largest MAE {mae:.1e}, difference {largest:.1e} over {over}"
    if margins:
        line += f"; smallest margin of a best logit {min(margins.values()):.1e}"
    return line


def main() -> None:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--weights", type=Path, default=Path("artifacts/digitnet_best.pth"), metavar="FILE", help="the state_dict")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/")
    add("--real", type=Path, default=REAL_BOARDS, metavar="DIR", help="photos: boards/*.jpg and labels.csv")
    add("--max-mae", type=positive_float, default=1e-4, help="largest mean absolute difference of logits allowed")
    add("--max-abs", type=positive_float, default=1e-3, help="largest absolute difference of logits allowed")
    add("--golden", type=Path, metavar="FILE", help="compare with these golden vectors: needs no weights, data, torch")
    add("--write-golden", type=Path, metavar="FILE", help="write golden vectors there once parity has passed")
    add("--report", type=Path, metavar="FILE", help="JSON report; parity.json beside the ONNX file if not given")
    args = parser.parse_args()
    if args.golden and args.write_golden:
        parser.error("--golden checks and --write-golden writes: give one of them")

    verdict = args.report or args.onnx.with_name("parity.json")
    verdict.unlink(missing_ok=True)  # that of an earlier check must not outlast one that cannot be carried out
    if args.real != parser.get_default("real") and not args.real.is_dir():
        raise UserError(f"no photos in {args.real}: --real (make REAL=) names a folder with boards/ and labels.csv")

    keep_freed_memory()
    limits = Limits(args.max_mae, args.max_abs)
    failures, report = (check_on_any_machine if args.golden else check_beside_pytorch)(args, limits)
    summary = summarise(failures, report["measured"])
    content = {"summary": summary, "passed": not failures, "failures": failures, "limits": limits._asdict(), **report}
    content["sha256"] = {str(args.onnx): sha256(args.onnx), **content.get("sha256", {})}
    content["run"] = describe_run() | {"cpu_flags": cpu_flags(), "fast_math": fast_math()}
    write_json(verdict, content)
    if failures:
        judge = args.golden or args.weights
        raise UserError(f"{args.onnx} is not the model of {judge}:\n  " + "\n  ".join(failures))
    print(summary)


if __name__ == "__main__":
    run_script(main)
