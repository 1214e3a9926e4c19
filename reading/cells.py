# SPDX-License-Identifier: Apache-2.0
"""Read the cells of a straightened board with the network: the turn, the digits, and the digits that are possible."""

import contextlib
from typing import NamedTuple

import numpy as np
import onnxruntime

from digitnet_boards import cut_cells
from digitnet_data import BLANK, CELL_SIZE, NUM_CLASSES, normalize
from digitnet_onnx import run_logits, softmax
from pages.puzzles import SearchLimitError
from reading.ink import Ink, compare_ink, compare_shades, levels, measure_ink
from reading.rules import UNIT_CELLS, Reason, Rules, place_of, repeats

CROP = (0.06, 0.09, 0.12)  # crop margins at which every cell is read; the logits are averaged
SMALL_DIGITS = 0.3  # of a cell: smaller digits are cropped more, until they are as large as in training
USUAL_DIGITS = 0.5  # of a cell: the size of digits in training
MAX_CROP = 0.3
DARK_ENOUGH = 90  # grey levels between ink and paper, as in training: paler digits get more contrast
MAX_GAIN = 5.0  # of contrast: enough for screens with 20 grey levels between digits and cells
RAISED_GAIN = 8.0  # of contrast in blank cells: reveals a digit that kept a twelfth of its contrast
SEEN = 0.2  # by which a digit looks more alike if the network is sure to see it in such a cell
ODD = 0.6  # likeness to the board's other digits of its class: less has a pencil mark or a ghost, no print
ALIKE = 0.8  # least likeness to a digit of a cell that reads as blank and may hold it
LIKELY = 0.2  # least probability of such a digit, without more contrast
PALE_DIGITS = 4  # pale digits that all agree with the solution of the dark ones: no ghosts do, but 1 of 9**4
PRINTED = 72  # of 81 digits that agree with one solution: a printed solution
POSSIBLE = 0.02  # a class with this probability may be the truth


class CellReadings(NamedTuple):
    """The reading of a board's cells after a turn."""

    turn: int  # quarter turns counterclockwise
    sized: np.ndarray  # bool [81]: the cells with ink as dark and as large as a digit
    logits: np.ndarray  # float32 [margins, 81, 10]
    alike: np.ndarray  # float32 [81, 10]: likeness to the board's other digits of each class; of blanks, by ink, too
    digits: np.ndarray  # int64 [81]
    unique: bool  # the digits have exactly one solution
    agree: bool  # and those whose ink cannot be a digit's agree with it: they are printed all the same

    @property
    def probabilities(self) -> np.ndarray:
        """Return the probability of each class; float32 [81, 10]."""
        return softmax(self.logits.mean(axis=0))


def raise_contrast(page: np.ndarray, darkness: float) -> np.ndarray:
    """Stretch a page whose digits are less dark than any in training, around the level of its paper."""
    gain = min(DARK_ENOUGH / max(darkness, 1), MAX_GAIN)
    paper = float(np.median(page[::3, ::3]))
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


def read_raised(session: onnxruntime.InferenceSession, cells: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Read the cells in the mask `blank`, bool [81], with RAISED_GAIN times the contrast around their paper.

    `cells` is uint8 [81, 28, 28]. Returns their logits, float32 [81, 10]; 0 of other cells.
    """
    logits = np.zeros((81, NUM_CLASSES), np.float32)
    if blank.any():
        paper = levels(cells[blank].reshape(-1, CELL_SIZE**2).astype(np.float32), 0.6)[0][:, None, None]
        logits[blank] = read_logits(session, np.clip(paper + RAISED_GAIN * (cells[blank] - paper), 0, 255))
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

    def read_turned(turn: int) -> CellReadings:
        turned = np.ascontiguousarray(np.rot90(page, turn))
        its_ink = measure_ink(turned) if turn else ink
        cut = np.stack([cut_cells(turned, margin) for margin in crop])
        logits = read_logits(session, cut)
        guesses = logits.mean(axis=0).argmax(axis=1)
        sized = its_ink.digit_sized
        shades = compare_shades(turned, np.where(sized, guesses, BLANK))
        digits, unique, agree = choose_digits(rules, guesses, sized, shades)
        blank = digits == BLANK
        seen = softmax(read_raised(session, cut[-1], blank))
        alike = np.where(blank[:, None], np.maximum(shades + SEEN * seen, compare_ink(its_ink, digits)), shades)
        return CellReadings(turn, sized, logits, alike, digits, unique, agree)

    likely = turn_likelihoods(session, cut_cells(page, crop[len(crop) // 2]), ink)
    first, second = np.argsort(-likely, kind="stable")[:2].tolist()  # of equal ones, upright comes first
    cells = read_turned(first)
    if not cells.unique:
        other = read_turned(second)
        cells = other if other.unique else cells
    return cells, float(likely[cells.turn] - np.delete(likely, cells.turn).max())


def choose_digits(
    rules: Rules, guesses: np.ndarray, sized: np.ndarray, alike: np.ndarray
) -> tuple[np.ndarray, bool, bool]:
    """Return the digits, int [81]; cells whose ink cannot be a digit (ghosts, texture, pencil marks) become blank.

    If these do not have exactly one solution, the oddest ones become blank, too, one after another; if that does not
    help, the ink may be wrong, as with a pale print, and all guesses are tried. They are also taken if those left out
    agree with the solution. The other results are whether there is one, and whether those left out agree with it.
    """
    digits = np.where(sized, guesses, BLANK)
    likeness, readings = alike[np.arange(81), guesses], [digits]
    for cell in np.argsort(likeness):
        if digits[cell] != BLANK and likeness[cell] < ODD:
            readings.append(np.where(np.arange(81) == cell, BLANK, readings[-1]))
    with contextlib.suppress(SearchLimitError):  # undecided: Rules.judge reports it
        full = complete(rules, guesses)
        if full is not None:
            return np.where((guesses == BLANK) & ~sized, BLANK, full), True, True
        for reading in (*readings, guesses):
            found = rules.solve(reading)
            if len(found) == 1:
                pale = reading != guesses
                agree = bool(np.count_nonzero(pale) >= PALE_DIGITS and (guesses == found[0])[pale].all())
                return guesses if agree else reading, True, agree
    return readings[-1], False, False


def complete(rules: Rules, guesses: np.ndarray) -> np.ndarray | None:
    """Return the solution, int [81], with which nearly all cells of a printed solution agree; None for a puzzle."""
    if np.count_nonzero(guesses) < PRINTED:
        return None
    repeated = (np.eye(10, dtype=bool)[guesses][UNIT_CELLS] & repeats(guesses)[:, None]).any(axis=2)
    found = rules.solve(np.where(np.isin(np.arange(81), UNIT_CELLS[repeated]), BLANK, guesses))
    agree = len(found) == 1 and np.count_nonzero(guesses == found[0]) >= PRINTED
    return np.array(found[0]) if agree else None


def possible_readings(cells: CellReadings) -> list[set[int]]:
    """List the other classes that each cell may hold: likely ones, the best at any crop margin, those of its shape."""
    every, blank, probabilities = np.arange(81), cells.digits == BLANK, cells.probabilities
    if cells.agree and not blank.any():  # 81 digits that obey the rules prove one another
        return [set()] * 81
    possible = probabilities > POSSIBLE
    possible[every, cells.logits.argmax(axis=2)] = True
    odd = (cells.alike[every, cells.digits] < ODD) | ~cells.sized
    possible[:, BLANK] |= odd & (not cells.agree)
    possible[blank] = ((probabilities > LIKELY) | (cells.alike > ALIKE))[blank]
    possible[every, cells.digits] = False
    return [set(np.flatnonzero(row).tolist()) for row in possible]


def changed_digits(cells: CellReadings) -> list[Reason]:
    """Return a reason that names the digits which the network reads otherwise; none if there are none."""
    guesses = cells.probabilities.argmax(axis=1)
    places = tuple(np.flatnonzero((cells.digits != BLANK) & (cells.digits != guesses)).tolist())
    text = f"the rules leave another digit than is seen: {', '.join(map(place_of, places))}"
    return [Reason(text, places)] if places else []
