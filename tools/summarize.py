#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print and write the summary of a run: one line from each JSON report, and the paths of its files.

Exits with 1 if a report is not about this ONNX file, or has no verdict that it passed.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from digitnet_cli import UserError, argument_parser, remake, run_script, sha256, start_script, write_file


def parse_args() -> argparse.Namespace:
    """Read the command line; only --out is written."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("parity", type=Path, metavar="PARITY", help="parity.json, of 04_Parity.py")
    add("evaluation", type=Path, metavar="EVALUATION", help="evaluation.json, of 05_Evaluate.py")
    add("--weights", type=Path, required=True, metavar="FILE", help="the weights, to name them")
    add("--onnx", type=Path, required=True, metavar="FILE", help="the file that both reports must be about")
    add("--out", type=Path, required=True, metavar="FILE", help="text file to write")
    return parser.parse_args()


def summary_of(report: Path, onnx: Path, key: str, script: str) -> str:
    """Return a report's `summary`. Raises UserError if it is not about `onnx`, or its `key` is missing or false."""
    try:
        content = json.loads(report.read_bytes())
        ours = content["summary"].strip() and content[key] and sha256(onnx) in content["sha256"].values()
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        ours = False
    if not ours:
        raise UserError(f"{report} has no verdict on {onnx}: {remake(report, [report.name], '', script)}")
    return content["summary"]


def main(args: argparse.Namespace) -> None:
    """Print the summary and write it to args.out."""
    onnx, out = shlex.quote(str(args.onnx)), shlex.quote(str(args.evaluation.parent))
    lines = [
        summary_of(args.parity, args.onnx, "passed", f"04_Parity.py --onnx {onnx}"),
        summary_of(args.evaluation, args.onnx, "sets", f"05_Evaluate.py --onnx {onnx} --out {out}"),
    ]
    text = "\n".join([*lines, f"files: {args.weights}   {args.onnx}"]) + "\n"
    write_file(args.out, lambda name: Path(name).write_text(text, encoding="utf-8"))
    print(text, end="")


if __name__ == "__main__":
    start_script()
    run_script(main, parse_args())
