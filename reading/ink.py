# SPDX-License-Identifier: Apache-2.0
"""Measure darkness, size, place and shape of the ink in a straightened board, without a network."""

from typing import NamedTuple

import cv2
import numpy as np

from digitnet_boards import cut_cells
from digitnet_data import BLANK, NUM_CLASSES

CELL = 50  # pixels of a straightened cell, as in training
MIN_GIVENS = 17  # no Sudoku with fewer has one solution
PALE = 0.4  # of the darkness of the board's digits: paler ink is the reverse page's
SMALL = 0.5  # of the size of the board's digits: a smaller piece is a pencil mark or a speck
SPECK = 0.05  # of a cell: a smaller piece is no rest of a digit
OUTSTANDING = 3.0  # times the contrast of three in four faint cells: a selected cell's pale digit, no texture
FLIPPED = 2.0  # least ratio of light ink to dark ink in a cell whose digit is light
SHADES_SIDE = 13  # pixels of a cell whose shades are compared: enough for digits, too few for texture
SHIFT = 2  # pixels each way, by which a cell is shifted to compare it with another
UNKNOWN = 0.7  # likeness to a digit that the board does not have, or of its only one


class Ink(NamedTuple):
    """The ink of 81 cells; lengths are in cells."""

    sizes: np.ndarray  # float [81], width or height of the largest piece that reaches the cell's middle; 0 if none does
    size: float  # of a typical digit
    mask: np.ndarray  # bool [81, 40, 40]: where a cell, without its border, has ink

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


def even_cells(page: np.ndarray) -> np.ndarray:
    """Give cells of other colours, as a selected cell or a dark box has, those of a page that is dark on light."""
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
    return cells.astype(np.uint8).reshape(9, 9, CELL, CELL).swapaxes(1, 2).reshape(page.shape)


def measure_ink(page: np.ndarray) -> Ink:
    """Measure the ink of a straightened board, dark on light, uint8 [9 * CELL, 9 * CELL].

    Darkness is the absorbed part of the light, so that a shadow on the page does not matter.
    """
    cells = split_cells(page, CELL // 10)
    paper = np.maximum(levels(cells.reshape(81, -1), 0.6)[0], 1)
    darkest = 1 - levels(cells[:, 3:-3, 3:-3].reshape(81, -1), 0.03)[0] / paper
    typical = of_typical_digit(darkest)
    ink = (cells < ((1 - PALE * typical) * paper)[:, None, None]).astype(np.uint8)
    side, pitch = cells.shape[1], cells.shape[1] + 1
    apart = np.pad(ink, ((0, 0), (0, 1), (0, 1)))  # in one picture, as 81 small ones take longer
    apart = apart.reshape(9, 9, pitch, pitch).swapaxes(1, 2).reshape(9 * pitch, 9 * pitch)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(apart, connectivity=8)
    column, row = stats[:, :2].T // pitch
    middle = np.arange(9)[:, None] * pitch + np.arange(side)[side // 4 : -side // 4]
    reached = np.unique(labels[np.ix_(middle.ravel(), middle.ravel())])
    reached = reached[reached > 0]
    sizes = np.zeros(81)
    np.maximum.at(sizes, (9 * row + column)[reached], stats[reached, 2:4].max(axis=1) / CELL)
    return Ink(sizes, of_typical_digit(sizes), ink > 0)


def shifted(cells: np.ndarray) -> np.ndarray:
    """Return the inner pixels of cells, [N, H, H], after each shift; float32 [N, shifts, pixels], unshifted midway."""
    side, shifts = cells.shape[1] - 2 * SHIFT, (2 * SHIFT + 1) ** 2
    views = np.lib.stride_tricks.sliding_window_view(cells, (side, side), axis=(1, 2))
    return views.reshape(len(cells), shifts, side * side).astype(np.float32)


def best_of_class(alike: np.ndarray, digits: np.ndarray, unknown: float) -> np.ndarray:
    """Return the best likeness to other cells of each class; float32 [81, 10], `unknown` where there is none.

    `alike` has the likeness of all cells to those that `digits`, [81], does not leave blank: [81, G]. It is changed.
    """
    given, best = np.flatnonzero(digits), np.full((81, NUM_CLASSES), -1, np.float32)
    alike[given, np.arange(len(given))] = -1
    for digit in np.unique(digits[given]):
        best[:, digit] = alike[:, digits[given] == digit].max(axis=1)
    return np.where(best == -1, unknown, best)


def compare_shades(page: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Return how alike each cell and the board's other digits are; float32 [81, 10] by class.

    It is the normalized cross-correlation after the best shift: near 1 for a digit of the same print, also a faded or
    blurred one; less for handwriting; low for paper.
    """
    views = shifted(cut_cells(page, 0.1, SHADES_SIDE))
    views -= views.mean(axis=2, keepdims=True)
    views /= np.maximum(np.linalg.norm(views, axis=2, keepdims=True), 1)
    shapes = views[digits != BLANK, views.shape[1] // 2]
    return best_of_class((views @ shapes.T).max(axis=1), digits, UNKNOWN)


def compare_ink(ink: Ink, digits: np.ndarray) -> np.ndarray:
    """Return how well the ink of each blank cell fits the board's digits; float32 [81, 10] by class, 0 of other cells.

    It is the larger of two parts after the best shift: that of the ink which lies within the digit, as of a damaged
    digit, and that of the digit which lies within the ink, as of one that is crossed out.
    """
    given, rest = digits != BLANK, (digits == BLANK) & (ink.sizes > SPECK)
    wide = cv2.dilate(ink.mask.astype(np.uint8).transpose(1, 2, 0), np.ones((3, 3))).transpose(2, 0, 1)
    side = ink.mask.shape[1] - 2 * SHIFT
    shapes, wide_shapes = (
        pictures[given, SHIFT:-SHIFT, SHIFT:-SHIFT].reshape(-1, side * side).T.astype(np.float32)
        for pictures in (ink.mask, wide)
    )
    within = (shifted(ink.mask[rest]) @ wide_shapes).max(axis=1) / ink.mask[rest].sum(axis=(1, 2))[:, None]
    around = (shifted(wide[rest]) @ shapes).max(axis=1) / np.maximum(shapes.sum(axis=0), 1)
    fit = np.zeros((81, np.count_nonzero(given)), np.float32)
    fit[rest] = np.maximum(within, around)
    return np.where(rest[:, None], best_of_class(fit, digits, 1), 0)
