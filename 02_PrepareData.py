#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw Sudoku pages and cut them into the 28x28 cells that the networks are trained on. No download.

data/{train,val}/0..9/000000_clean_00.png   the chapter's cells: puzzle, page, 9 * row + column
data/grids/{train,val}/000000_clean.png     their pages: a clean print and a camera's view of it
data/grids/{train,val}.csv                  each page's givens and the grid's corners in pixels
data/{train,val}_boards/boards/000300.png   more cells: a board of 9x9 cells, 252x252, as an image
data/{train,val}_boards/labels.csv          each board's givens
data/calibration_boards/                    newspapers' boards in fonts that are not in train: 03_Training.py sets the
                                            scale of the logits by them

Puzzles have exactly one solution; no puzzle is both in train and in val. The same seed gives the same
bytes, whatever the number of workers.

--style tutorial: digits as OpenCV 4 or OpenCV 5 prints them, a clean print and a mild camera. Half of the
pages give whole cells with their grid lines (as the chapter's preparation does), half give cells with 12 %
cut off each side (as the later chapters' grid processor does). The boards in train are two more camera views of
each page, cut at slightly wrong corners, then two photos of newspapers per puzzle, each cut twice, without most
effects of pages/effects.py; val has the chapter's pages only.
--style photo: boards alone, each from a photo of a newspaper (pages/camera.py), most at crop margins 0, 6 or 12 %.
Each puzzle yields five boards: digits renamed, grid turned, sometimes more givens, as printed solutions have.
Keeps the photos of the first 100 training boards and of all validation boards as pages.
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

import cv2
import numpy as np
from tqdm import tqdm

from digitnet_boards import CORNER_COLUMNS
from digitnet_data import MARKER, PREPARED, of_earlier_version
from digitnet_machine import alone_in, available_cpus, open_pool, sync, write_json
from digitnet_scores import describe_run
from pages import EFFECTS
from pages.cells import SPLITS, Task, make
from pages.fonts import load_fonts
from pages.puzzles import draw_puzzle, judge_puzzle, read_puzzles

# --- settings: those of the command line stand in parse_args, those of the pages in pages/ ------
SIZES = {"tutorial": (300, 100), "photo": (3000, 250)}  # puzzles for training and validation
BOARDS_PER_PUZZLE = {"tutorial": 1, "photo": 5}
CAMERA_VIEWS = {"tutorial": 3, "photo": 1}  # of each page for training, by the camera
NEWSPAPERS = {"tutorial": 2, "photo": 0}  # photos per puzzle for training, beside the style's own pages
CUTS = 2  # per such photo, each at its own corners and crop margin, as by two clients
PHOTOS_KEPT = 100  # as pages, of the photo style's training boards; of the validation boards, all
CALIBRATION_BOARDS = 100  # at most, and at most one per puzzle for training
# What is ours in a data folder; an earlier version drew calibration.
PARTS = ("train", "val", *(f"{split}_boards" for split in SPLITS), "grids", "calibration")


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
    add("--workers", type=cores, default=available_cpus(), metavar="N", help="processes")
    args = parser.parse_args()
    if max(args.train or 0, args.val or 0) > 999_999:
        parser.error("--train and --val: file names have room for 999,999 puzzles")
    args.train, args.val = args.train or SIZES[args.style][0], args.val or SIZES[args.style][1]
    return args


def plan(args: argparse.Namespace, puzzles: list[str]) -> list[Task]:
    """List all tasks: the style's own pages, newspapers beside the chapter's pages, calibration boards."""
    boards = BOARDS_PER_PUZZLE[args.style]
    for_train = math.ceil(args.train / boards)
    own = None if args.style == "tutorial" else frozenset(EFFECTS)
    few = frozenset({"corners", "small"})
    pages = args.train * CAMERA_VIEWS[args.style]
    tasks = [
        Task("train", tuple(range(number, pages, args.train)), puzzles[number // boards], own, number < PHOTOS_KEPT)
        for number in range(args.train)
    ]
    tasks += [Task("val", (number,), puzzles[for_train + number // boards], own, True) for number in range(args.val)]
    for i in range(args.train * NEWSPAPERS[args.style]):
        numbers = tuple(pages + CUTS * i + cut for cut in range(CUTS))
        tasks.append(Task("train", numbers, puzzles[i % for_train], few))
    calibration = range(min(args.train, CALIBRATION_BOARDS))
    return tasks + [Task("calibration", (number,), puzzles[number % for_train], few) for number in calibration]


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


def write_table(path: Path, head: list[str], rows: list[list[str]]) -> None:
    """Write a table of pages or boards, sorted by number."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *sorted(rows, key=lambda row: row[0][:6])])


def draw_data(args: argparse.Namespace, new: Path) -> dict[str, int]:
    """Draw everything into the folder `new`; return the number of cells per split and class."""
    folders = [f"{split}_boards/boards" for split in SPLITS] + ["grids/train", "grids/val"]
    if args.style == "tutorial":
        folders += [f"{split}/{label}" for split in ("train", "val") for label in range(10)]
    for folder in folders:
        (new / folder).mkdir(parents=True)
    needed = sum(math.ceil(boards / BOARDS_PER_PUZZLE[args.style]) for boards in (args.train, args.val))
    cv2.setNumThreads(1)  # one thread each; set before forking, which does not copy threads
    command = shlex.join([sys.executable, *sys.argv, "--workers", "1"])
    with open_pool(args.workers, f"close other programs, or run `{command}`") as pool:
        puzzles = choose_puzzles(args, needed, pool)
        tasks = plan(args, puzzles)
        pages = pool.map(partial(make, seed=args.seed, out=new), tasks, chunksize=4)
        drawn = list(tqdm(pages, "draw pages", unit=" boards", total=len(tasks), mininterval=0.5))

    counts: dict[str, int] = {}
    for split in SPLITS:
        parts = [part for task, part in zip(tasks, drawn, strict=True) if task.split == split]
        if boards := [row for part in parts for row in part.boards]:
            write_table(new / f"{split}_boards" / "labels.csv", ["board", "givens"], boards)
        else:
            shutil.rmtree(new / f"{split}_boards")
        if split != "calibration":
            rows = [row for part in parts for row in part.pages]
            write_table(new / "grids" / f"{split}.csv", ["page", "givens", *CORNER_COLUMNS], rows)
        digits = "".join(part.digits for part in parts)
        counts |= {f"{split}/{label}": digits.count(str(label)) for label in range(10)}
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
    for part in PARTS:
        if (out / part).exists():
            (out / part).rename(old / part)
        if (new / part).exists():
            (new / part).rename(out / part)
    sync(out)
    write_json(out / PREPARED, report)


def prepare(args: argparse.Namespace) -> dict[str, int]:
    """Draw the data and replace older data of this script; return the counts of draw_data.

    Raises UserError if the folder holds data that this script did not make.
    """
    parts = [args.out / part for part in PARTS]
    foreign = [part for part in parts if part.exists()]
    if foreign and not (args.out / MARKER).exists():
        raise UserError(
            f"{foreign[0]} was not made by this script, which never overwrites other data; "
            "to draw new data, choose another folder with --out (make DATA=)"
        )
    if of_earlier_version(args.out):
        print(f"{args.out} was drawn by an earlier version: drawing it anew")
    keep_inputs([*parts, args.out / PREPARED], [args.puzzles])
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
