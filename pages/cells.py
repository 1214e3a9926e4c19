# SPDX-License-Identifier: Apache-2.0
"""Draw a puzzle's pages, cut them into cells, and write both; 02_PrepareData.py plans what is drawn."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from digitnet_boards import BOARD_SIDE, cut_cells, rectify
from digitnet_data import CELL_SIZE
from pages.camera import Photo, aim, cut_photo, take_photo
from pages.fonts import load_fonts, load_hands
from pages.newspaper import chance
from pages.puzzles import vary_puzzle
from pages.tutorial import FACES, PAGE_STEP, draw_page, view_page

SPLITS = ("train", "val", "calibration")
CHAPTER_CROP_MARGINS = (0.0, 0.12)  # alternating; 0 at the page's own resolution, 0.12 at BOARD_SIDE
MORE_GIVENS_PROBABILITY, MORE_GIVENS = 0.4, (41, 81)  # of photo pages
# Level 1 with this strategy halves a page's file, in little time.
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


class Task(NamedTuple):
    """A puzzle to draw: as a photo with these `effects`, or as the chapter's pages if that is None."""

    split: str
    numbers: tuple[int, ...]  # in its split; a photo's cells are cut anew for each
    puzzle: str
    effects: frozenset[str] | None
    keeps_photo: bool = False  # as a page


class Drawn(NamedTuple):
    """What a task has drawn: rows of grids/SPLIT.csv and of SPLIT_boards/labels.csv, and all cells' digits."""

    pages: list[list[str]]
    boards: list[list[str]]
    digits: str


def write_image(path: str, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W], as PNG."""
    # cv2.imwrite is 1.5 times slower and hides errors; Path is 1.25 times slower.
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(cv2.imencode(".png", image, PNG)[1].tobytes())


def write_board(folder: str, name: str, cells: np.ndarray) -> None:
    """Write 81 cells, uint8 [81, 28, 28], side by side as one image of a folder of boards."""
    board = cells.reshape(9, 9, CELL_SIZE, CELL_SIZE).swapaxes(1, 2).reshape(9 * CELL_SIZE, 9 * CELL_SIZE)
    write_image(f"{folder}/boards/{name}.png", board)


def page_row(name: str, givens: str, corners: np.ndarray) -> list[str]:
    """Return a page's row of grids/*.csv."""
    return [f"{name}.png", givens, *(f"{value:.2f}" for value in corners.ravel())]


def make_pages(task: Task, seed: int, out: Path) -> Drawn:
    """Draw a puzzle's clean page, a camera's views of it and their cells into `out`."""
    split, numbers, puzzle = task[:3]
    page, corners = draw_page(puzzle, FACES[numbers[0] // 2 % 2])
    images = [(numbers[0], "clean", page, corners, corners)]
    for number in numbers:
        rng = np.random.default_rng([seed, split == "val", number])
        view, where = view_page(page, corners, rng)
        # Further views are cut at corners as a detector finds them, half of them with one far off.
        found = where if number == numbers[0] else aim(where, 9 * PAGE_STEP, rng, chance(rng, 0.5))[0]
        images.append((number, "cam", view, where, found))
    drawn = Drawn([], [], puzzle * len(images))
    for number, kind, image, where, found in images:
        crop_margin = CHAPTER_CROP_MARGINS[(number + (kind == "cam")) % 2]
        cells = cut_cells(rectify(image, found, BOARD_SIDE if crop_margin else 9 * PAGE_STEP), crop_margin)
        if number > numbers[0]:
            write_board(f"{out}/{split}_boards", f"{number:06d}", cells)
            drawn.boards.append([f"{number:06d}", puzzle])
            continue
        name = f"{number:06d}_{kind}"
        write_image(f"{out}/grids/{split}/{name}.png", image)
        drawn.pages.append(page_row(name, puzzle, where))
        for cell, pixels in enumerate(cells):
            write_image(f"{out}/{split}/{puzzle[cell]}/{name}_{cell:02d}.png", pixels)
    return drawn


def make_photo(task: Task, seed: int, out: Path) -> Drawn:
    """Take a puzzle's photo and cut its boards into `out`."""
    split, numbers, puzzle, effects, keeps_photo = task
    assert effects is not None
    rng = np.random.default_rng([seed, SPLITS.index(split), numbers[0]])
    more = int(rng.integers(MORE_GIVENS[0], MORE_GIVENS[1] + 1)) if rng.random() < MORE_GIVENS_PROBABILITY else 0
    givens = vary_puzzle(puzzle, more, rng)
    fonts = "train" if split == "train" else "val"
    photo = take_photo(givens, load_fonts(fonts), load_hands(fonts), rng, effects)
    side = float(np.linalg.norm(photo.corners[1] - photo.corners[0]))
    drawn = Drawn([], [], givens * len(numbers))
    for number in numbers:
        name = f"{number:06d}"
        if keeps_photo:
            write_image(f"{out}/grids/{split}/{name}_cam.png", photo.view)
            drawn.pages.append(page_row(f"{name}_cam", givens, photo.corners))
        write_board(f"{out}/{split}_boards", name, cut_photo(photo))
        drawn.boards.append([name, givens])
        photo = Photo(photo.view, photo.corners, *aim(photo.corners, side, rng))  # for the next number
    return drawn


def make(task: Task, seed: int, out: Path) -> Drawn:
    """Draw a task's pages and cells into `out`."""
    return make_pages(task, seed, out) if task.effects is None else make_photo(task, seed, out)
