# SPDX-License-Identifier: Apache-2.0
"""Sheets and pens: draw single digits, printed or by hand, on a printed page."""

from typing import NamedTuple

import cv2
import numpy as np

from pages.fonts import Font, draw_glyphs, pick_file
from pages.newspaper import EDGE, PAGE, STEP, chance

INK = 0.35, 0.95  # the part of the light that a pen's digits absorb


class Sheet(NamedTuple):
    """A printed page with what effects need to know of it."""

    page: np.ndarray  # reflectance, float32 [PAGE, PAGE], changed in place
    givens: str  # 81 characters, 0 = blank
    written: np.ndarray  # int [n], the cells whose digits are written by hand, and not on the page yet
    ink: float  # the part of the light that its digits absorb
    fonts: tuple[Font, ...]  # of print
    hands: tuple[Font, ...]  # of handwriting


def cells_of(givens: str, blank: bool) -> np.ndarray:
    """Return the numbers of the blank cells or of the others, int [n]."""
    return np.array([cell for cell, digit in enumerate(givens) if (digit == "0") == blank], int)


def some(cells: np.ndarray, least: float, most: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random part of `cells`, of a size between two fractions."""
    return rng.permutation(cells)[: round(rng.uniform(least, most) * len(cells))]


def middle(cell: int) -> np.ndarray:
    """Return the middle of a cell on the page, (x, y)."""
    return np.array([EDGE + (cell % 9 + 0.5) * STEP, EDGE + (cell // 9 + 0.5) * STEP])


def stamp(page: np.ndarray, shape: np.ndarray, at: np.ndarray, ink: float) -> None:
    """Darken `page` by `ink` where `shape`, float32 [h, w], is 1; `at` is its middle (x, y)."""
    height, width = shape.shape
    left, top = round(at[0] - width / 2), round(at[1] - height / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, PAGE), min(top + height, PAGE)
    if x0 < x1 and y0 < y1:
        page[y0:y1, x0:x1] *= 1 - ink * shape[y0 - top : y1 - top, x0 - left : x1 - left]


def disc(page: np.ndarray, at: np.ndarray, radius: float, tone: float) -> None:
    """Darken a disc by the factor `tone`."""
    layer = np.zeros((2 * int(radius) + 5,) * 2, np.float32)
    cv2.circle(layer, (int(radius) + 2,) * 2, int(radius), 1, -1, cv2.LINE_AA)
    stamp(page, layer, at, 1 - tone)


class Pen(NamedTuple):
    """A face's nine glyphs, their darkness, and whether they are handwriting."""

    glyphs: np.ndarray  # float32 [9, H, W]
    ink: float
    by_hand: bool

    def draw(self, digit: int, height: float, rng: np.random.Generator) -> np.ndarray:
        """Return a digit, float32 [h, w], `height` pixels high; by hand, no two are equal."""
        glyph = self.glyphs[digit - 1]
        if not self.by_hand:
            scale = height / len(glyph)
            size = max(2, round(glyph.shape[1] * scale)), max(4, round(height))
            return cv2.resize(glyph, size, interpolation=cv2.INTER_AREA)
        rows, columns = np.flatnonzero(glyph.max(axis=1) > 0.5), np.flatnonzero(glyph.max(axis=0) > 0.5)
        glyph = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Twice the size, turned and sheared, then reduced: that smooths the edges.
        zoom = 2 * height / len(glyph)
        side = int(2.6 * height)
        turn, shear = rng.normal(0, 0.09), rng.normal(0, 0.12)
        stretch = zoom * rng.uniform(0.8, 1.15)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = matrix @ np.array([[stretch, shear * zoom], [0, zoom * rng.uniform(0.92, 1.08)]])
        shift = side / 2 - matrix @ (np.array(glyph.shape[::-1]) / 2)
        soft = cv2.GaussianBlur(glyph, (0, 0), 0.4 / zoom)
        shape = cv2.warpAffine(soft, np.column_stack([matrix, shift]), (side, side))
        return cv2.resize(shape, (side // 2, side // 2), interpolation=cv2.INTER_AREA)


def pick_pen(fonts: tuple[Font, ...], by_hand: bool, rng: np.random.Generator) -> Pen:
    """Return a random face of random darkness; handwriting gets strokes of random width."""
    glyphs = draw_glyphs(pick_file(fonts, rng), rng)
    if by_hand:
        glyphs = dressed(glyphs, rng)
        thick = int(rng.integers(1, 9))
        glyphs = np.stack([cv2.dilate(glyph, np.ones((thick, thick), np.uint8)) for glyph in glyphs])
    return Pen(glyphs, rng.uniform(*INK), by_hand)


def dressed(glyphs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the glyphs, some with a foot and a flag on the 1 and a bar through the 7."""
    glyphs = glyphs.copy()
    pen = max(2, round(0.06 * glyphs.shape[1]))

    def box(digit: int) -> tuple[int, int, int, int]:
        ink = glyphs[digit - 1] > 0.5
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        return columns[0], rows[0], columns[-1], rows[-1]

    left, top, right, bottom = box(1)
    middle_of_1, reach = (left + right) // 2, int(rng.uniform(0.15, 0.3) * (bottom - top))
    if chance(rng, 0.5):
        cv2.line(glyphs[0], (middle_of_1 - reach, bottom), (middle_of_1 + reach, bottom), 1, pen, cv2.LINE_AA)
    if chance(rng, 0.5):
        cv2.line(glyphs[0], (right, top), (right - reach, top + reach), 1, pen, cv2.LINE_AA)
    left, top, right, bottom = box(7)
    if chance(rng, 0.4):
        x, y = (left + 2 * right) // 3, (top + bottom) // 2
        cv2.line(glyphs[6], (x - reach, y), (x + reach, y), 1, pen)
    return glyphs
