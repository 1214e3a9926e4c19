# SPDX-License-Identifier: Apache-2.0
"""Draw pencil marks, which are no answers, and answers by hand."""

import numpy as np

from pages.newspaper import STEP, chance
from pages.pens import Pen, Sheet, cells_of, disc, middle, pick_pen, some, stamp


def marks(sheet: Sheet, rng: np.random.Generator) -> None:
    """Draw pencil marks in blank cells, and sometimes left-over ones beside big digits."""
    places, by_hand = chance(rng, 0.5), chance(rng, 0.5)
    pen = pick_pen(sheet.hands if by_hand else sheet.fonts, by_hand, rng)
    if not by_hand:
        pen = pen._replace(ink=rng.uniform(0.2, 0.95))
    discs = chance(rng, 0.12)
    height = rng.uniform(0.12, 0.22) if places else rng.uniform(0.18, 0.55)
    row_at = np.array([rng.choice([-0.3, 0, 0.3]), rng.choice([-0.25, -0.2, 0, 0.2], p=[0.4, 0.3, 0.15, 0.15])])
    pitch = rng.uniform(0.25, 0.32)
    fullness = rng.uniform(0.08, 0.5)
    for cell in some(cells_of(sheet.givens, blank=True), 0.1, 1, rng):
        wanted = np.flatnonzero(rng.random(9) < fullness) + 1
        if places:
            mark_places(sheet.page, cell, wanted, pen, height, pitch, discs, rng)
        else:
            mark_row(sheet.page, cell, wanted[:4], pen, height, row_at, rng)
    if chance(rng, 0.4):
        for cell in some(cells_of(sheet.givens, blank=False), 0, 0.5, rng):
            mark_corner(sheet.page, cell, int(rng.integers(1, 10)), pen, rng.uniform(0.12, 0.24), rng)


def mark_places(
    page: np.ndarray,
    cell: int,
    digits: np.ndarray,
    pen: Pen,
    height: float,
    pitch: float,
    discs: bool,
    rng: np.random.Generator,
) -> None:
    """Draw each digit at its place in a 3x3 grid; by hand roughly so. A 5 alone gets a 9, or it would be an answer."""
    for digit in digits if list(digits) != [5] else [5, 9]:
        row, column = divmod(int(digit) - 1, 3)
        at = middle(cell) + STEP * pitch * np.array([column - 1, row - 1])
        if pen.by_hand:
            at = at + rng.normal(0, 0.03 * STEP, 2)
        if discs and chance(rng, 0.4):
            disc(page, at, 0.15 * STEP, rng.uniform(0.3, 0.8))
        stamp(page, pen.draw(int(digit), height * STEP, rng), at, pen.ink)


def mark_row(
    page: np.ndarray, cell: int, digits: np.ndarray, pen: Pen, height: float, at: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw digits side by side, centred `at`; a single one goes into a corner, so that it is no answer."""
    if len(digits) == 1:
        mark_corner(page, cell, int(digits[0]), pen, min(height, 0.38), rng)
        return
    height = min(height, 1.2 / max(1, len(digits)))  # they fit the cell
    width = rng.uniform(0.55, 0.68) * height
    room = np.maximum(0, 0.5 - np.array([len(digits) * width, height]) / 2)
    at = np.clip(at + rng.normal(0, 0.03, 2), -room, room)
    for place, digit in enumerate(digits):
        nudge = np.array([(place - (len(digits) - 1) / 2) * width, 0]) + rng.normal(0, 0.015, 2)
        stamp(page, pen.draw(int(digit), height * STEP, rng), middle(cell) + STEP * (at + nudge), pen.ink)


def mark_corner(page: np.ndarray, cell: int, digit: int, pen: Pen, height: float, rng: np.random.Generator) -> None:
    """Draw a small digit in a corner or at an edge."""
    side = rng.choice([-1, 1], 2)
    if height < 0.26:  # in the middle of an edge, too
        side[rng.integers(2)] *= rng.integers(2)
    far = 0.5 - height / 2 - rng.uniform(-0.02, 0.05)
    at = middle(cell) + STEP * side * (far * np.array([1.08, 1]))
    stamp(page, pen.draw(digit, height * STEP, rng), at, pen.ink)


def hand(sheet: Sheet, rng: np.random.Generator) -> None:
    """Write the digits of `sheet.written` by hand."""
    pen = pick_pen(sheet.hands, True, rng)
    pen = pen._replace(ink=rng.uniform(0.42, 0.95))
    height = rng.uniform(0.48, 0.8)
    twice = chance(rng, 0.3)  # drawn over
    for cell in sheet.written:
        size = height * rng.uniform(0.88, 1.12)
        at = middle(cell) + STEP * np.clip(rng.normal(0, 0.07, 2), -0.14, 0.14)
        for _ in range(2 if twice and chance(rng, 0.6) else 1):
            shape = pen.draw(int(sheet.givens[cell]), size * STEP, rng)
            stamp(sheet.page, shape, at + rng.normal(0, 0.02 * STEP, 2), pen.ink)
