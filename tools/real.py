#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make real boards and whole photos, for measuring, from a clone of the public data set wichtounet/sudoku_dataset.

git clone https://github.com/wichtounet/sudoku_dataset && make real DATASET=sudoku_dataset

Reads datasets/v2_train.desc (which photos), images/*.jpg, images/*.dat (digits) and outlines_sorted.csv (corners).
Writes to data/real, where `make evaluate` finds it:
  boards/*.jpg, labels.csv          boards straightened from their corners, 450x450 grey; their digits
  photos/*.jpg, photos/photos.csv   whole photos, longest side at most 1000; digits, corners, turn, source, licence
Leaves out photos without corners, and those whose digits are not where the ink is, and prints their names.
"""

import argparse
import csv
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from digitnet_cli import UserError, argument_parser, run_script

# isort: split
import cv2
import numpy as np

from digitnet_boards import BOARD_SIDE, CORNER_COLUMNS, CROP_MARGINS, cut_cells, is_board, rectify
from digitnet_machine import sync

# --- settings: those of the command line stand in parse_args -----------------------------------
HOME = "https://github.com/wichtounet/sudoku_dataset"
SOURCE = "github:wichtounet/sudoku_dataset:images"
LONGEST_SIDE = 1000  # of a whole photo, pixels
BOARD_QUALITY, PHOTO_QUALITY = 95, 85  # of the JPEGs
# Not in the data set, but visible in its photos: boards turned clockwise by this many degrees.
TURNED = {"image1083": 180, **{f"image{i}": 90 for i in (1031, 1036, 1038, 1039, 1040, 1043)}}
TWINS = ("image28", "image199")  # of the training part, the same pictures as image18 and image73 of the test part
MORE_DIGITS = 3  # if another turn puts this many more digits on ink, the turn counts as unknown
README = f"""Real Sudoku boards and photos, for measuring and for looking, never for training.
Source: {HOME}, version 2, by Baptiste Wicht; outlines by Lars (@panexe). Licence: CC-BY-4.0,
https://creativecommons.org/licenses/by/4.0/; these files stay under it. Changes made by tools/real.py: boards
straightened and converted to grey; photos turned upright by EXIF, shrunk and saved anew.
Cite: B. Wicht, J. Hennebert, "Camera-based Sudoku recognition with deep belief network", SoCPaR 2014, pp. 83-88.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line; args.dataset is the clone."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("dataset", type=Path, metavar="FOLDER", help="the clone")
    add("--part", choices=("train", "test"), default="train", help="which part of the data set")
    add("--out", type=Path, default=Path("data/real"), metavar="DIR", help="folder to write to")
    return parser.parse_args()


def read_of_clone(path: Path) -> str:
    """Read a text file of the clone. Raises UserError if it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {path}: give a complete clone of {HOME}") from None


def read_outlines(path: Path) -> dict[str, np.ndarray]:
    """Read the corners by photo, float64 [4, 2], clockwise from the picture's top left."""
    try:
        _, *rows = csv.reader(read_of_clone(path).splitlines())
        return {Path(name).stem: np.array(list(map(float, values))).reshape(4, 2) for name, *values in rows}
    except ValueError:
        raise UserError(f"{path} is not a list of photos with four corners each: restore it") from None


def read_givens(path: Path) -> str:
    """Read the digits of a photo's .dat file: two lines about the camera, then nine rows."""
    givens = "".join("".join(read_of_clone(path).split("\n", 2)[2:]).split())
    if not is_board(givens):
        raise UserError(f"{path} does not end in 9 rows of 9 digits: restore it")
    return givens


def read_image(path: Path) -> np.ndarray:
    """Read a photo, uint8 [H, W, 3], turned by its EXIF orientation."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(content) or (image := cv2.imdecode(content, cv2.IMREAD_COLOR)) is None:
        raise UserError(f"{path} is not a readable image: restore it")
    return image


def fits_the_ink(board: np.ndarray, givens: str) -> bool:
    """Return False if another turn of the board puts clearly more digits on the cells with most ink."""
    cells = cut_cells(board, CROP_MARGINS[-1]).reshape(81, -1)
    contrast = np.ptp(np.percentile(cells, (2, 70), axis=1), axis=0)
    printed = np.array([digit != "0" for digit in givens]).reshape(9, 9)
    inked = (contrast >= np.sort(contrast)[-printed.sum()]).reshape(9, 9)
    upright, *turned = (np.count_nonzero(np.rot90(inked, turn) & printed) for turn in range(4))
    return bool(max(turned) - upright < MORE_DIGITS)


def write_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    """Write an image as JPEG; `quality` is OpenCV's, 0 to 100."""
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def convert(args: argparse.Namespace, new: Path) -> tuple[int, list[str]]:
    """Write everything into the folder `new`; return the number of photos, and the names of those left out."""
    names = [Path(line).stem for line in read_of_clone(args.dataset / "datasets" / f"v2_{args.part}.desc").split()]
    outlines = read_outlines(args.dataset / "outlines_sorted.csv")
    labels, photos, left_out = [["board", "givens"]], [], []
    for name in names:
        left_out.append(name)  # until it is known to be usable
        if name in TWINS or name not in outlines:
            continue
        image = read_image(args.dataset / "images" / f"{name}.jpg")
        givens = read_givens(args.dataset / "images" / f"{name}.dat")
        turn = TURNED.get(name, 0)
        corners = np.roll(outlines[name], -turn // 90, axis=0)  # clockwise from the board's own top left
        board = rectify(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), corners, BOARD_SIDE)
        if not fits_the_ink(board, givens):
            continue
        left_out.pop()
        labels.append([name, givens])
        write_jpeg(new / "boards" / f"{name}.jpg", board, BOARD_QUALITY)
        scale = min(1.0, LONGEST_SIDE / max(image.shape))
        photo = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        write_jpeg(new / "photos" / f"{name}.jpg", photo, PHOTO_QUALITY)
        corners = (scale * (corners + 0.5) - 0.5).round(1)  # pixel centres are at whole numbers
        photos.append([name, givens, *corners.ravel(), turn, "newspaper", f"{SOURCE}/{name}.jpg", "CC-BY-4.0"])
    head = ["photo", "givens", *CORNER_COLUMNS, "turn", "kind", "source", "licence"]
    for path, rows in ((new / "labels.csv", labels), (new / "photos" / "photos.csv", [head, *photos])):
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    (new / "README.md").write_text(README)
    return len(photos), left_out


def main(args: argparse.Namespace) -> None:
    """Convert the clone, whole or not at all, and print the count."""
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} already exists: remove it, or name another folder with --out (make REAL=)")
    new = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    try:
        (new / "boards").mkdir(parents=True)
        (new / "photos").mkdir()
        count, left_out = convert(args, new)
        if not count:
            raise UserError(f"{args.dataset} has no photo with digits and corners: give a whole clone of {HOME}")
        os.sync()
        new.replace(args.out)
        sync(args.out.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    print(f"{count} boards and photos in {args.out}" + (f"; left out: {', '.join(left_out)}" if left_out else ""))


if __name__ == "__main__":
    run_script(main, parse_args())
