#!/usr/bin/env python3
"""Reads one Sudoku board from a photo with an ONNX file, and prints its 9x9 grid.

python3 06_ReadBoard.py data/real/boards/image1.jpg --onnx artifacts/photo/sudoku_digitnet.onnx
python3 06_ReadBoard.py photo.jpg --find --onnx artifacts/photo/sudoku_digitnet.onnx

The image is taken as a board already straightened to its outer lines, unless --find looks for the largest
quadrilateral in it, or --corners says where the board is. Needs numpy, OpenCV and onnxruntime.
"""

import argparse
from pathlib import Path

from digitnet_cli import argument_parser, start_script

# --- settings: those of the command line stand in parse_args -----------------------------------
DETECTION_SIDE = 1000  # the photo's longer side while the board is looked for, in pixels
MIN_AREA = 0.1  # a board fills at least this part of the photo


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("photo", type=Path, help="an image that OpenCV reads (JPEG, PNG)")
    add("--onnx", type=Path, default=Path("artifacts/photo/sudoku_digitnet.onnx"), metavar="FILE", help="the model")
    add("--crop-margin", type=float, default=0.06, help="part cut off each side of a cell, 0 to 0.2")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--find", action="store_true", help="look for the board in the photo")
    where.add_argument(
        "--corners", type=float, nargs=8, metavar="N", help="x y of its corners, from top left clockwise"
    )
    args = parser.parse_args()
    if not 0 <= args.crop_margin <= 0.2:
        parser.error(f"--crop-margin: {args.crop_margin} is not between 0 and 0.2")
    return args


if __name__ == "__main__":
    start_script()
    ARGS = parse_args()  # before any package is imported: --help and a wrong option answer at once

import cv2
import numpy as np

from digitnet_cli import UserError, run_script
from digitnet_data import BLANK, BOARD_SIDE, CONFIDENCE_THRESHOLD, cut_cells, rectangle, rectify
from digitnet_onnx import classify, open_session


def find_board(photo: np.ndarray) -> np.ndarray:
    """Corners, float32 [4, 2] x, y from the top left clockwise, of the largest quadrilateral in uint8 [H, W].

    Raises UserError if no contour with four corners fills a tenth of the photo.
    """
    shrink = min(1.0, DETECTION_SIDE / max(photo.shape))
    small = cv2.resize(photo, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    block = max(small.shape) // 20 | 1  # neighbourhood of the threshold, an odd number of pixels: about a cell
    ink = cv2.adaptiveThreshold(
        cv2.GaussianBlur(small, (5, 5), 0), 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, block, 7
    )
    ink = cv2.dilate(ink, np.ones((3, 3), np.uint8))  # closes small gaps in the outer line
    contours, _ = cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in sorted(contours, key=cv2.contourArea, reverse=True)[:5]:
        outline = cv2.convexHull(contour)
        outline = cv2.approxPolyDP(outline, 0.03 * cv2.arcLength(outline, True), True)[:, 0]
        if len(outline) == 4 and cv2.contourArea(outline) >= MIN_AREA * small.size:
            return sort_corners(outline / shrink)
    raise UserError("no board found: photograph it whole, flat and filling the view, or give its --corners")


def sort_corners(corners: np.ndarray) -> np.ndarray:
    """Four corners of a board that is turned by less than 45 degrees -> top left, then clockwise."""
    x, y = corners.T
    order = [np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmin(x - y)]
    return corners[order].astype(np.float32)


def draw_grid(digits: np.ndarray, probabilities: np.ndarray) -> str:
    """The board for people: `.` is a blank, `?` after a digit that clients would take as blank."""
    marks = [
        f"{'.' if digit == BLANK else digit}{'?' if probability < CONFIDENCE_THRESHOLD else ' '}"
        for digit, probability in zip(digits, probabilities, strict=True)
    ]
    lines = []
    for row in range(9):
        if row in (3, 6):
            lines.append("--------+---------+--------")
        boxes = (" ".join(marks[9 * row + col : 9 * row + col + 3]) for col in (0, 3, 6))
        lines.append("| ".join(boxes).rstrip())
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    session = open_session(args.onnx)
    content = np.frombuffer(args.photo.read_bytes(), np.uint8)
    photo = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if len(content) else None
    if photo is None:
        raise UserError(f"{args.photo} is not an image that OpenCV reads: give it a JPEG or PNG")

    height, width = photo.shape
    corners = rectangle(0, 0, width, height)
    if args.find:
        corners = find_board(photo)
    elif args.corners:
        corners = np.array(args.corners, np.float32).reshape(4, 2)
    digits, probabilities = classify(session, cut_cells(rectify(photo, corners, BOARD_SIDE), args.crop_margin))

    print(draw_grid(digits, probabilities))
    givens = np.where(probabilities < CONFIDENCE_THRESHOLD, BLANK, digits)
    print(f"\n{np.count_nonzero(givens)} digits: {''.join(map(str, givens))}")
    for cell in np.flatnonzero(probabilities < CONFIDENCE_THRESHOLD):
        guess = "blank" if digits[cell] == BLANK else digits[cell]
        print(
            f"uncertain: row {cell // 9 + 1}, column {cell % 9 + 1}, {guess} with {probabilities[cell]:.2f}: left blank"
        )


if __name__ == "__main__":
    run_script(main, ARGS)
