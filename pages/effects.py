# SPDX-License-Identifier: Apache-2.0
"""Draw effects on pages.

ghosts   a board on the reverse (mirrored) or the next page that shows through, paler than the page's own ink
marks    pencil marks: one to nine small digits in a cell, printed or by hand, sometimes beside a big digit
tints    highlighted rows, columns, boxes and cells, discs behind digits
small    digits below 0.4 of the cell, as in programs that leave room for marks (pages/newspaper.py)
hand     some digits written by hand
dark     light digits on dark paper
bends    a curled page: lines bow, digits leave the middle of their cells (pages/camera.py)
corners  one corner marked far off (pages/camera.py)

A cell's label is its full-size digit, so marks and ghosts leave a blank cell blank.
"""

import cv2
import numpy as np

from pages import marks
from pages.newspaper import PAGE, STEP, chance, draw_grid
from pages.pens import Sheet, cells_of, disc, middle, pick_pen, some, stamp

GHOST_INK, UPRIGHT_GHOST_INK = 0.45, 0.25  # at most, as a part of the page's own ink
GHOST_MOST = 0.26  # at most, of the paper's light: a pale digit takes more


def ghosts(sheet: Sheet, rng: np.random.Generator) -> None:
    """Let another board show through: its digits and perhaps its lines, blurred, in cells or across them."""
    layer = np.ones((PAGE, PAGE), np.float32)
    pen = pick_pen(sheet.fonts, False, rng)
    height = rng.uniform(0.38, 0.75) * STEP
    digits = [pen.draw(digit, height, rng) for digit in range(1, 10)]
    for cell in some(np.arange(81), 0.2, 1, rng):
        stamp(layer, digits[rng.integers(9)], middle(cell), 1)
    if chance(rng, 0.5):
        layer *= 1 - draw_grid(rng, 0.0)
    mirrored = chance(rng, 0.5)
    shift = rng.normal(0, 0.07, 2) if chance(rng, 0.5) else rng.uniform(-0.5, 0.5, 2)
    layer = np.roll(layer[:, ::-1] if mirrored else layer, (STEP * shift).round().astype(int), (0, 1))
    taken = cv2.GaussianBlur(1 - layer, (0, 0), rng.uniform(0.6, 2.6))
    most = min(GHOST_MOST, (GHOST_INK if mirrored else UPRIGHT_GHOST_INK) * sheet.ink)
    sheet.page[...] *= 1 - rng.uniform(0.03, most) * taken


def tints(sheet: Sheet, rng: np.random.Generator) -> None:
    """Highlight a row, a column and a box, or random cells, or discs behind digits; sometimes a selected cell."""
    chosen = np.zeros((9, 9), bool)
    tone = rng.uniform(0.55, 0.95)
    row, column = rng.integers(9, size=2)
    kind = rng.integers(4)
    if kind == 0:
        chosen[row] = chosen[:, column] = True
    elif kind == 1:
        chosen[row // 3 * 3 : row // 3 * 3 + 3, column // 3 * 3 : column // 3 * 3 + 3] = True
        chosen[row] = chance(rng, 0.7)
    elif kind == 2:
        chosen.flat[some(np.arange(81), 0.05, 0.7, rng)] = True
    for cell in np.flatnonzero(chosen):
        shade(sheet.page, int(cell), tone)
    if kind == 3:
        radius = rng.uniform(0.32, 0.48) * STEP
        for cell in some(cells_of(sheet.givens, blank=False), 0.3, 1, rng):
            disc(sheet.page, middle(cell), radius, tone)
    if chance(rng, 0.5):  # the selected cell
        shade(sheet.page, int(9 * row + column), rng.uniform(0.5, 0.9))


def shade(page: np.ndarray, cell: int, tone: float) -> None:
    """Darken a cell by the factor `tone`."""
    x, y = (middle(cell) - STEP / 2).astype(int)
    page[y : y + STEP, x : x + STEP] *= tone


def dark(sheet: Sheet, rng: np.random.Generator) -> None:
    """Invert light and dark."""
    low, high = rng.uniform(0.03, 0.3), rng.uniform(0.6, 1.0)
    sheet.page[...] = low + (high - low) * (1 - sheet.page)


def curl(width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a curled page's displacements in cells, float32 [width, width, 2] (x, y); 0 at the corners."""
    along = np.linspace(-1, 1, width, dtype=np.float32)
    bow = np.clip(1 - along**2, 0, 1)
    steady = 1 + rng.uniform(-1, 0.5) * (along + 1) / 2  # it may fade towards the far side
    strong, weak = np.clip(rng.normal(0, 0.2), -0.4, 0.4), np.clip(rng.normal(0, 0.06), -0.2, 0.2)
    if chance(rng, 0.5):
        strong, weak = weak, strong
    return np.dstack([strong * np.outer(bow, steady), weak * np.outer(steady, bow)]).astype(np.float32)


# Those drawn on the printed page, in this order.
DRAWN = {
    "hand": marks.hand,
    "marks": marks.marks,
    "tints": tints,
    "ghosts": ghosts,
    "dark": dark,
}
