#!/usr/bin/env python3
"""Draws Sudoku pages and cuts them into the 28x28 cells that DigitNet is trained on. No download.

data/{train,val}/0..9/000000_clean_00.png   cells: puzzle, page, 9 * row + column
data/grids/{train,val}/000000_clean.png     pages: a clean print and a camera's view of it
data/grids/{train,val}.csv                  each page's givens and the grid's corners in pixels

Puzzles have exactly one solution; no puzzle is both in train and in val. The same seed gives the same
bytes, whatever the number of workers.

--style tutorial: digits as OpenCV 4 or OpenCV 5 prints them, a clean print and a mild camera. Half of the
pages give whole cells with their grid lines (as the tutorial's preparation does), half give cells with 12 %
cut off each side (as its grid processor does).
--style photo: one photo of a newspaper's board for each puzzle (pages/camera.py), most cut at 0, 6 or 12 %.
A drawn puzzle serves for five boards: its digits renamed, turned, some with more givens, as printed solutions
have. The pages of the first 100 training puzzles are kept, and those of all for validation.
"""

import argparse
import csv
import ctypes
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from digitnet_cli import (
    UserError,
    argument_parser,
    available_cpus,
    describe_run,
    natural_int,
    positive_int,
    run_script,
    write_file,
    write_json,
)
from digitnet_data import BOARD_SIDE, MARKER, PREPARED, REAL_BOARDS, cut_cells, rectify
from pages.fonts import load_fonts
from pages.camera import Photo, cut_photo, take_photo
from pages.puzzles import draw_puzzle, read_puzzles, vary_puzzle
from pages.tutorial import FACES, STEP, draw_page, photograph

import cv2
import numpy as np
from tqdm import tqdm

SIZES = {"tutorial": (300, 100), "photo": (3000, 250)}  # puzzles for training and validation

# Settings of the tutorial's pages; those of print and camera stand in pages/tutorial.py.
# Cells are cut both ways: (side of the straightened board in pixels, part cut off each side of a cell).
FRAMINGS = ((9 * STEP, 0.0), (BOARD_SIDE, 0.12))

# Settings of the photo pages; those of fonts, print, paper and camera stand in their modules.
BOARDS_PER_PUZZLE = 5
MORE_GIVENS_PROBABILITY, MORE_GIVENS = 0.4, (41, 81)
TRAIN_PAGES_KEPT = 100
SHEET_ROWS, SHEET_COLUMNS, SHEET_TILE = 5, 8, 225  # of --sheet; its right half shows real boards


# --- pages ------------------------------------------------------------------------------------


def write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise UserError(f"cannot write {path}: is the disk full, or the folder read-only?")


def make_pages(task: tuple[str, int, str], seed: int, out: Path) -> list[list]:
    """Draws one puzzle's two pages and their cells into `out`; returns the two rows of the split's CSV."""
    split, number, puzzle = task
    page, corners = draw_page(puzzle, FACES[number // 2 % 2])
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


def make_photo(task: tuple[str, int, str], seed: int, out: Path, system_fonts: bool) -> list[list]:
    """Takes one puzzle's photo and cuts its cells into `out`; returns the row of the split's CSV."""
    split, number, puzzle = task
    photo, givens = numbered_photo(split, number, puzzle, seed, system_fonts)
    name = f"{number:06d}_cam"
    if split == "val" or number < TRAIN_PAGES_KEPT:
        write_image(out / "grids" / split / f"{name}.png", photo.view)
    for cell, pixels in enumerate(cut_photo(photo)):
        write_image(out / split / givens[cell] / f"{name}_{cell:02d}.png", pixels)
    return [[f"{name}.png", givens, *(f"{value:.2f}" for value in photo.corners.ravel())]]


def numbered_photo(split: str, number: int, puzzle: str, seed: int, system_fonts: bool) -> tuple[Photo, str]:
    """The photo that has this number in its split, and the board's givens."""
    rng = np.random.default_rng([seed, split == "val", number])
    more = int(rng.integers(MORE_GIVENS[0], MORE_GIVENS[1] + 1)) if rng.random() < MORE_GIVENS_PROBABILITY else 0
    givens = vary_puzzle(puzzle, more, rng)
    return take_photo(givens, load_fonts(split, system_fonts), rng), givens


def draw_sheet(path: Path, seed: int, system_fonts: bool) -> None:
    """Straightened photo pages on the left, real boards (if they are there) on the right: can you tell?"""
    real = sorted((REAL_BOARDS / "boards").glob("*.jpg"))
    columns = SHEET_COLUMNS // 2 if real else SHEET_COLUMNS
    rng = np.random.default_rng(seed)
    tiles = []
    for number in range(SHEET_ROWS * columns):
        photo, _ = numbered_photo("train", number, draw_puzzle(rng), seed, system_fonts)
        tiles.append(rectify(photo.view, photo.corners, BOARD_SIDE))
    halves = [tiles]
    if real:
        chosen = rng.permutation(len(real))[: SHEET_ROWS * columns]
        halves.append([cv2.imread(str(real[i]), cv2.IMREAD_GRAYSCALE) for i in chosen])
    sheet = np.hstack([tiled(half, columns) for half in halves])
    write_file(path, lambda name: write_image(Path(name), sheet))


def tiled(boards: list[np.ndarray], columns: int) -> np.ndarray:
    """Boards reduced to SHEET_TILE pixels, in rows of `columns`."""
    small = [cv2.resize(board, (SHEET_TILE, SHEET_TILE), interpolation=cv2.INTER_AREA) for board in boards]
    return np.vstack([np.hstack(small[i : i + columns]) for i in range(0, len(small), columns)])


def numbered_puzzle(number: int, seed: int) -> str:
    return draw_puzzle(np.random.default_rng([seed, number]))


# --- the data folder --------------------------------------------------------------------------


def set_up_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the parent, however that ends
    cv2.setNumThreads(1)  # the processes are the parallelism


def draw_data(args: argparse.Namespace, new: Path) -> dict[str, int]:
    """Draws everything into the folder `new`; returns the number of cells of each class and split."""
    splits = ["train"] * args.train + ["val"] * args.val
    numbers = [*range(args.train), *range(args.val)]
    shared = BOARDS_PER_PUZZLE if args.style == "photo" else 1  # no puzzle serves for both splits
    used = [
        number // shared + (split == "val") * -(-args.train // shared)
        for split, number in zip(splits, numbers, strict=True)
    ]
    needed = used[-1] + 1
    for split in ("train", "val"):
        (new / "grids" / split).mkdir(parents=True)
        for label in range(10):
            (new / split / str(label)).mkdir(parents=True)

    pool = ProcessPoolExecutor(args.workers, initializer=set_up_worker)
    try:
        progress = partial(tqdm, mininterval=0.5)
        if args.puzzles:
            own = read_puzzles(args.puzzles)
            if len(own) < needed:
                part = len(own) // 4
                raise UserError(
                    f"{args.puzzles} has {len(own)} different puzzles, but --train {args.train} --val {args.val} need "
                    f"{needed}: ask for fewer, such as --train {shared * (len(own) - part)} --val {shared * part}"
                )
            puzzles = [own[i] for i in np.random.default_rng(args.seed).permutation(len(own))[:needed]]
        else:
            drawn = pool.map(partial(numbered_puzzle, seed=args.seed), range(needed), chunksize=4)
            puzzles = list(progress(drawn, desc="draw puzzles", unit=" puzzles", total=needed))
        assert len(set(puzzles)) == len(puzzles), "a puzzle was drawn twice"

        make = partial(make_photo, system_fonts=args.system_fonts) if args.style == "photo" else make_pages
        tasks = [(split, number, puzzles[i]) for split, number, i in zip(splits, numbers, used, strict=True)]
        pages = pool.map(partial(make, seed=args.seed, out=new), tasks, chunksize=4)
        rows = list(progress(pages, desc="draw pages", unit=" boards", total=len(tasks)))
    finally:
        pool.shutdown(cancel_futures=True)

    for split in ("train", "val"):
        with (new / "grids" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["page", "givens", *(f"{axis}{corner}" for corner in range(4) for axis in "xy")])
            writer.writerows(row for task, made in zip(tasks, rows, strict=True) if task[0] == split for row in made)
    counts = {f"{split}/{label}": 0 for split in ("train", "val") for label in range(10)}
    for split, made in zip(splits, rows, strict=True):
        for _, givens, *_ in made:
            for label in givens:
                counts[f"{split}/{label}"] += 1
    return counts


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--style", choices=[*SIZES], default="tutorial", help="which pages are drawn")
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=positive_int, metavar="N", help="puzzles for training (300; photo: 3000)")
    parser.add_argument("--val", type=positive_int, metavar="N", help="puzzles for validation (100; photo: 250)")
    parser.add_argument("--puzzles", type=Path, metavar="FILE", help="own puzzles, 81 characters a line, 0 or . blank")
    parser.add_argument("--seed", type=natural_int, default=0, help="of puzzles and camera; same seed, same bytes")
    parser.add_argument("--workers", type=positive_int, default=available_cpus(), metavar="N", help="processes")
    parser.add_argument("--system-fonts", action="store_true", help="photo: train on Debian's fonts too, if installed")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw nothing but a sheet of photo pages, to look at")
    args = parser.parse_args()
    if max(args.train or 0, args.val or 0) > 999_999:
        parser.error("--train and --val: file names have room for 999,999 puzzles")
    if args.workers > 1024:
        parser.error(f"--workers: {args.workers} processes are more than any machine needs, 1024 at most")
    args.train, args.val = args.train or SIZES[args.style][0], args.val or SIZES[args.style][1]
    if args.sheet:
        draw_sheet(args.sheet, args.seed, args.system_fonts)
        return print(f"Done. Sheet of photo pages: {args.sheet}")

    parts = [args.out / name for name in ("train", "val", "grids")]
    taken = [part for part in parts if part.exists()]
    if taken and not (args.out / MARKER).exists():
        raise UserError(
            f"{taken[0]} was not made by this script: it is used as it is and never overwritten; "
            "to draw new data, choose another folder with --out (make DATA=)"
        )
    fonts = {}
    if args.style == "photo":
        fonts = {split: [font.family for font in load_fonts(split, args.system_fonts)] for split in ("train", "val")}
    args.out.mkdir(parents=True, exist_ok=True)
    # By process: what a killed run's workers still write must not get among this one's files.
    new, old = (args.out / f".{name}.{os.getpid()}" for name in ("new", "old"))
    for leftover in (*args.out.glob(".new.*"), *args.out.glob(".old.*")):
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
        report = {"settings": settings, "cells": counts} | ({"fonts": fonts} if fonts else {}) | {"run": describe_run()}
        write_json(args.out / PREPARED, report)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
    for split in ("train", "val"):
        cells = [counts[f"{split}/{label}"] for label in range(10)]
        print(f"{split}: {sum(cells):,} cells, {sum(cells[1:]):,} of them digits, from {getattr(args, split)} puzzles")
    print(f"Done. Output under: {args.out}")


if __name__ == "__main__":
    run_script(main)
