#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Read Sudoku boards from photos: find the board, read its 81 cells, and say whether the reading can be trusted.

python3 06_ReadBoard.py photo.jpg                      prints the grid, a verdict, and why it is doubtful
python3 06_ReadBoard.py --picture out.png photo.jpg    also draws the frame and the digits over the photo
python3 06_ReadBoard.py --json *.jpg                   prints one line of JSON per photo, for programs
python3 06_ReadBoard.py --same a.jpg b.jpg             reads one board from several photos of it

The verdict is one of: verified (the digits have exactly one solution, and no other likely reading of a cell has; exit
code 0), suspect (3), not found (4), unreadable (1, no picture); of several photos, the last of these counts.
Needs numpy, OpenCV and onnxruntime. Takes artifacts/photo/sudoku_digitnet.onnx if `make PROFILE=photo` has made it,
else pretrained/sudoku_digitnet_photo.onnx.

`python3 06_ReadBoard.py docs/pictures/newspaper.png` takes 0.4 s on 2 x86-64 cores (AMD EPYC) and ends with:

29 digits: 023000100000040000160000597507800200009002050040730000000079028008401000070360000
verified: there is exactly one solution, and no other likely reading of a cell has one
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.realpath(__file__)))  # PYTHONSAFEPATH leaves it out
from digitnet_cli import UserError, argument_parser, keep_inputs, place_and_cure, run_script

# isort: split
import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from digitnet_boards import load_photo, rectangle
from digitnet_data import BLANK
from digitnet_machine import write_file
from digitnet_onnx import open_session
from reading.board import Reading, read_board
from reading.grid import Board, is_convex, photo_points
from reading.rules import Reason, name_of, place_of
from reading.same import choose_photos, combine_readings

# --- settings: those of the command line stand in parse_args -----------------------------------
FOLDER = Path(__file__).resolve().parent
MODELS = FOLDER / "artifacts/photo/sudoku_digitnet.onnx", FOLDER / "pretrained/sudoku_digitnet_photo.onnx"
EXIT_CODES = {"verified": 0, "suspect": 3, "not found": 4, "unreadable": 1}  # of several photos, the last counts
MAX_REASONS = 3  # per photo, of several; a single photo is printed with all
GREEN, ORANGE, RED = (0, 160, 0), (0, 140, 255), (0, 0, 220)  # as OpenCV orders colours: blue, green, red


def parse_args() -> argparse.Namespace:
    """Read the command line; --corners and --picture need a single photo."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("photos", type=Path, nargs="+", metavar="PHOTO", help="an image that OpenCV reads (JPEG, PNG)")
    add("--onnx", type=Path, metavar="FILE", help="the model (default: see above)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--straightened", action="store_true", help="the board fills the picture: do not look for it")
    where.add_argument(
        "--corners", type=float, nargs=8, metavar="N", help="x y of its corners, clockwise from the one at the top left"
    )
    add("--crop-margin", type=float, metavar="PART", help="cropped off each side of a cell, 0 to 0.3 (6, 9 and 12 %%)")
    add("--solve", action="store_true", help="print the solution, too, where there is exactly one")
    add("--same", action="store_true", help="the photos show the same board: give one result for all")
    add("--json", action="store_true", help="print one line of JSON per photo, or per board")
    add("--picture", type=Path, metavar="FILE", help="draw the frame and the digits over the photo")
    args = parser.parse_args()
    if args.crop_margin is not None and not 0 <= args.crop_margin <= 0.3:
        parser.error(f"--crop-margin: {args.crop_margin} is not between 0 and 0.3")
    if len(args.photos) > 1 and (args.corners or args.picture):
        parser.error(f"{'--corners' if args.corners else '--picture'} goes with a single photo")
    return args


def find_model(given: Path | None) -> Path:
    """Return `given`, or else the first of MODELS that exists. Raises UserError if there is none."""
    path = given or next((model for model in MODELS if model.is_file()), None)
    if path is None:
        raise UserError(f"no ONNX file {MODELS[0]}: make it with `make -C {FOLDER} PROFILE=photo`")
    return path


def grid_text(digits: list[int], doubtful: set[int]) -> str:
    """Draw a board in characters: `.` is a blank, `?` stands after a cell in doubt."""
    marks = [f"{digit or '.'}{'?' if cell in doubtful else ' '}" for cell, digit in enumerate(digits)]
    lines = []
    for row in range(9):
        if row in (3, 6):
            lines.append("---------+----------+---------")
        boxes = (" ".join(marks[9 * row + column : 9 * row + column + 3]) for column in (0, 3, 6))
        lines.append(" | ".join(boxes).rstrip())
    return "\n".join(lines)


def doubtful_cells(reading: Reading) -> set[int]:
    """Collect the cells that the reasons name."""
    return {cell for reason in reading.reasons for cell in reason.cells}


def text_of(digits: np.ndarray | list[int]) -> str:
    """Write 81 digits in a row, 0 = blank."""
    return "".join(str(int(digit)) for digit in digits)


def describe_reading(reading: Reading) -> str:
    """Return verdict, digits and the first reasons as one line."""
    reasons = [reason.text for reason in reading.reasons]
    if len(reasons) > MAX_REASONS:
        reasons = [*reasons[:MAX_REASONS], f"{len(reasons) - MAX_REASONS} more"]
    if reading.digits is None:
        return f"{reading.verdict}: {'; '.join(reasons)}"
    count = np.count_nonzero(reading.digits)
    return f"{reading.verdict}: {text_of(reading.digits)} ({count} digits)" + "".join(f"; {r}" for r in reasons)


def print_board(reading: Reading, solve: bool) -> None:
    """Print a single photo's reading for people: grid, digits, verdict, reasons, and the solution if asked."""
    if reading.digits is None:
        print(describe_reading(reading))
        return
    print(grid_text(reading.digits.tolist(), doubtful_cells(reading)))
    print(f"\n{np.count_nonzero(reading.digits)} digits: {text_of(reading.digits)}")
    if not reading.reasons:
        print("verified: there is exactly one solution, and no other likely reading of a cell has one")
    for reason in reading.reasons:
        print(f"suspect: {reason.text}")
    if reading.proposal:
        cell, digit = reading.proposal
        print(f"proposal: with {name_of(digit)} in {place_of(cell)} there is exactly one solution; look at the cell")
    if solve:
        print(f"\n{grid_text(reading.solution, set())}" if reading.solution else "\nno solution to print")


def as_json(photo: Path, reading: Reading, solve: bool) -> str:
    """Write a reading as one line of JSON; places are [row, column], from 1."""

    def place(cell: int) -> list[int]:
        return [cell // 9 + 1, cell % 9 + 1]

    content: dict = {
        "photo": str(photo),
        "verdict": reading.verdict,
        "reasons": [{"text": r.text, "cells": [place(cell) for cell in r.cells]} for r in reading.reasons],
    }
    if reading.digits is not None and reading.corners is not None and reading.probabilities is not None:
        probabilities = reading.probabilities[np.arange(81), reading.digits]
        content |= {
            "corners": [[round(float(value), 1) for value in corner] for corner in reading.corners],
            "turn": reading.turn,
            "inverted": reading.inverted,
            "digits": text_of(reading.digits),
            "probabilities": [round(float(value), 4) for value in probabilities],
            "proposal": None,
        }
        if reading.proposal:
            cell, digit = reading.proposal
            content["proposal"] = {"cell": place(cell), "digit": digit}
        if solve:
            content["solution"] = text_of(reading.solution) if reading.solution else None
    return json.dumps(content)


def draw_picture(photo: np.ndarray, reading: Reading) -> np.ndarray:
    """Draw the frame along the lines that were found, and each digit beside its own: uint8 [H, W, 3]."""
    picture = cv2.cvtColor(photo, cv2.COLOR_GRAY2BGR)
    if reading.board is None or reading.digits is None:
        return picture
    colour = ORANGE if reading.reasons else GREEN
    cell = reading.board.cell
    along, edge = np.linspace(0, 9, 37), np.zeros(37)
    outline = np.concatenate([np.stack([along, edge], 1), np.stack([edge + 9, along], 1)])
    outline = np.concatenate([outline, 9 - outline])  # the opposite sides
    frame = np.rint(photo_points(reading.board, outline)).astype(np.int32)
    cv2.polylines(picture, [frame], True, colour, max(1, round(cell / 15)), cv2.LINE_AA)
    places = np.rot90(np.arange(81).reshape(9, 9), -reading.turn // 90).ravel()  # cells in the order of the photo
    columns, rows = np.meshgrid(np.arange(9), np.arange(9))
    at = photo_points(reading.board, np.stack([columns.ravel() + 0.62, rows.ravel() + 0.92], axis=1))
    doubtful = doubtful_cells(reading)
    for point, place in zip(np.rint(at).astype(int).tolist(), places.tolist(), strict=True):
        digit = int(reading.digits[place])
        if digit != BLANK or place in doubtful:
            text, ink = str(digit) if digit != BLANK else "?", RED if place in doubtful else colour
            weight = max(1, round(cell / 20))
            cv2.putText(picture, text, point, cv2.FONT_HERSHEY_SIMPLEX, cell / 55, ink, weight, cv2.LINE_AA)
    return picture


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture in the format of its name's ending. Raises UserError if OpenCV does not write it."""
    try:
        content = cv2.imencode(path.suffix or ".", picture)[1].tobytes()
    except cv2.error:
        raise UserError(f"{path}: OpenCV cannot write this format: name it .png or .jpg") from None
    write_file(path, content)


def checked_corners(numbers: list[float], photo: np.ndarray) -> np.ndarray:
    """Return --corners as float32 [4, 2]. Raises UserError unless they are a board's in the photo."""
    corners = np.array(numbers, np.float32).reshape(4, 2)
    height, width = photo.shape
    inside = (corners > -1).all() and (corners < (width, height)).all()  # never of NaN
    if not (inside and is_convex(corners)):
        raise UserError(
            f"--corners: give x y of the four corners, clockwise, each inside the photo of {width} x {height} pixels"
        )
    return corners


def read_file(session: onnxruntime.InferenceSession, path: Path, args: argparse.Namespace) -> Reading:
    """Read the board in the photo `path`, and draw the picture if asked."""
    try:
        photo = load_photo(path)
    except (UserError, OSError) as error:
        cause = f"{error.strerror}: {place_and_cure(error)}" if isinstance(error, OSError) else str(error)
        return Reading("unreadable", [Reason(cause)])
    board = None
    if args.straightened:
        board = Board(rectangle(-0.5, -0.5, *photo.shape[::-1]))
    elif args.corners:
        board = Board(checked_corners(args.corners, photo))
    reading = read_board(session, photo, board, args.crop_margin)
    if args.picture:
        save_picture(args.picture, draw_picture(photo, reading))
    return reading


def print_error(text: str) -> None:
    """Print a line on standard error."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)


def read_same(photos: list[Path], readings: list[Reading]) -> tuple[Path, Reading]:
    """Return the first photo of the board that most of them show, and the reading of all of its photos."""
    kept = []
    for path, reading, cause in zip(photos, readings, choose_photos(readings), strict=True):
        if cause:
            print_error(cause if reading.verdict == "unreadable" else f"{path} is left out: {cause}")
        else:
            kept.append((path, reading))
    path, reading = kept[0]
    return path, reading if len(kept) == 1 else combine_readings([reading for _, reading in kept])


def main(args: argparse.Namespace) -> None:
    """Read every photo, print the results, and exit with the code of the worst."""
    cv2.setNumThreads(1)  # starting more takes longer than reading a photo
    keep_inputs([args.picture], [*args.photos, args.onnx])
    session = open_session(find_model(args.onnx))
    results: Iterable[tuple[Path, Reading]] = ((path, read_file(session, path, args)) for path in args.photos)
    if args.same:
        results = [read_same(args.photos, [reading for _, reading in results])]
    codes = []
    for path, reading in results:
        codes.append(EXIT_CODES[reading.verdict])
        if reading.verdict == "unreadable":
            print_error(reading.reasons[0].text)
            if not args.json:
                continue
        if args.json:
            print(as_json(path, reading, args.solve))
        elif args.same or len(args.photos) == 1:
            print_board(reading, args.solve)
        else:
            print(f"{path}: {describe_reading(reading)}")
            if args.solve and reading.solution:
                print(f"{path}: solution: {text_of(reading.solution)}")
    sys.exit(max(codes, key=list(EXIT_CODES.values()).index))


if __name__ == "__main__":
    run_script(main, parse_args())
