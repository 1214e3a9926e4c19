#!/usr/bin/env python3
"""What an ONNX file reads right and wrong: held-out cells, whole pages, photos of real newspapers. Needs no torch.

validation cells   every cell of data/val
camera pages       the camera's validation pages, straightened at slightly wrong corners, as a grid detector
                   would find them, and cut 12 % inside, as the tutorial's grid processor does
real boards        data/real, boards from photos of newspapers, cut 0 %, 6 % and 12 % inside. They are never
                   trained on, and no epoch, threshold or other setting is chosen by them

Every count is given twice: with each cell whose best probability is below 0.65 taken as blank, as the tutorial's
clients do, and without. Writes artifacts/evaluation.json and four pictures: confusion_matrix.png, misread_cells.png,
training_cells.png, and learning_curve.png from the training.json beside the ONNX file.
"""

import argparse
import csv
import json
from pathlib import Path

from digitnet_cli import (
    UserError,
    argument_parser,
    describe_run,
    natural_int,
    positive_float,
    positive_int,
    run_script,
    sha256,
    write_json,
)
from digitnet_data import (
    BLANK_BELOW,
    BOARD_SIDE,
    REAL_BOARDS,
    REAL_CUTS,
    Cells,
    cut_cells,
    load_boards,
    load_cells,
    rectify,
)
from digitnet_onnx import classify, open_session
from digitnet_pictures import CLASS_NAMES, confusion_matrices, learning_curve, misread_cells, training_cells
from digitnet_scores import Reading, confusion, describe, joined

import cv2
import numpy as np
import onnxruntime
from tqdm import tqdm

# Settings. Those of the command line stand in main().
CUT = 0.12  # part of a cell: what the tutorial's grid processor cuts off each side
CORNER_ERROR = 0.006  # standard deviation of each coordinate of a corner, as a part of the board's side
VALIDATION, CAMERA, REAL = "validation cells", "camera pages", "real boards"  # the last: all cuts together


def read(session: onnxruntime.InferenceSession, cells: Cells) -> Reading:
    return Reading(cells, *classify(session, cells.pixels))


def cut_pages(folder: Path, rng: np.random.Generator, draws: int) -> Cells:
    """Cells of the camera pages of `folder`/val, each page straightened `draws` times at slightly wrong corners."""
    with (folder / "val.csv").open(newline="") as file:
        pages = [row for row in csv.DictReader(file) if row["page"].endswith("_cam.png")]
    pixels, labels, names = [], [], []
    for row in tqdm(pages, desc="pages"):
        page = cv2.imread(str(folder / "val" / row["page"]), cv2.IMREAD_GRAYSCALE)
        if page is None:
            raise UserError(f"{folder / 'val' / row['page']} is not a readable image: prepare the data anew")
        corners = np.array([[float(row[f"{axis}{corner}"]) for axis in "xy"] for corner in range(4)])
        side = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).mean()
        for draw in range(draws):
            found = corners + rng.normal(0, CORNER_ERROR * side, (4, 2))
            pixels.append(cut_cells(rectify(page, found, BOARD_SIDE), CUT))
            labels += [int(digit) for digit in row["givens"]]
            names += [f"{Path(row['page']).stem}-{draw}_{cell:02d}" for cell in range(81)]
    return Cells(np.concatenate(pixels), np.array(labels, np.int64), np.array(names))


def read_sets(session: onnxruntime.InferenceSession, args: argparse.Namespace) -> dict[str, Reading]:
    """Name of a set -> its reading, for whatever is there; says what is not."""
    readings = {VALIDATION: read(session, load_cells(args.data / "val"))}
    grids = args.data / "grids"
    if (grids / "val.csv").exists():
        readings[CAMERA] = read(session, cut_pages(grids, np.random.default_rng(args.seed), args.draws))
    else:
        print(f"no {grids / 'val.csv'}: camera pages are passed over")
    if (args.real / "labels.csv").exists():
        cuts = {f"{cut:.0%} cut": read(session, load_boards(args.real, cut)) for cut in REAL_CUTS}
        readings |= {f"{REAL}, {cut}": reading for cut, reading in cuts.items()} | {REAL: joined(cuts)}
    else:
        print(f"no {args.real / 'labels.csv'}: real boards are passed over")
    return readings


def wrong(kind: str) -> str:
    """The key under which `score` counts the errors of a kind."""
    return f"wrong_{kind}"


def print_report(report: dict[str, dict]) -> None:
    """The counts for people, a line for each set."""
    kinds = ("cells", "digits", "blanks", "boards")
    print(f"Errors, with cells below {BLANK_BELOW} taken as blank{'and without that rule':>63}")
    print(f"{'':22}" + "".join(f"{kind:>15}" for kind in kinds) + f"{'cells':>10}{'boards':>8}")
    for name, entry in report.items():
        rule, plain = entry["low_is_blank"], entry["best_class"]
        counts = "".join(f"{f'{rule[wrong(kind)]:,}/{rule[kind]:,}':>15}" for kind in kinds)
        print(f"{name:22}{counts}{plain['wrong_cells']:10,}{plain['wrong_boards']:8,}")
    print("Confidence: mean probability of right cells, right digits that the rule makes blank; worst mistakes")
    for name, entry in report.items():
        mean, lost = entry["confidence"]["mean_of_right_cells"], entry["confidence"]["right_digits_below"]
        mistakes = (
            f"{mistake['times']:,} x {CLASS_NAMES[mistake['truth']]} as {CLASS_NAMES[mistake['guess']]}"
            for mistake in entry["worst_confusions"][:3]
        )
        print(f"{name:22}{mean:15.3f}{lost:15,}    {', '.join(mistakes) or 'none'}")


def summary_of(report: dict[str, dict]) -> str:
    """The errors that matter, as clients read, in one line."""
    parts = []
    for name in (VALIDATION, CAMERA, REAL):
        if name in report:
            counts = report[name]["low_is_blank"]
            kinds = [kind for kind in ("cells", "digits", "boards") if counts[kind]]
            parts.append(f"{name}: {', '.join(f'{counts[wrong(k)]:,} of {counts[k]:,} {k}' for k in kinds)} wrong")
    return "; ".join(parts)


def draw_pictures(readings: dict[str, Reading], args: argparse.Namespace) -> None:
    """The four pictures, or those whose sources are there."""
    shown = {name: readings[name] for name in (VALIDATION, REAL) if name in readings}
    tables = {name: confusion(reading.cells.labels, reading.as_clients_do) for name, reading in shown.items()}
    confusion_matrices(
        tables, f"{args.onnx}, cells below {BLANK_BELOW} taken as blank", args.out / "confusion_matrix.png"
    )
    name, reading = list(shown.items())[-1]
    misread_cells(reading.cells, reading.guesses, reading.probabilities, name, args.out / "misread_cells.png")
    if (args.data / "train").is_dir():
        training_cells(args.data / "train", args.out / "training_cells.png")
    history = args.onnx.with_name("training.json")
    if history.exists():
        record = json.loads(history.read_text())
        learning_curve(record["epochs"], record["best_epoch"], args.out / "learning_curve.png")
    else:
        print(f"no {history}: the learning curve is passed over")


def floor_failures(report: dict[str, dict], floor: list[float]) -> list[str]:
    """What the real boards, all cuts together and as clients read, fall short of: percent of cells, digits, boards."""
    counts = report[REAL]["low_is_blank"]
    percent = {kind: 100 * (1 - counts[wrong(kind)] / counts[kind]) for kind in ("cells", "digits", "boards")}
    return [
        f"{percent[kind]:.2f} % of the {kind} are right, not {least:g} %"
        for kind, least in zip(percent, floor, strict=True)
        if percent[kind] < least
    ]


def main() -> None:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/ and grids/")
    add("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="folder to write to")
    add("--real", type=Path, default=REAL_BOARDS, metavar="DIR", help="real boards: boards/*.jpg and labels.csv")
    add("--seed", type=natural_int, default=0, help="of the wrong corners")
    add("--draws", type=positive_int, default=5, metavar="N", help="wrong corners drawn for each page")
    add(
        "--floor",
        type=positive_float,
        nargs=3,
        metavar=("CELLS", "DIGITS", "BOARDS"),
        help="end with exit code 1 if a smaller percentage of the real boards is right",
    )
    args = parser.parse_args()

    readings = read_sets(open_session(args.onnx), args)
    report = {name: describe(reading) for name, reading in readings.items()}
    print_report(report)
    draw_pictures(readings, args)
    write_json(
        args.out / "evaluation.json",
        {
            "summary": summary_of(report),
            "sets": report,
            "sha256": {str(args.onnx): sha256(args.onnx)},
            "run": describe_run(),
        },
    )
    print(f"Saved: {args.out}/evaluation.json and pictures beside it")
    if args.floor:
        if REAL not in report:
            raise UserError(f"--floor needs the real boards, but there is no {args.real / 'labels.csv'}: restore it")
        if failures := floor_failures(report, args.floor):
            raise UserError(f"{args.onnx} is below the floor on real boards: {'; '.join(failures)}: train it again")
        print(f"real boards: the floor of {', '.join(f'{least:g} %' for least in args.floor)} is kept")


if __name__ == "__main__":
    run_script(main)
