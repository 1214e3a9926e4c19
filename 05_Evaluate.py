#!/usr/bin/env python3
"""What an ONNX file reads right and wrong: held-out cells, and whole pages as an app would see them.

Needs onnxruntime, not torch. Cells: every cell of data/val. Pages: the camera's validation pages, straightened
at slightly wrong corners, as a grid detector would find them, cut 12 % inside, with every cell whose best
probability is below 0.65 counted as blank, as the tutorial's grid processor does. Writes artifacts/evaluation.json.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from digitnet_cli import (
    UserError,
    argument_parser,
    describe_run,
    natural_int,
    positive_int,
    run_script,
    sha256,
    write_json,
)
from digitnet_data import (
    BLANK,
    BLANK_BELOW,
    NUM_CLASSES,
    Cells,
    cut_cells,
    describe_scores,
    load_cells,
    rectify,
    score,
)
from digitnet_onnx import classify, open_session

# Settings. Those of the command line stand in main().
BOARD_SIDE, CUT = 450, 0.12  # pixels and part of a cell: what the tutorial's grid processor uses
CORNER_ERROR = 0.006  # standard deviation of each coordinate of a corner, as a part of the board's side


def worst_confusions(labels: np.ndarray, predictions: np.ndarray, most: int = 5) -> list[dict]:
    """The most frequent mistakes: truth, guess, and how often."""
    table = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(table, (labels, predictions), 1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:most]
    return [
        {"truth": int(i // NUM_CLASSES), "guess": int(i % NUM_CLASSES), "times": int(table.flat[i])}
        for i in order
        if table.flat[i]
    ]


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


def main() -> None:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/ and grids/")
    add("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="folder to write to")
    add("--seed", type=natural_int, default=0, help="of the wrong corners")
    add("--draws", type=positive_int, default=5, metavar="N", help="wrong corners drawn for each page")
    args = parser.parse_args()
    session = open_session(args.onnx)
    sets = {"validation cells": load_cells(args.data / "val")}
    if (args.data / "grids" / "val.csv").exists():
        sets["camera pages"] = cut_pages(args.data / "grids", np.random.default_rng(args.seed), args.draws)
    else:
        print(f"no {args.data / 'grids' / 'val.csv'}: pages with unknown corners are passed over")

    report = {}
    for name, cells in sets.items():
        predictions, probabilities = classify(session, cells.pixels)
        as_clients_do = np.where(probabilities < BLANK_BELOW, BLANK, predictions)
        report[name] = {
            "best_class": score(cells, predictions),
            "low_is_blank": score(cells, as_clients_do),
            "lowest_probability": float(probabilities.min()),
            "worst_confusions": worst_confusions(cells.labels, as_clients_do),
        }
        print(f"{name}: {describe_scores(report[name]['best_class'])}")
        print(f"  below {BLANK_BELOW} taken as blank: {describe_scores(report[name]['low_is_blank'])}")
        for confusion in report[name]["worst_confusions"]:
            print("  {truth} read as {guess}: {times} times".format(**confusion))
    summary = "; ".join(f"{name}: {describe_scores(entry['low_is_blank'])}" for name, entry in report.items())
    write_json(
        args.out / "evaluation.json",
        {"summary": summary, "sets": report, "sha256": {str(args.onnx): sha256(args.onnx)}, "run": describe_run()},
    )


if __name__ == "__main__":
    run_script(main)
