#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw Sudoku pages and cut them into the 28x28 cells that the networks are trained on. No download.

data/{train,val}/0..9/000000_clean_00.png   cells: puzzle, page, 9 * row + column
data/grids/{train,val}/000000_clean.png     pages: a clean print and a camera's view of it
data/grids/{train,val}.csv                  each page's givens and the grid's corners in pixels
data/calibration/0..9/000000_cam_00.png     newspapers' cells in fonts that are not in train: 03_Training.py sets the
                                            scale of the logits by them

Puzzles have exactly one solution; no puzzle is both in train and in val. The same seed gives the same
bytes, whatever the number of workers.

--style tutorial: digits as OpenCV 4 or OpenCV 5 prints them, a clean print and a mild camera. Half of the
pages give whole cells with their grid lines (as the chapter's preparation does), half give cells with 12 %
cut off each side (as the later chapters' grid processor does). After them, train has two more camera views of
each page, cut at slightly wrong corners, then two photos of newspapers per puzzle, each cut twice, without most
effects of pages/effects.py; val has the chapter's pages only.
--style photo: one photo of a newspaper's board per puzzle (pages/camera.py), most at crop margins 0, 6 or 12 %.
Each puzzle yields five boards: digits renamed, grid turned, sometimes more givens, as printed solutions have.
Keeps the pages of the first 100 training photos and of all validation photos. --without leaves out effects by name.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.realpath(__file__)))  # PYTHONSAFEPATH leaves it out
from digitnet_cli import UserError, argument_parser, cores, keep_inputs, positive_int, run_script, seed

# isort: split
import argparse
import csv
import math
import shlex
import shutil
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from digitnet_boards import BOARD_SIDE, CORNER_COLUMNS, cut_cells, rectify
from digitnet_data import MARKER, PREPARED
from digitnet_machine import alone_in, available_cpus, open_pool, sync, write_json
from digitnet_scores import describe_run
from pages import FAMILIES
from pages.camera import Photo, aim, cut_photo, take_photo
from pages.fonts import load_fonts, load_hands
from pages.puzzles import draw_puzzle, judge_puzzle, read_puzzles, vary_puzzle
from pages.tutorial import FACES, PAGE_STEP, draw_page, view_page

# --- settings: those of the command line stand in parse_args, those of the pages in pages/ ------
SIZES = {"tutorial": (300, 100), "photo": (3000, 250)}  # puzzles for training and validation
CHAPTER_CROP_MARGINS = (0.0, 0.12)  # alternating; 0 at the page's own resolution, 0.12 at BOARD_SIDE
BOARDS_PER_PUZZLE = {"tutorial": 1, "photo": 5}
VIEWS = {"tutorial": 3, "photo": 1}  # of each page for training, by the camera
NEWSPAPERS = {"tutorial": 2, "photo": 0}  # photos per puzzle for training, beside the style's own pages
CUTS = 2  # per such photo, each at its own corners and crop margin, as by two clients
CALIBRATION_BOARDS = 100  # at most, and at most one per puzzle for training
MORE_GIVENS_PROBABILITY, MORE_GIVENS = 0.4, (41, 81)  # of photo pages
TRAIN_PAGES_KEPT = 100
SPLITS = ("train", "val", "calibration")


def parse_args() -> argparse.Namespace:
    """Read the command line; --train and --val default to the style's numbers."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--style", choices=SIZES, default="tutorial", help="which pages are drawn")
    add("--out", type=Path, default=Path("data"), metavar="DIR", help="folder to write to")
    add("--train", type=positive_int, metavar="N", help="puzzles for training (300; photo: 3000)")
    add("--val", type=positive_int, metavar="N", help="puzzles for validation (100; photo: 250)")
    add("--puzzles", type=Path, metavar="FILE", help="own puzzles, one per line, 0 or another mark for blanks")
    add("--seed", type=seed, default=0, help="of puzzles and camera; same seed, same bytes")
    add("--without", nargs="+", choices=FAMILIES, default=[], metavar="EFFECT", help=f"photo: {', '.join(FAMILIES)}")
    add("--workers", type=cores, default=available_cpus(), metavar="N", help="processes")
    args = parser.parse_args()
    if max(args.train or 0, args.val or 0) > 999_999:
        parser.error("--train and --val: file names have room for 999,999 puzzles")
    args.train, args.val = args.train or SIZES[args.style][0], args.val or SIZES[args.style][1]
    return args


class Task(NamedTuple):
    """A puzzle to draw: as the chapter's pages if `without` is None, else as a photo without these effects."""

    split: str
    numbers: tuple[int, ...]  # in its split; a photo's cells are cut anew for each
    puzzle: str
    without: frozenset[str] | None


def write_image(path: str, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W], as PNG."""
    # cv2.imwrite is 1.5 times slower and hides errors; Path is 1.25 times slower.
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(cv2.imencode(".png", image)[1].tobytes())


def make_pages(task: Task, seed: int, out: Path) -> list[list]:
    """Draw a puzzle's clean page, a camera's views of it and their cells into `out`; return rows of the split's CSV."""
    split, numbers, puzzle, _ = task
    page, corners = draw_page(puzzle, FACES[numbers[0] // 2 % 2])
    images = [(numbers[0], "clean", page, corners, corners)]
    for number in numbers:
        rng = np.random.default_rng([seed, split == "val", number])
        view, where = view_page(page, corners, rng)
        # Further views are cut at corners as a detector finds them.
        found = where if number == numbers[0] else aim(where, 9 * PAGE_STEP, rng)[0]
        images.append((number, "cam", view, where, found))
    rows = []
    for number, kind, image, where, found in images:
        name = f"{number:06d}_{kind}"
        write_image(f"{out}/grids/{split}/{name}.png", image)
        crop_margin = CHAPTER_CROP_MARGINS[(number + (kind == "cam")) % 2]
        board = rectify(image, found, BOARD_SIDE if crop_margin else 9 * PAGE_STEP)
        for cell, pixels in enumerate(cut_cells(board, crop_margin)):
            write_image(f"{out}/{split}/{puzzle[cell]}/{name}_{cell:02d}.png", pixels)
        rows.append([f"{name}.png", puzzle, *(f"{value:.2f}" for value in where.ravel())])
    return rows


def make_photo(task: Task, seed: int, out: Path) -> list[list]:
    """Take a puzzle's photo and cut its cells into `out`; return the rows of the split's CSV."""
    split, numbers, puzzle, without = task
    rng = np.random.default_rng([seed, SPLITS.index(split), numbers[0]])
    more = int(rng.integers(MORE_GIVENS[0], MORE_GIVENS[1] + 1)) if rng.random() < MORE_GIVENS_PROBABILITY else 0
    givens = vary_puzzle(puzzle, more, rng)
    fonts = "train" if split == "train" else "val"
    photo = take_photo(givens, load_fonts(fonts), load_hands(fonts), rng, without or frozenset())
    side = float(np.linalg.norm(photo.corners[1] - photo.corners[0]))
    rows = []
    for number in numbers:
        name = f"{number:06d}_cam"
        if split == "val" or (split == "train" and number < TRAIN_PAGES_KEPT):
            write_image(f"{out}/grids/{split}/{name}.png", photo.view)
        for cell, pixels in enumerate(cut_photo(photo)):
            write_image(f"{out}/{split}/{givens[cell]}/{name}_{cell:02d}.png", pixels)
        rows.append([f"{name}.png", givens, *(f"{value:.2f}" for value in photo.corners.ravel())])
        photo = Photo(photo.view, photo.corners, *aim(photo.corners, side, rng))  # for the next number
    return rows


def make(task: Task, seed: int, out: Path) -> list[list]:
    """Draw a task's pages and cells into `out`; return the rows of the split's CSV."""
    return make_pages(task, seed, out) if task.without is None else make_photo(task, seed, out)


def plan(args: argparse.Namespace, puzzles: list[str]) -> list[Task]:
    """List all tasks: the style's own pages, newspapers beside the chapter's pages, calibration boards."""
    boards = BOARDS_PER_PUZZLE[args.style]
    for_train = math.ceil(args.train / boards)
    own = None if args.style == "tutorial" else frozenset(args.without)
    clean = frozenset(FAMILIES) - {"corners", "small"}  # newspapers have both
    pages = args.train * VIEWS[args.style]
    tasks = [
        Task("train", tuple(range(number, pages, args.train)), puzzles[number // boards], own)
        for number in range(args.train)
    ]
    tasks += [Task("val", (number,), puzzles[for_train + number // boards], own) for number in range(args.val)]
    for i in range(args.train * NEWSPAPERS[args.style]):
        numbers = tuple(pages + CUTS * i + cut for cut in range(CUTS))
        tasks.append(Task("train", numbers, puzzles[i % for_train], clean))
    calibration = range(min(args.train, CALIBRATION_BOARDS))
    return tasks + [Task("calibration", (number,), puzzles[number % for_train], clean) for number in calibration]


def numbered_puzzle(number: int, seed: int) -> str:
    """Draw puzzle `number`; it depends on no other, so the order of the workers does not matter."""
    return draw_puzzle(np.random.default_rng([seed, number]))


def choose_puzzles(args: argparse.Namespace, needed: int, pool: Executor) -> list[str]:
    """Draw `needed` different puzzles, or take them from the reader's file. Raises UserError if that has too few."""
    if not args.puzzles:
        drawn = pool.map(partial(numbered_puzzle, seed=args.seed), range(needed), chunksize=4)
        puzzles = list(tqdm(drawn, "draw puzzles", unit=" puzzles", total=needed, mininterval=0.5))
        assert len(set(puzzles)) == needed, "a puzzle was drawn twice"
        return puzzles
    lines = read_puzzles(args.puzzles)
    own = list(lines)
    chosen = [own[i] for i in np.random.default_rng(args.seed).permutation(len(own))[:needed]]
    judged = pool.map(judge_puzzle, chosen, chunksize=4)
    judged = tqdm(judged, "check puzzles", unit=" puzzles", total=len(chosen), disable=not chosen)
    for puzzle, problem in zip(chosen, judged, strict=True):
        if problem:
            raise UserError(f"{args.puzzles}, line {lines[puzzle]}: {problem}: correct or remove the line")
    if len(own) < needed:
        boards, val = BOARDS_PER_PUZZLE[args.style], max(1, len(own) // 4)
        fewer = f"ask for fewer, such as --train {boards * (len(own) - val)} --val {boards * val}"
        problem = f"{len(own)} different puzzles, but --train {args.train} --val {args.val} need {needed}"
        raise UserError(f"{args.puzzles} has {problem}: {fewer if len(own) > 1 else 'give at least 2'}")
    return chosen


def draw_data(args: argparse.Namespace, new: Path) -> dict[str, int]:
    """Draw everything into the folder `new`; return the number of cells per split and class."""
    for split in SPLITS:
        for label in range(10):
            (new / split / str(label)).mkdir(parents=True)
    for split in ("train", "val"):
        (new / "grids" / split).mkdir(parents=True)
    needed = sum(math.ceil(boards / BOARDS_PER_PUZZLE[args.style]) for boards in (args.train, args.val))
    cv2.setNumThreads(1)  # one thread each; set before forking, which does not copy threads
    with open_pool(args.workers, f"or run `{shlex.join([sys.executable, *sys.argv, '--workers', '1'])}`") as pool:
        puzzles = choose_puzzles(args, needed, pool)
        tasks = plan(args, puzzles)
        pages = pool.map(partial(make, seed=args.seed, out=new), tasks, chunksize=4)
        rows = list(tqdm(pages, "draw pages", unit=" boards", total=len(tasks), mininterval=0.5))

    counts = {f"{split}/{label}": 0 for split in SPLITS for label in range(10)}
    for split in SPLITS:
        made = [row for task, of_puzzle in zip(tasks, rows, strict=True) if task.split == split for row in of_puzzle]
        made.sort(key=lambda row: row[0][:6])  # by number: a page's other views come after all pages
        if split != "calibration":
            with (new / "grids" / f"{split}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["page", "givens", *CORNER_COLUMNS])
                writer.writerows(made)
        for _, givens, *_ in made:
            for label in givens:
                counts[f"{split}/{label}"] += 1
    return counts


def swap_in(new: Path, old: Path, out: Path, report: dict) -> None:
    """Replace the parts of the data folder `out` by those of `new`, and move the old parts to `old`.

    Without prepared.json, which is removed first and written last, a data folder counts as half-written. Each step is
    synced to disk before the next, because a power cut could otherwise keep only a later one.
    """
    os.sync()  # all cells at once
    (out / MARKER).touch()
    (out / PREPARED).unlink(missing_ok=True)
    old.mkdir()
    sync(out)
    for part in (*SPLITS, "grids"):
        if (out / part).exists():
            (out / part).rename(old / part)
        (new / part).rename(out / part)
    sync(out)
    write_json(out / PREPARED, report)


def prepare(args: argparse.Namespace) -> dict[str, int]:
    """Draw the data and replace older data of this script; return the counts of draw_data.

    Raises UserError if the folder holds data that this script did not make.
    """
    foreign = [args.out / part for part in (*SPLITS, "grids") if (args.out / part).exists()]
    if foreign and not (args.out / MARKER).exists():
        raise UserError(
            f"{foreign[0]} was not made by this script, which never overwrites other data; "
            "to draw new data, choose another folder with --out (make DATA=)"
        )
    keep_inputs([args.out / part for part in (*SPLITS, "grids", PREPARED)], [args.puzzles])
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    report: dict = {"settings": settings}
    report["fonts"] = {split: [font.family for font in load_fonts(split)] for split in ("train", "val")}
    with alone_in(args.out):
        # Named after the process, so that workers of a killed run cannot write into this run's folder.
        new, old = (args.out / f".{name}.{os.getpid()}" for name in ("new", "old"))
        for leftover in (*args.out.glob(".new.*"), *args.out.glob(".old.*")):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            counts = draw_data(args, new)
            swap_in(new, old, args.out, report | {"cells": counts, "run": describe_run()})
        finally:
            for leftover in (new, old):
                shutil.rmtree(leftover, ignore_errors=True)
    return counts


def main(args: argparse.Namespace) -> None:
    """Draw the data and print the number of cells per split."""
    counts = prepare(args)
    for split in ("train", "val"):
        cells = [counts[f"{split}/{label}"] for label in range(10)]
        print(f"{split}: {sum(cells):,} cells, {sum(cells[1:]):,} of them digits, from {getattr(args, split)} puzzles")
    print(f"Done. Output under: {args.out}")


if __name__ == "__main__":
    run_script(main, parse_args())
