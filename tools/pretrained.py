#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copy the photo profile's ONNX file to pretrained/ and write its card, pretrained/README.md, from its reports.

Run it after `make PROFILE=photo`, in a clone without uncommitted changes; with REAL=FOLDER the card also has the
figures on real boards and photos.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from digitnet_cli import UserError, argument_parser, run_script, sha256, start_script, write_file

CARD = """# The photo profile's model

`sudoku_digitnet_photo.onnx` reads photos of Sudoku boards without any training: `make read PHOTO=FILE`.

| | |
|---|---|
| made by | `make PROFILE=photo`, seed {seed}, at commit {commit}, {date} |
| machine | {processor}, {cpus} cores |
| network | `DigitNetV2`, trained on drawn pages alone |
| input, output | `input` float32 [N, 1, 28, 28] in [-1, 1], `logits` float32 [N, 10] |
| SHA-256 | {sha256} |
| licence | Apache-2.0 |

Errors, as counted in `evaluation.json` (cells below 0.65 count as blank):

{table}

Limits: the model is trained for printed digits. Handwriting and pencil marks are often misread, as are very blurred or
curled pages. `06_ReadBoard.py` reports doubtful readings as *suspect*.

`make pretrained` renews both files.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line; args.evaluation stays None without --evaluation."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--artifacts", type=Path, default=ROOT / "artifacts/photo", metavar="DIR", help="the trained model's folder")
    add("--evaluation", type=Path, metavar="FILE", help="evaluation.json (that of --artifacts if not given)")
    add("--out", type=Path, default=ROOT / "pretrained", metavar="DIR", help="folder to write to")
    return parser.parse_args()


def table_of(evaluation: dict) -> str:
    """Return the counts of every set in Markdown."""
    from digitnet_scores import count_wrong  # it imports numpy, which --help does not need

    lines = ["| set | errors |", "|---|---|"]
    for name, entry in evaluation["sets"].items():
        lines.append(f"| {name} | {count_wrong(entry['thresholded'])} |")
    if photos := (evaluation.get("photos") or {}).get("all"):
        misread = f"{photos['photos'] - photos['right']} of {photos['photos']}"
        lines.append(
            f"| whole photos | {misread}; {photos['verified']} verified, {photos['verified_wrong']} of them wrong |"
        )
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Copy the file and write its card. Raises UserError if the evaluation is missing or of another file."""
    onnx, report = args.artifacts / "sudoku_digitnet.onnx", args.evaluation or args.artifacts / "evaluation.json"
    try:
        training = json.loads((args.artifacts / "training.json").read_bytes())
        evaluation = json.loads(report.read_bytes())
        digest = sha256(onnx)
        if digest not in evaluation["sha256"].values():
            raise UserError(f"{report} is of another ONNX file than {onnx}: run 05_Evaluate.py on it again")
        run, table = training["run"], table_of(evaluation)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{args.artifacts} has no complete run ({error}): make PROFILE=photo") from None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    card = CARD.format(**run, seed=training["settings"]["seed"], commit=commit.strip(), sha256=digest, table=table)
    content = onnx.read_bytes()
    write_file(args.out / "sudoku_digitnet_photo.onnx", lambda name: Path(name).write_bytes(content))
    write_file(args.out / "README.md", lambda name: Path(name).write_text(card, encoding="utf-8"))
    print(f"Saved: {args.out}/sudoku_digitnet_photo.onnx and its card")


if __name__ == "__main__":
    start_script()
    run_script(main, parse_args())
