#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print and write the summary of a run: one line from each JSON report, and the paths of its files.

Exits with 1 if a report has no summary, as when its disk was full: a run without a verdict has not passed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from digitnet_cli import UserError, argument_parser, run_script, start_script, write_file


def parse_args() -> argparse.Namespace:
    """Read the command line; only --out is written."""
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT", help="parity.json, evaluation.json")
    parser.add_argument("--files", type=Path, nargs="*", default=[], metavar="FILE", help="files to print the paths of")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="text file to write")
    return parser.parse_args()


def summary_of(report: Path) -> str:
    """Return a report's `summary`. Raises UserError if it has none."""
    try:
        return str(json.loads(report.read_bytes())["summary"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{report} has no summary: remove it and run `make` again") from None


def main(args: argparse.Namespace) -> None:
    """Print the summary and write it to args.out."""
    text = "\n".join([*map(summary_of, args.reports), "files: " + "   ".join(map(str, args.files))]) + "\n"
    write_file(args.out, lambda name: Path(name).write_text(text, encoding="utf-8"))
    print(text, end="")


if __name__ == "__main__":
    start_script()
    run_script(main, parse_args())
