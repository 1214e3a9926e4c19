# SPDX-License-Identifier: Apache-2.0
"""Measure darkness, size and place of the ink in a straightened board, without a network."""

from typing import NamedTuple

import cv2
import numpy as np

CELL = 50  # pixels of a straightened cell, as in training
MIN_GIVENS = 17  # no Sudoku with fewer has one solution
PALE = 0.4  # of the darkness of the board's digits: paler ink is the reverse page's
SMALL = 0.5  # of the size of the board's digits: a smaller piece is a pencil mark or a speck
DARK = 0.6  # of the darkness of the board's digits: in a blank cell's middle, darker ink may be the rest of a digit
SPECK = 0.005  # of the pixels of a cell's middle: so many may be darker
THROUGH = 0.75  # of a cell: a longer piece is the rest of a grid line
LINE = 0.16  # of a cell: so is a thinner piece at the crop's edge
OUTSTANDING = 3.0  # times the contrast of three in four faint cells: a selected cell's pale digit, no texture
FLIPPED = 2.0  # least ratio of light ink to dark ink in a cell whose digit is light
OVERLAP = 0.5  # of a mark's width: marks written side by side overlap by less


class Ink(NamedTuple):
    """The ink of 81 cells, without the rests of grid lines; lengths are in cells."""

    sizes: np.ndarray  # float [81], width or height of the largest piece that reaches the cell's middle; 0 if none does
    size: float  # of a typical digit
    beside: np.ndarray  # bool [81]: marks are side by side
    stacked: np.ndarray  # bool [81]: or one above the other, which is side by side on a turned page
    raised: np.ndarray  # bool [81]: so pale that even_cells raised the contrast; what they show may be no digit
    dark: np.ndarray  # bool [81]: as dark in the middle as digits are

    def turned(self, turn: int) -> "Ink":
        """Return the ink after `turn` quarter turns counterclockwise, as by numpy.rot90."""
        places = np.rot90(np.arange(81).reshape(9, 9), turn).ravel()
        beside, stacked = (self.stacked, self.beside) if turn % 2 else (self.beside, self.stacked)
        return Ink(self.sizes[places], self.size, *(m[places] for m in (beside, stacked, self.raised, self.dark)))

    @property
    def digit_sized(self) -> np.ndarray:
        """Mask of the cells with a piece of ink as dark and as large as a digit; bool [81]."""
        return self.sizes > SMALL * self.size


def split_cells(page: np.ndarray, inset: int) -> np.ndarray:
    """Split a page into its 81 cells, `inset` pixels cut off each side; float32 [81, N, N]."""
    cells = page.reshape(9, CELL, 9, CELL).swapaxes(1, 2).reshape(81, CELL, CELL)
    return cells[:, inset : CELL - inset, inset : CELL - inset].astype(np.float32)


def levels(cells: np.ndarray, *parts: float) -> list[np.ndarray]:
    """Return, for each part from 0 to 1, the grey level below which this part of a cell's pixels lies; cells [..., N].

    Sorting takes a third of the time of np.percentile.
    """
    ordered = np.sort(cells, axis=-1)
    return [ordered[..., round(part * (cells.shape[-1] - 1))] for part in parts]


def of_typical_digit(values: np.ndarray) -> float:
    """Return a typical digit's value: the median of the largest 17 of 81 cells, since there are at least 17 digits."""
    return float(np.median(np.sort(values)[-MIN_GIVENS:]))


def darkness_and_light(page: np.ndarray) -> tuple[float, float]:
    """Measure how much darker, and how much lighter, a typical digit is than its cell, in grey levels."""
    darkest, middle, lightest = levels(split_cells(page, CELL // 6).reshape(81, -1), 0.02, 0.5, 0.98)
    return of_typical_digit(middle - darkest), of_typical_digit(lightest - middle)


def even_cells(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give cells of other colours, as a selected cell or a dark box has, those of a page that is dark on light.

    Returns the page, uint8, and the mask, bool [81], of the cells so pale that what they show may be no digit.
    """
    cells, inset, inner = split_cells(page, 0), CELL // 10, CELL // 6
    rim = np.pad(np.zeros((CELL - 2 * inner,) * 2, bool), inner - inset, constant_values=True)  # beside line and digit
    (ground,) = levels(split_cells(page, inset)[:, rim], 0.5)
    darkest, lightest = levels(split_cells(page, inner).reshape(81, -1), 0.02, 0.98)
    dark, light = ground - darkest, lightest - ground
    contrast = np.maximum(dark, light)
    typical, paper = of_typical_digit(contrast), levels(ground, 0.9)[0]  # light, also where most cells are dark
    faint = contrast[contrast < SMALL * typical]
    clear = contrast > min(SMALL * typical, OUTSTANDING * np.percentile(faint, 75) if len(faint) else np.inf)
    raised, flipped = clear & (contrast < PALE * typical), clear & (light > FLIPPED * dark)
    gain = np.where(flipped, -1, 1) * np.where(raised, typical / np.maximum(contrast, 1), 1)
    changed = raised | flipped
    even = paper + gain[changed, None, None] * (cells[changed] - ground[changed, None, None])
    cells[changed] = np.clip(even, 0, 255)
    return cells.astype(np.uint8).reshape(9, 9, CELL, CELL).swapaxes(1, 2).reshape(page.shape), raised


def measure_ink(page: np.ndarray, raised: np.ndarray) -> Ink:
    """Measure the ink of a straightened board, dark on light, uint8 [9 * CELL, 9 * CELL]; `raised` is as in Ink.

    Darkness is the absorbed part of the light, so that a shadow on the page does not matter.
    """
    cells = split_cells(page, CELL // 10)
    paper = np.maximum(levels(cells.reshape(81, -1), 0.6)[0], 1)
    darkest = 1 - levels(cells[:, 3:-3, 3:-3].reshape(81, -1), 0.03)[0] / paper
    typical = of_typical_digit(darkest)
    ink = (cells < ((1 - PALE * typical) * paper)[:, None, None]).astype(np.uint8)
    side, pitch = cells.shape[1], cells.shape[1] + 1
    inner = slice(side // 4, side - side // 4)
    dark = 1 - levels(cells[:, inner, inner].reshape(81, -1), SPECK)[0] / paper > DARK * typical

    apart = np.pad(ink, ((0, 0), (0, 1), (0, 1)))  # in one picture, as 81 small ones take longer
    apart = apart.reshape(9, 9, pitch, pitch).swapaxes(1, 2).reshape(9 * pitch, 9 * pitch)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(apart, connectivity=8)
    column, x = np.divmod(stats[1:, 0], pitch)
    row, y = np.divmod(stats[1:, 1], pitch)
    cell, boxes = 9 * row + column, np.column_stack([x, y, stats[1:, 2:4]]) / CELL  # x, y, width, height
    middle = np.arange(9)[:, None] * pitch + np.arange(side)[inner]
    reached = np.unique(labels[np.ix_(middle.ravel(), middle.ravel())])
    reached = reached[reached > 0] - 1
    sizes = np.zeros(81)
    np.maximum.at(sizes, cell[reached], boxes[reached, 2:].max(axis=1))
    at_edge = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, :2] + boxes[:, 2:] > side / CELL - 1e-6).any(axis=1)
    line = at_edge & (boxes[:, 2:].min(axis=1) < LINE) | (boxes[:, 2:].max(axis=1) > THROUGH)
    size = of_typical_digit(sizes)
    beside, stacked = (find_marks(cell[~line], boxes[~line], axis, SMALL * size) for axis in (0, 1))
    return Ink(sizes, size, beside, stacked, raised, dark)


def find_marks(cell: np.ndarray, boxes: np.ndarray, axis: int, min_size: float) -> np.ndarray:
    """Find cells with pieces of ink side by side along `axis`, or merged into one that is wider than high; bool [81].

    `cell` has the cell of each piece, [N]; `boxes` its x, y, width and height, [N, 4].
    """
    highest = np.zeros(81)
    np.maximum.at(highest, cell, boxes[:, 3 - axis])
    large = (boxes[:, 3 - axis] > 0.5 * highest[cell]) & (highest[cell] >= min_size)
    cell = cell[large]
    start, length, height = boxes[large].T[[axis, axis + 2, 3 - axis]]
    shared = np.minimum.outer(start + length, start + length) - np.maximum.outer(start, start)
    apart = (shared < OVERLAP * np.minimum.outer(length, length)) & np.equal.outer(cell, cell)
    return np.isin(np.arange(81), cell[(length > height) | apart.any(axis=1)])
