# SPDX-License-Identifier: Apache-2.0
"""Judge a reading by the rules of Sudoku: repeated digits, the solution, and other readings that they allow."""

from typing import NamedTuple

import numpy as np

from digitnet_data import BLANK
from pages.puzzles import UNITS, SearchLimitError, solutions
from reading.ink import MIN_GIVENS

MAX_STEPS = 4000  # of the solver for a board, a sixth of a second at most: newspapers' boards take 10 to 200
MAX_TRIES = 40  # other readings tried for a proposal
UNIT_CELLS = np.array([sorted(unit) for unit in UNITS])  # rows, columns, boxes: [27, 9]


class Reason(NamedTuple):
    """A reason why a reading is suspect, and its cells (0 to 80, row by row)."""

    text: str
    cells: tuple[int, ...] = ()


class Verdict(NamedTuple):
    """The judgement by the rules."""

    reasons: list[Reason]  # why the reading is suspect; none if it is verified
    solution: list[int] | None = None  # 81 digits, if there is exactly one
    proposal: tuple[int, int] | None = None  # a cell, and the one other reading of it that gives exactly one solution


def place_of(cell: int) -> str:
    """Return a cell's row and column, from 1, for people: r5c4."""
    return f"r{cell // 9 + 1}c{cell % 9 + 1}"


def name_of(digit: int) -> str:
    """Return a class's name for people."""
    return "blank" if digit == BLANK else str(digit)


def repeats(digits: np.ndarray) -> np.ndarray:
    """Return which digits occur twice in a row, a column or a box; bool [27, 10], never blanks."""
    counts = np.eye(10, dtype=np.int64)[digits][UNIT_CELLS].sum(axis=1)
    counts[:, BLANK] = 0
    return counts > 1


def name_repeats(digits: np.ndarray) -> list[Reason]:
    """Return a reason for each digit that occurs twice in a row, a column or a box."""
    found = []
    for unit, digit in np.argwhere(repeats(digits)).tolist():
        cells = tuple(cell for cell in UNIT_CELLS[unit].tolist() if digits[cell] == digit)
        kind = ("row", "column", "box")[unit // 9]
        places = " and ".join(map(place_of, cells))
        found.append(Reason(f"{digit} is repeated in {kind} {unit % 9 + 1}: {places}", cells))
    return found


class Rules:
    """The solver for one board; all calls together take at most MAX_STEPS, so that no reading hangs."""

    def __init__(self) -> None:
        self.steps = iter(range(MAX_STEPS))

    def solve(self, digits: np.ndarray) -> list[list[int]]:
        """Return up to two solutions. Raises SearchLimitError when the steps are used up."""
        if repeats(digits).any():
            return []
        found = []
        for solution in solutions({cell: int(digit) for cell, digit in enumerate(digits) if digit}, steps=self.steps):
            found.append(solution)
            if len(found) == 2:
                break
        return found

    def is_unique(self, digits: np.ndarray, cell: int = 0, digit: int | None = None) -> bool:
        """Return whether there is exactly one solution, with `digit` in `cell` if given."""
        if digit is not None:
            digits = digits.copy()
            digits[cell] = digit
        return len(self.solve(digits)) == 1

    def judge(self, digits: np.ndarray, probabilities: np.ndarray, others: list[set[int]]) -> Verdict:
        """Judge digits, int [81], with `probabilities` [81, 10]; `others` has each cell's other possible classes."""
        reasons, solution = name_repeats(digits), None
        count = np.count_nonzero(digits)
        if not reasons and count < MIN_GIVENS:
            reasons.append(Reason(f"{count} digits are too few for one solution"))
        try:
            if not reasons:
                found = self.solve(digits)
                if len(found) == 1:
                    solution = found[0]
                    return Verdict(self.doubts(digits, others, solution), solution)
                reasons.append(Reason("there is more than one solution" if found else "there is no solution"))
            return Verdict(reasons, proposal=self.propose_change(digits, probabilities, others))
        except SearchLimitError:
            question = "another reading has one solution" if solution else "there is one solution"
            undecided = Reason(f"whether {question} was not decided in {MAX_STEPS} steps")
            return Verdict(reasons or [undecided], solution)

    def doubts(self, digits: np.ndarray, others: list[set[int]], solution: list[int]) -> list[Reason]:
        """Return a reason for each cell that may hold another class without breaking the rules.

        A reading with one solution can be wrong in three ways: a redundant digit is lost, a digit of the solution is
        seen in a blank cell, or a digit is misread as another one that also leads to one solution.
        """
        found = []
        for cell in range(81):
            digit, possible = int(digits[cell]), sorted(others[cell])
            if not possible:
                continue
            if digit == BLANK:
                fits = [other for other in possible if other == solution[cell]]
            elif self.is_unique(digits, cell, BLANK):  # the other digits settle the cell: nothing else but a blank
                fits = [other for other in possible if other == BLANK]
            else:
                fits = [other for other in possible if other != BLANK and self.is_unique(digits, cell, other)]
            if fits:
                names = " or ".join(map(name_of, fits))
                found.append(Reason(f"{place_of(cell)} reads as {name_of(digit)}, but may be {names}", (cell,)))
        return found

    def propose_change(
        self, digits: np.ndarray, probabilities: np.ndarray, others: list[set[int]]
    ) -> tuple[int, int] | None:
        """Return the single change of one cell that gives exactly one solution; None if there is none, or several."""
        changes = [(cell, other) for cell in range(81) for other in others[cell]]
        changes.sort(key=lambda change: -probabilities[change])
        fits = [change for change in changes[:MAX_TRIES] if self.is_unique(digits, *change)]
        return fits[0] if len(fits) == 1 else None
