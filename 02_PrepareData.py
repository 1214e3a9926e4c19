#!/usr/bin/env python3
"""Draws Sudoku pages and cuts them into the 28x28 cells that DigitNet is trained on. No download.

data/{train,val}/0..9/000000_clean_00.png   cells: puzzle, page, 9 * row + column
data/grids/{train,val}/000000_clean.png     pages: a clean print and a camera's view of it
data/grids/{train,val}.csv                  each page's givens and the grid's corners in pixels

Puzzles have exactly one solution; no puzzle is both in train and in val. Half of the pages give whole
cells with their grid lines (as the tutorial's preparation does), half give cells with 12 % cut off each
side (as its grid processor does). The same seed gives the same bytes, whatever the number of workers.
"""

import argparse
import csv
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from digitnet_cli import (
    UserError,
    argument_parser,
    available_cpus,
    describe_run,
    natural_int,
    positive_int,
    run_script,
    write_json,
)
from digitnet_data import MARKER, PREPARED, cut_cells, rectify
from digitnet_puzzles import draw_puzzle, read_puzzles

# Settings of the tutorial's pages, in pixels unless said otherwise.
PAGE_WIDTH, PAGE_HEIGHT = 800, 1200
PAGE_MARGIN = 60
STEP = (PAGE_WIDTH - 2 * PAGE_MARGIN) // 9  # 75: a cell's side on the page
THIN, THICK, STROKE = 1, 3, 2  # inner lines, box lines, the digits' pen
CORNER_JITTER = 20  # the camera moves each corner of the page by up to this much
BLUR_PROBABILITY, BLUR_KERNELS = 0.5, (3, 5)  # the camera's focus
DESK_GREY = 220  # what the camera sees beside the page
# Cells are cut both ways: (side of the straightened board in pixels, part cut off each side of a cell).
FRAMINGS = ((9 * STEP, 0.0), (450, 0.12))


# --- pages ------------------------------------------------------------------------------------


def draw_page(puzzle: str) -> tuple[np.ndarray, np.ndarray]:
    """A clean print of `puzzle`: the page, uint8 [1200, 800], and its grid's corners, float [4, 2] (x, y)."""
    page = np.full((PAGE_HEIGHT, PAGE_WIDTH), 255, np.uint8)
    side = 9 * STEP
    left, top = (PAGE_WIDTH - side) // 2, (PAGE_HEIGHT - side) // 2
    for line in range(10):
        at, width = line * STEP, THIN if line % 3 else THICK
        cv2.line(page, (left + at, top), (left + at, top + side), 0, width)
        cv2.line(page, (left, top + at), (left + side, top + at), 0, width)
    for cell, digit in enumerate(puzzle):
        if digit == "0":
            continue
        font = dict(fontFace=cv2.FONT_HERSHEY_SIMPLEX, fontScale=STEP / 60, thickness=STROKE)
        (width, height), _ = cv2.getTextSize(digit, **font)
        x = left + cell % 9 * STEP + (STEP - width) // 2
        y = top + cell // 9 * STEP + (STEP + height) // 2 - height // 4  # a little high, as in the tutorial
        cv2.putText(page, digit, (x, y), color=0, lineType=cv2.LINE_AA, **font)
    return page, left_top_square(left, top, side)


def left_top_square(left: float, top: float, side: float) -> np.ndarray:
    """Corners of an upright square, float32 [4, 2]: top left, then clockwise."""
    return np.float32([(left, top), (left + side, top), (left + side, top + side), (left, top + side)])


def photograph(page: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tutorial's mild camera: the page's corners move, giving perspective; half of the views are blurred.

    Returns the view and where the grid's corners truly are in it.
    """
    sheet = np.float32([(0, 0), (PAGE_WIDTH, 0), (PAGE_WIDTH, PAGE_HEIGHT), (0, PAGE_HEIGHT)])
    moved = sheet + rng.integers(-CORNER_JITTER, CORNER_JITTER + 1, (4, 2)).astype(np.float32)
    transform = cv2.getPerspectiveTransform(sheet, moved)
    view = cv2.warpPerspective(page, transform, (PAGE_WIDTH, PAGE_HEIGHT), borderValue=DESK_GREY)
    if rng.random() < BLUR_PROBABILITY:
        kernel = int(rng.choice(BLUR_KERNELS))
        view = cv2.GaussianBlur(view, (kernel, kernel), 0)
    return view, cv2.perspectiveTransform(corners[None], transform)[0].round(2)  # as the CSV will say


def write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise UserError(f"cannot write {path}: is the disk full, or the folder read-only?")


def make_pages(task: tuple[str, int, str], seed: int, out: Path) -> list[list]:
    """Draws one puzzle's two pages and their cells into `out`; returns the two rows of the split's CSV."""
    split, number, puzzle = task
    page, corners = draw_page(puzzle)
    view, view_corners = photograph(page, corners, np.random.default_rng([seed, split == "val", number]))
    rows = []
    for kind, (image, where) in enumerate([(page, corners), (view, view_corners)]):
        name = f"{number:06d}_{('clean', 'cam')[kind]}"
        write_image(out / "grids" / split / f"{name}.png", image)
        side, margin = FRAMINGS[(number + kind) % 2]
        for cell, pixels in enumerate(cut_cells(rectify(image, where, side), margin)):
            write_image(out / split / puzzle[cell] / f"{name}_{cell:02d}.png", pixels)
        rows.append([f"{name}.png", puzzle, *(f"{value:.2f}" for value in where.ravel())])
    return rows


def numbered_puzzle(number: int, seed: int) -> str:
    return draw_puzzle(np.random.default_rng([seed, number]))


# --- the data folder --------------------------------------------------------------------------


def set_up_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    cv2.setNumThreads(1)  # the processes are the parallelism


def draw_data(args: argparse.Namespace, new: Path) -> dict[str, int]:
    """Draws everything into the folder `new`; returns the number of cells of each class and split."""
    splits = ["train"] * args.train + ["val"] * args.val
    for split in ("train", "val"):
        (new / "grids" / split).mkdir(parents=True)
        for label in range(10):
            (new / split / str(label)).mkdir(parents=True)

    pool = ProcessPoolExecutor(args.workers, initializer=set_up_worker)
    try:
        progress = partial(tqdm, total=len(splits), unit=" puzzles", mininterval=0.5)
        if args.puzzles:
            own = read_puzzles(args.puzzles)
            if len(own) < len(splits):
                part = len(own) // 4
                raise UserError(
                    f"{args.puzzles} has {len(own)} different puzzles, but --train {args.train} --val {args.val} need "
                    f"{len(splits)}: ask for fewer, such as --train {len(own) - part} --val {part}"
                )
            puzzles = [own[i] for i in np.random.default_rng(args.seed).permutation(len(own))[: len(splits)]]
        else:
            drawn = pool.map(partial(numbered_puzzle, seed=args.seed), range(len(splits)), chunksize=4)
            puzzles = list(progress(drawn, desc="draw puzzles"))
        assert len(set(puzzles)) == len(puzzles), "a puzzle was drawn twice"

        numbers = [*range(args.train), *range(args.val)]
        tasks = list(zip(splits, numbers, puzzles, strict=True))
        pages = pool.map(partial(make_pages, seed=args.seed, out=new), tasks, chunksize=4)
        rows = list(progress(pages, desc="draw pages"))
    finally:
        pool.shutdown(cancel_futures=True)

    for split in ("train", "val"):
        with (new / "grids" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["page", "givens", *(f"{axis}{corner}" for corner in range(4) for axis in "xy")])
            writer.writerows(row for task, pair in zip(tasks, rows, strict=True) if task[0] == split for row in pair)
    return {
        f"{split}/{label}": sum(2 * puzzle.count(str(label)) for s, _, puzzle in tasks if s == split)
        for split in ("train", "val")
        for label in range(10)
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--style", choices=["tutorial"], default="tutorial", help="which pages are drawn")
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=positive_int, default=300, metavar="N", help="puzzles for training")
    parser.add_argument("--val", type=positive_int, default=100, metavar="N", help="puzzles for validation")
    parser.add_argument("--puzzles", type=Path, metavar="FILE", help="own puzzles, 81 characters a line, 0 or . blank")
    parser.add_argument("--seed", type=natural_int, default=0, help="of puzzles and camera; same seed, same bytes")
    parser.add_argument("--workers", type=positive_int, default=available_cpus(), metavar="N", help="processes")
    args = parser.parse_args()

    parts = [args.out / name for name in ("train", "val", "grids")]
    taken = [part for part in parts if part.exists()]
    if taken and not (args.out / MARKER).exists():
        raise UserError(
            f"{taken[0]} was not made by this script: it is used as it is and never overwritten; "
            "to draw new data, choose another folder with --out (make DATA=)"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    new, old = args.out / ".new", args.out / ".old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        counts = draw_data(args, new)
        # Swap the folders in; without prepared.json they count as half-written, whenever we are killed.
        (args.out / MARKER).touch()
        (args.out / PREPARED).unlink(missing_ok=True)
        old.mkdir()
        for part in parts:
            if part.exists():
                part.rename(old / part.name)
            (new / part.name).rename(part)
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write_json(args.out / PREPARED, {"settings": settings, "cells": counts, "run": describe_run()})
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
    for split in ("train", "val"):
        cells = [counts[f"{split}/{label}"] for label in range(10)]
        print(f"{split}: {sum(cells):,} cells, {sum(cells[1:]):,} of them digits, from {getattr(args, split)} puzzles")
    print(f"Done. Output under: {args.out}")


if __name__ == "__main__":
    run_script(main)
