# SPDX-License-Identifier: Apache-2.0
"""Measure darkness, size and place of the ink in a straightened board, without a network."""

from typing import NamedTuple

import cv2
import numpy as np

CELL = 50  # pixels of a straightened cell, as in training
MIN_GIVENS = 17  # no Sudoku with fewer has one solution
PALE = 0.4  # of the darkness of the board's digits: paler ink is the reverse page's
SMALL = 0.5  # of the size of the board's digits: a smaller piece is a pencil mark or a speck
SPECK = 0.4  # of the size of the board's digits: a larger piece may be the rest of a digit, a smaller one is a blot
THROUGH = 0.75  # of a cell: a longer piece is the rest of a grid line
LINE = 0.16  # of a cell: so is a thinner piece at the crop's edge
OUTSTANDING = 3.0  # times the contrast of three in four faint cells: a selected cell's pale digit, no texture
FLIPPED = 2.0  # least ratio of light ink to dark ink in a cell whose digit is light
OVERLAP = 0.5  # of a mark's width: marks written side by side overlap by less


class Ink(NamedTuple):
    """The ink of 81 cells, without the rests of grid lines; lengths are in cells."""

    widths: np.ndarray  # float [81], of the largest piece that reaches the middle of the cell; 0 if none does
    heights: np.ndarray  # float [81]
    size: float  # the larger of width and height, of a typical digit
    beside: np.ndarray  # bool [81]: marks are side by side
    stacked: np.ndarray  # bool [81]: or one above the other, which is side by side on a turned page
    raised: np.ndarray  # bool [81]: so pale that even_cells raised the contrast; what they show may be no digit

    def turned(self, turn: int) -> "Ink":
        """Return the ink after `turn` quarter turns counterclockwise, as by numpy.rot90."""
        cells = [np.rot90(values.reshape(9, 9), turn).ravel() for values in (*self[:2], *self[3:])]
        widths, heights, beside, stacked, raised = cells if turn % 2 == 0 else [cells[i] for i in (1, 0, 3, 2, 4)]
        return Ink(widths, heights, self.size, beside, stacked, raised)

    @property
    def digit_sized(self) -> np.ndarray:
        """Mask of the cells with a piece of ink as dark and as large as a digit; bool [81]."""
        return np.maximum(self.widths, self.heights) > SMALL * self.size

    @property
    def inked(self) -> np.ndarray:
        """Mask of the cells with a piece of ink that is larger than a speck; bool [81]."""
        return np.maximum(self.widths, self.heights) > SPECK * self.size


def split_cells(page: np.ndarray, inset: int) -> np.ndarray:
    """Split a page into its 81 cells, `inset` pixels cut off each side; float32 [81, N, N]."""
    cells = page.reshape(9, CELL, 9, CELL).swapaxes(1, 2).reshape(81, CELL, CELL)
    return cells[:, inset : CELL - inset, inset : CELL - inset].astype(np.float32)


def of_typical_digit(values: np.ndarray) -> float:
    """Return a typical digit's value: the median of the largest 17 of 81 cells, since there are at least 17 digits."""
    return float(np.median(np.sort(values)[-MIN_GIVENS:]))


def darkness_and_light(page: np.ndarray) -> tuple[float, float]:
    """Measure how much darker, and how much lighter, a typical digit is than its cell, in grey levels."""
    cells = np.sort(split_cells(page, CELL // 6).reshape(81, -1), axis=1)
    few, half = cells.shape[1] // 50, cells.shape[1] // 2
    return of_typical_digit(cells[:, half] - cells[:, few]), of_typical_digit(cells[:, -few] - cells[:, half])


def even_cells(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give cells of other colours, as a selected cell or a dark box has, those of a page that is dark on light.

    Returns the page, uint8, and the mask, bool [81], of the cells so pale that what they show may be no digit.
    """
    cells, inset, inner = split_cells(page, 0), CELL // 10, CELL // 6
    rim = np.pad(np.zeros((CELL - 2 * inner,) * 2, bool), inner - inset, constant_values=True)  # beside line and digit
    ground = np.median(split_cells(page, inset)[:, rim], axis=1)
    darkest, lightest = np.percentile(split_cells(page, inner), (2, 98), axis=(1, 2))
    dark, light = ground - darkest, lightest - ground
    contrast = np.maximum(dark, light)
    typical, paper = of_typical_digit(contrast), float(np.median(page))
    faint = contrast[contrast < SMALL * typical]
    clear = contrast > min(SMALL * typical, OUTSTANDING * np.percentile(faint, 75) if len(faint) else np.inf)
    raised, flipped = clear & (contrast < PALE * typical), clear & (light > FLIPPED * dark)
    gain = np.where(flipped, -1, 1) * np.where(raised, typical / np.maximum(contrast, 1), 1)
    even = np.clip(paper + gain[:, None, None] * (cells - ground[:, None, None]), 0, 255)
    cells = np.where((raised | flipped)[:, None, None], even, cells).astype(np.uint8)
    return cells.reshape(9, 9, CELL, CELL).swapaxes(1, 2).reshape(page.shape), raised


def measure_ink(page: np.ndarray, raised: np.ndarray) -> Ink:
    """Measure the ink of a straightened board, dark on light, uint8 [9 * CELL, 9 * CELL]; `raised` is as in Ink.

    Darkness is the absorbed part of the light, so that a shadow on the page does not matter.
    """
    cells = split_cells(page, CELL // 10)
    paper = np.percentile(cells, 60, axis=(1, 2), keepdims=True)
    darkness = 1 - cells / np.maximum(paper, 1)
    darkest = np.percentile(darkness[:, 3:-3, 3:-3], 97, axis=(1, 2))
    ink = (darkness > PALE * of_typical_digit(darkest)).astype(np.uint8)

    side, quarter = cells.shape[1] / CELL, cells.shape[1] // 4
    sizes, pieces = np.zeros((81, 2)), []
    for cell in range(81):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(ink[cell], connectivity=8)
        boxes = stats[1:, :4] / CELL  # x, y, width, height
        reached = np.unique(labels[quarter:-quarter, quarter:-quarter])
        middle = boxes[reached[reached > 0] - 1]
        if len(middle):
            sizes[cell] = middle[middle[:, 2:].max(axis=1).argmax(), 2:]
        at_edge = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, :2] + boxes[:, 2:] > side - 1e-6).any(axis=1)
        line = at_edge & (boxes[:, 2:].min(axis=1) < LINE) | (boxes[:, 2:].max(axis=1) > THROUGH)
        pieces.append(boxes[~line])
    size = of_typical_digit(sizes.max(axis=1))
    beside, stacked = (np.array([are_marks(boxes, axis, SMALL * size) for boxes in pieces]) for axis in (0, 1))
    return Ink(sizes[:, 0], sizes[:, 1], size, beside, stacked, raised)


def are_marks(boxes: np.ndarray, axis: int, min_size: float) -> bool:
    """Return whether pieces of ink are side by side along `axis`, or merged into one that is wider than high.

    `boxes` has x, y, width and height of each, [N, 4].
    """
    start, length, height = boxes[:, axis], boxes[:, axis + 2], boxes[:, 3 - axis]
    if not len(boxes) or height.max() < min_size:
        return False
    large = height > 0.5 * height.max()
    start, length, height = start[large], length[large], height[large]
    shared = np.minimum.outer(start + length, start + length) - np.maximum.outer(start, start)
    return bool((length > height).any() or (shared < OVERLAP * np.minimum.outer(length, length)).any())
