# SPDX-License-Identifier: Apache-2.0
"""Read the cells of a straightened board with the network: the turn, the digits, and the digits that are possible."""

import contextlib
from typing import NamedTuple

import numpy as np
import onnxruntime

from digitnet_boards import cut_cells
from digitnet_data import BLANK, CELL_SIZE, CONFIDENCE_THRESHOLD, NUM_CLASSES, normalize
from digitnet_onnx import run_logits, softmax
from pages.puzzles import SearchLimitError
from reading.ink import Ink, levels
from reading.rules import UNIT_CELLS, Reason, Rules, place_of, repeats

CROP = (0.06, 0.09, 0.12)  # crop margins at which every cell is read; the logits are averaged
SMALL_DIGITS = 0.3  # of a cell: smaller digits are cropped more, until they are as large as in training
USUAL_DIGITS = 0.5  # of a cell: the size of digits in training
MAX_CROP = 0.3
DARK_ENOUGH = 90  # grey levels between ink and paper, as in training: paler digits get more contrast
MAX_GAIN = 5.0  # of contrast: enough for screens with 20 grey levels between digits and cells
RAISED_GAIN = 8.0  # of contrast in blank cells: reveals a digit that kept a twelfth of its contrast
SHIFTS = (2, 2), (0, 0), (0, 4), (4, 0), (4, 4)  # of such a cell, in pixels: at each, texture reads otherwise
BLEACHED = 0.7  # least probability of such a digit, over the shifts
PALE_DIGITS = 4  # pale digits that all agree with the solution of the dark ones: no ghosts do, but 1 of 9**4
PRINTED = 72  # of 81 digits that agree with one solution: a printed solution
POSSIBLE = 0.02  # a class with this probability may be the truth


class CellReadings(NamedTuple):
    """The reading of a board's cells after a turn."""

    turn: int  # quarter turns counterclockwise
    ink: Ink
    logits: np.ndarray  # float32 [margins, 81, 10]
    raised: np.ndarray  # float32 [81, 10]: the logits of blank cells with more contrast, 0 of others
    digits: np.ndarray  # int64 [81]
    unique: bool  # the digits have exactly one solution
    agree: bool  # and those whose ink cannot be a digit's agree with it: they are printed all the same

    @property
    def probabilities(self) -> np.ndarray:
        """Return the probability of each class; float32 [81, 10]."""
        return softmax(self.logits.mean(axis=0))

    @property
    def bleached(self) -> np.ndarray:
        """Return the class that more contrast reveals in each blank cell, int64 [81]; BLANK if none is certain."""
        revealed = softmax(self.raised)
        certain = (self.digits == BLANK) & (revealed.max(axis=1) > BLEACHED)
        return np.where(certain, revealed.argmax(axis=1), BLANK)


def raise_contrast(page: np.ndarray, darkness: float) -> np.ndarray:
    """Stretch a page whose digits are less dark than any in training, around the level of its paper."""
    gain = min(DARK_ENOUGH / max(darkness, 1), MAX_GAIN)
    paper = float(np.median(page))
    return np.clip(paper + gain * (page - paper), 0, 255).astype(np.uint8) if gain > 1 else page


def crop_margins(digit_size: float) -> tuple[float, ...]:
    """Return the crop margins that show digits as large as in training; `digit_size` is in cells."""
    if not 0 < digit_size < SMALL_DIGITS:
        return CROP
    middle = min(MAX_CROP, (1 - digit_size / USUAL_DIGITS) / 2)
    return tuple(middle + margin - CROP[1] for margin in CROP)


def read_logits(session: onnxruntime.InferenceSession, cells: np.ndarray) -> np.ndarray:
    """Read cells, [..., 28, 28] of 0 to 255; float32 [..., 10]."""
    *shape, height, width = cells.shape
    return run_logits(session, normalize(cells.reshape(-1, 1, height, width))).reshape(*shape, 10)


def read_raised(
    session: onnxruntime.InferenceSession, page: np.ndarray, crop_margin: float, blank: np.ndarray
) -> np.ndarray:
    """Read the cells in the mask `blank`, bool [81], with RAISED_GAIN times the contrast, at each of SHIFTS.

    Returns the means of their logits, float32 [81, 10]; 0 of other cells.
    """
    logits = np.zeros((81, NUM_CLASSES), np.float32)
    if blank.any():
        cells = cut_cells(page, crop_margin, CELL_SIZE + max(SHIFTS[-1]))[blank].astype(np.float32)
        paper = levels(cells.reshape(len(cells), -1), 0.6)[0][:, None, None]
        raised = np.clip(paper + RAISED_GAIN * (cells - paper), 0, 255)
        shifted = np.stack([raised[:, y : y + CELL_SIZE, x : x + CELL_SIZE] for y, x in SHIFTS])
        logits[blank] = read_logits(session, shifted).mean(axis=0)
    return logits


def turn_likelihoods(session: onnxruntime.InferenceSession, cells: np.ndarray, ink: Ink) -> np.ndarray:
    """Return the log likelihood that 0 to 3 quarter turns counterclockwise set `cells` upright; float [4].

    It is the log probability of the best digits, where there is ink of a digit's size, less one for each repeated
    digit.
    """
    counted = np.flatnonzero(ink.digit_sized)
    if not len(counted):
        return np.zeros(4)
    turned = np.stack([np.rot90(cells[counted], turn, axes=(1, 2)) for turn in range(4)])
    probabilities = softmax(read_logits(session, turned))[..., 1:]
    guesses = np.zeros((4, 81), np.int64)  # not turned: digits that are repeated stay so
    guesses[:, counted] = 1 + probabilities.argmax(axis=2)
    likely = np.log(probabilities.max(axis=2)).sum(axis=1)
    return likely - [np.count_nonzero(repeats(guess)) for guess in guesses]


def read_upright(
    session: onnxruntime.InferenceSession, rules: Rules, page: np.ndarray, ink: Ink, crop: tuple[float, ...]
) -> tuple[CellReadings, float]:
    """Read a straightened board turned upright; also return the gap in log likelihood to the best other turn.

    If the digits of the likeliest turn do not have exactly one solution, but those of the second do, take the second:
    old-style digits may look likelier upside down, but then contradict the rules.
    """
    middle = len(crop) // 2

    def read_turned(turn: int) -> CellReadings:
        turned, its_ink = np.ascontiguousarray(np.rot90(page, turn)), ink.turned(turn)
        logits = read_logits(session, np.stack([cut_cells(turned, margin) for margin in crop]))
        digits, unique, agree = choose_digits(rules, logits.mean(axis=0).argmax(axis=1), its_ink)
        raised = read_raised(session, turned, crop[middle], digits == BLANK)
        return CellReadings(turn, its_ink, logits, raised, digits, unique, agree)

    likely = turn_likelihoods(session, cut_cells(page, crop[middle]), ink)
    first, second = np.argsort(-likely, kind="stable")[:2].tolist()  # of equal ones, upright comes first
    cells = read_turned(first)
    if not cells.unique:
        other = read_turned(second)
        cells = other if other.unique else cells
    return cells, float(likely[cells.turn] - np.delete(likely, cells.turn).max())


def choose_digits(rules: Rules, guesses: np.ndarray, ink: Ink) -> tuple[np.ndarray, bool, bool]:
    """Return the digits, int [81]; cells whose ink cannot be a digit (ghosts, texture, pencil marks) become blank.

    The ink may be wrong, as with a pale print: so return the first reading, with or without this rule, that has one
    solution, and all guesses if those left out agree with it. The other results are whether there is one solution,
    and whether digits with doubtful ink are known to agree with it.
    """
    digits = np.where(ink.digit_sized, guesses, BLANK)
    unmarked = np.where(ink.beside | ink.raised, BLANK, digits)
    with contextlib.suppress(SearchLimitError):  # undecided: Rules.judge reports it
        full = complete(rules, guesses)
        if full is not None:
            return np.where((guesses == BLANK) & ~ink.digit_sized, BLANK, full), True, True
        for reading in (digits, unmarked, guesses):
            found = rules.solve(reading)
            if len(found) == 1:
                pale = reading != guesses
                agree = bool(np.count_nonzero(pale) >= PALE_DIGITS and (guesses == found[0])[pale].all())
                return guesses if agree else reading, True, agree
    return unmarked, False, False


def complete(rules: Rules, guesses: np.ndarray) -> np.ndarray | None:
    """Return the solution, int [81], with which nearly all cells of a printed solution agree; None for a puzzle."""
    if np.count_nonzero(guesses) < PRINTED:
        return None
    repeated = (np.eye(10, dtype=bool)[guesses][UNIT_CELLS] & repeats(guesses)[:, None]).any(axis=2)
    found = rules.solve(np.where(np.isin(np.arange(81), UNIT_CELLS[repeated]), BLANK, guesses))
    agree = len(found) == 1 and np.count_nonzero(guesses == found[0]) >= PRINTED
    return np.array(found[0]) if agree else None


def possible_readings(cells: CellReadings) -> list[set[int]]:
    """List the classes that each cell may hold: likely ones, the best at any crop margin, and those the ink allows.

    A cell that reads as blank and has no ink of a digit's size is blank, unless more contrast shows a digit.
    """
    ink, probabilities = cells.ink, cells.probabilities
    guesses = probabilities.argmax(axis=1)
    bleached, possible = cells.bleached.tolist(), []
    if cells.agree and cells.digits.all():  # 81 digits that obey the rules prove one another
        return [{guess} for guess in guesses.tolist()]
    for cell in range(81):
        classes = set(np.flatnonzero(probabilities[cell] > POSSIBLE).tolist())
        classes |= set(cells.logits[:, cell].argmax(axis=1).tolist())
        if guesses[cell] != BLANK:
            doubtful = ink.beside[cell] or ink.raised[cell] or not ink.digit_sized[cell]
            classes |= {BLANK} if doubtful and not cells.agree else set()
        elif ink.digit_sized[cell]:
            classes |= set() if ink.beside[cell] else {int(probabilities[cell, 1:].argmax()) + 1}
        elif probabilities[cell, BLANK] > CONFIDENCE_THRESHOLD:
            classes = {BLANK}
        if cells.digits[cell] == BLANK:
            classes.add(bleached[cell])
        possible.append(classes)
    return possible


def ink_doubts(cells: CellReadings) -> list[Reason]:
    """Return reasons that name blank cells with ink, or that the network excludes, and digits that it reads otherwise.

    A digit in such a blank cell may be damaged.
    """
    guesses = cells.probabilities.argmax(axis=1)
    unsure = (cells.digits == BLANK) & (cells.ink.dark | (cells.probabilities[:, BLANK] < POSSIBLE))
    changed = (cells.digits != BLANK) & (cells.digits != guesses)
    named = (("ink in cells read as blank", unsure), ("the rules leave another digit than is seen", changed))
    found = [(text, tuple(np.flatnonzero(mask).tolist())) for text, mask in named]
    return [Reason(f"{text}: {', '.join(map(place_of, places))}", places) for text, places in found if places]
