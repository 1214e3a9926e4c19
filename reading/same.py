# SPDX-License-Identifier: Apache-2.0
"""Read one board from several photos: a digit that glare hides in one of them may show in another."""

import numpy as np

from digitnet_data import BLANK
from reading.board import Reading, judge_cells
from reading.cells import CellReadings, choose_digits
from reading.rules import Rules

EQUAL = 0.5  # of the digits of the photo with fewer: of two boards, one in nine agrees by chance, of one nearly all


def are_alike(one: Reading, other: Reading) -> bool:
    """Return whether two photos show the same board."""
    if one.digits is None or other.digits is None:
        return False
    equal = np.count_nonzero((one.digits == other.digits) & (one.digits != BLANK))
    return bool(equal > EQUAL * min(np.count_nonzero(one.digits), np.count_nonzero(other.digits)))


def choose_photos(readings: list[Reading]) -> list[str]:
    """Return, for each photo, why it is left out; "" of those of the board that most of the photos show.

    A photo whose board's place is in doubt is left out, unless it is the only one.
    """
    alike = [[are_alike(one, other) for other in readings] for one in readings]
    board = max(alike, key=sum)
    causes = []
    for reading, same in zip(readings, board, strict=True):
        whole = [reason.text for reason in reading.place or reading.reasons if not reason.cells]
        causes.append("another board" if reading.digits is not None and not same else "; ".join(whole))
    if all(causes):
        causes[board.index(True) if any(board) else 0] = ""
    return causes


def combine_readings(readings: list[Reading]) -> Reading:
    """Judge one board by several readings of it; the result has the first one's place.

    Each cell's logits are averaged, and what is possible in one photo is possible. A photo has no say in a cell that is
    covered or overexposed in it, unless it is so in all.
    """
    named = [{cell for reason in reading.place for cell in reason.cells} for reading in readings]
    covered = np.array([[cell in cells for cell in range(81)] for cells in named])
    say = ~covered | covered.all(axis=0)

    def mean(values: list[np.ndarray]) -> np.ndarray:
        """Average over the photos that have a say in a cell; the cells are the last axis but one."""
        weights = (say / say.sum(axis=0)).reshape(len(say), *[1] * (values[0].ndim - 2), 81, 1)
        return (weights * np.stack(values)).sum(axis=0).astype(np.float32)

    every = [reading.cells for reading in readings if reading.cells]
    average = mean([cells.logits for cells in every])
    logits = [np.where(mask[:, None], cells.logits, average) for cells, mask in zip(every, say, strict=True)]
    sized = np.logical_or.reduce(np.stack([cells.sized for cells in every]) & say)
    rules, joined, alike = Rules(), np.concatenate(logits), mean([cells.alike for cells in every])
    chosen = choose_digits(rules, joined.mean(axis=0).argmax(axis=1), sized, alike)
    cells = CellReadings(every[0].turn, sized, joined, alike, *chosen)
    place = tuple(reason for reason in readings[0].place if set(reason.cells) <= set.intersection(*named))
    return judge_cells(rules, readings[0], cells, place)
