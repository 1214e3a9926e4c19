# SPDX-License-Identifier: Apache-2.0
"""The rules of Sudoku decide which readings are verified, which cells are doubted, and what is proposed."""

import numpy as np
import pytest

from pages.puzzles import SearchLimitError, solutions
from reading.rules import MAX_STEPS, Rules, repeats


@pytest.fixture(scope="module")
def puzzle(full_puzzle):
    """The digits of a puzzle, some of them redundant, and its solution; int [81]."""
    digits = np.array([int(digit) for digit in full_puzzle])
    solution = next(solutions({cell: int(digit) for cell, digit in enumerate(digits) if digit}))
    return digits, np.array(solution)


def judged(digits, others=None, sure=0.9):
    """Return the verdict on digits; `others` has other possible readings of cells: {cell: digit}."""
    others = others or {}
    probabilities = np.full((81, 10), 0.001, np.float32)
    probabilities[np.arange(81), digits] = sure
    for cell, digit in others.items():
        probabilities[cell, digit] = 0.09
    return Rules().judge(digits, probabilities, [{others[cell]} if cell in others else set() for cell in range(81)])


def split_by_need(digits):
    """Split the cells with digits into redundant and necessary ones."""
    redundant = [cell for cell in np.flatnonzero(digits) if Rules().is_unique(digits, cell, 0)]
    return redundant, sorted(set(np.flatnonzero(digits)) - set(redundant))


def test_a_puzzle_as_printed_is_verified(puzzle):
    digits, solution = puzzle
    verdict = judged(digits)
    assert verdict.reasons == [] and verdict.solution == solution.tolist() and verdict.proposal is None


def test_repeated_digits_are_named_by_place_and_corrected_by_a_proposal(puzzle):
    digits, _ = puzzle
    cell = int(np.flatnonzero(digits)[-1])
    row = [c for c in np.flatnonzero(digits) if c // 9 == cell // 9 and c != cell]
    wrong = digits.copy()
    wrong[cell] = digits[row[0]]
    verdict = judged(wrong, {cell: int(digits[cell])})
    where = [f"r{c // 9 + 1}c{c % 9 + 1}" for c in sorted([row[0], cell])]
    assert f"{wrong[cell]} is repeated in row {cell // 9 + 1}: {' and '.join(where)}" in [
        r.text for r in verdict.reasons
    ]
    assert verdict.solution is None and verdict.proposal == (cell, digits[cell])


def test_without_a_likely_other_reading_nothing_is_proposed(puzzle):
    digits, _ = puzzle
    lost = split_by_need(digits)[1][0]
    wrong = digits.copy()
    wrong[lost] = 0
    verdict = judged(wrong)
    assert [r.text for r in verdict.reasons] == ["there is more than one solution"] and verdict.proposal is None
    assert judged(wrong, {lost: int(digits[lost])}).proposal == (lost, digits[lost])


def test_a_lost_digit_that_is_redundant_is_doubted(puzzle):
    """The reading has one solution, and is wrong: only the cell's other reading shows it."""
    digits, solution = puzzle
    cell = split_by_need(digits)[0][0]
    wrong = digits.copy()
    wrong[cell] = 0
    doubt = f"r{cell // 9 + 1}c{cell % 9 + 1} reads as blank, but may be {digits[cell]}"
    assert [r.text for r in judged(wrong, {cell: int(digits[cell])}).reasons] == [doubt]
    other = int(solution[cell]) % 9 + 1
    assert judged(wrong, {cell: other}).reasons == []  # the rules exclude it


def test_a_redundant_digit_that_may_be_blank_is_doubted(puzzle):
    digits, _ = puzzle
    redundant, needed = split_by_need(digits)
    assert [r.cells for r in judged(digits, {redundant[0]: 0}).reasons] == [(redundant[0],)]
    assert judged(digits, {needed[0]: 0}).reasons == []


def test_a_misread_digit_that_leads_to_another_solution_is_doubted(puzzle):
    digits, _ = puzzle
    cases = [(c, d) for c in split_by_need(digits)[1] for d in range(1, 10) if d != digits[c]]
    cell, other = next((c, d) for c, d in cases if Rules().is_unique(digits, c, d))
    wrong = digits.copy()
    wrong[cell] = other
    assert judged(wrong).reasons == []  # nothing shows the error
    assert [r.cells for r in judged(wrong, {cell: int(digits[cell])}).reasons] == [(cell,)]


def test_too_few_digits_are_never_verified(puzzle):
    digits, _ = puzzle
    few = digits.copy()
    few[np.flatnonzero(digits)[12:]] = 0
    assert [r.text for r in judged(few).reasons] == ["12 digits are too few for one solution"]
    assert judged(np.zeros(81, np.int64)).reasons


def test_a_solution_is_kept_when_only_other_readings_are_undecided(puzzle, monkeypatch):
    digits, solution = puzzle
    found = set()
    for steps in range(1, 99):
        monkeypatch.setattr("reading.rules.MAX_STEPS", steps)
        verdict = judged(digits, {cell: 0 for cell in np.flatnonzero(digits)})
        text = verdict.reasons[0].text
        if "was not decided" in text:
            found.add(text.removesuffix(f" was not decided in {steps} steps"))
            assert verdict.solution == solution.tolist()
    assert found == {"whether another reading has one solution"}


def test_a_puzzle_that_is_hard_to_refute_ends_in_doubt():
    """Without a limit this one takes minutes."""
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
    digits = np.array([int(c) for c in hard.replace(".", "0")])
    assert not repeats(digits).any()
    with pytest.raises(SearchLimitError):
        Rules().solve(digits)
    assert judged(digits).reasons[0].text == f"whether there is one solution was not decided in {MAX_STEPS} steps"
