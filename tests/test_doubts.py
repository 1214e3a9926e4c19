# SPDX-License-Identifier: Apache-2.0
"""Readings are verified, doubted or corrected: by the rules of Sudoku, and where glare or a stroke hides a given."""

import cv2
import numpy as np
import pytest

from pages.puzzles import SearchLimitError, draw_puzzle, solutions
from pages.tutorial import draw_page
from reading import cells
from reading.board import SUSPECT, VERIFIED, read_board
from reading.grid import Board
from reading.rules import MAX_STEPS, Rules, repeats
from reading.same import choose_photos, combine_readings

STEP = 75  # pixels of a cell of the chapter's page


@pytest.fixture(scope="module")
def puzzle():
    """The digits of a puzzle, 33 or more, so that the others do without some, and its solution; int [81]."""
    rng = np.random.default_rng(11)
    while (drawn := draw_puzzle(rng)).count("0") > 48:
        pass
    digits = np.array([int(digit) for digit in drawn])
    return digits, np.array(next(solutions({cell: int(digit) for cell, digit in enumerate(digits) if digit})))


@pytest.fixture(scope="module")
def print_of(puzzle):
    """A print, its board, its digits, and a cell whose digit the others do without."""
    digits, _ = puzzle
    spare = next(cell for cell in np.flatnonzero(digits) if Rules().is_unique(digits, cell, 0))
    page, corners = draw_page("".join(map(str, digits)), "Rubik")
    return cv2.GaussianBlur(page, (3, 3), 0), Board(corners.astype(np.float32)), digits, int(spare)


def inside(page, board, cell):
    """The pixels of a cell, without its lines."""
    x, y = np.rint(board.corners[0]).astype(int) + STEP * np.array([cell % 9, cell // 9])
    return page[y + 8 : y + STEP - 8, x + 8 : x + STEP - 8]


def bleach(page, board, place, left):
    """Return a copy of the page on which one cell keeps the fraction `left` of its contrast."""
    page = page.copy()
    cell = inside(page, board, place)
    paper = float(np.median(cell))
    cell[:] = np.rint(paper + left * (cell - paper))
    return page


def test_a_whole_print_is_verified(session, print_of):
    page, board, digits, _ = print_of
    reading = read_board(session, page, board)
    assert reading.verdict == VERIFIED and (reading.digits == digits).all()


@pytest.mark.parametrize("left", [0.5, 0.25, 0.12, 0.06, 0.03])
def test_a_bleached_digit_that_the_others_do_without_is_read_or_doubted(session, print_of, left):
    page, board, digits, spare = print_of
    page = bleach(page, board, spare, left)
    reading = read_board(session, page, board)
    assert (reading.digits == digits).all() or (spare,) in [reason.cells for reason in reading.reasons]


@pytest.mark.parametrize("lost", [np.s_[:30], np.s_[:36], np.s_[30:], np.s_[:, :30], np.s_[:, 30:], ...])
def test_a_digit_of_which_half_or_more_is_covered_or_overexposed_is_doubted(session, print_of, lost):
    page, board, digits, spare = print_of
    page = page // 2
    cell = inside(page, board, spare)
    cell[lost] = 250 if lost is ... else np.median(cell)
    reading = read_board(session, page, board)
    assert (reading.digits == digits).all() or reading.verdict == SUSPECT


def test_ink_in_what_reads_as_blank_is_doubted_if_it_may_be_the_rest_of_the_missing_digit(session, print_of):
    page, board, digits, spare = print_of
    damaged, ticked, blank = page.copy(), page.copy(), int(np.flatnonzero(digits == 0)[5])
    inside(damaged, board, spare)[24:] = np.median(inside(page, board, spare))
    reading = read_board(session, damaged, board)
    assert [reason.text for reason in reading.reasons] == [f"r1c2 reads as blank, but may be {digits[spare]}"]
    cv2.polylines(inside(ticked, board, blank), [np.array([[8, 30], [20, 46], [50, 10]])], False, 20, 3, cv2.LINE_AA)
    reading = read_board(session, ticked, board)
    assert (reading.digits == digits).all() and reading.verdict == VERIFIED


def test_the_turn_that_leads_to_a_solution_is_taken_though_another_looks_likelier(session, print_of, monkeypatch):
    page, board, digits, _ = print_of
    monkeypatch.setattr(cells, "turn_likelihoods", lambda *_: np.array([0.0, -90.0, 1.0, -90.0]))
    reading = read_board(session, page, board)
    assert reading.turn == 0 and (reading.digits == digits).all()
    assert [reason.text for reason in reading.reasons] == ["its orientation is uncertain"]


def test_what_a_blank_cell_looks_like_may_stand_there():
    alike = np.zeros((81, 10), np.float32)
    alike[7, 4], alike[8, 4] = 0.9, 0.7
    logits = np.zeros((3, 81, 10), np.float32)
    logits[..., 0] = 9
    read = cells.CellReadings(0, np.zeros(81, bool), logits, alike, np.zeros(81, np.int64), True, False)
    assert cells.possible_readings(read) == [{4} if cell == 7 else set() for cell in range(81)]


def test_more_contrast_is_around_the_paper_of_each_cell(monkeypatch):
    given = []
    monkeypatch.setattr(cells, "read_logits", lambda _, seen: given.append(seen) or np.zeros((len(seen), 10)))
    pictures = np.full((81, 28, 28), 200, np.uint8)
    pictures[0], pictures[0, 14, 14] = 100, 95
    assert (cells.read_raised(None, pictures, np.arange(81) < 80)[80] == 0).all()
    (seen,) = given
    assert (seen[0, 0, 0], seen[0, 14, 14]) == (100, 100 - 5 * cells.RAISED_GAIN)
    assert len(seen) == 80 and (seen[1:] == 200).all()


def with_glare(page, board, cell):
    """The page with a light that leaves nothing of a cell and its lines."""
    x, y = np.rint(board.corners[0] + STEP * (np.array([cell % 9, cell // 9]) + 0.5)).astype(int)
    light = cv2.GaussianBlur(cv2.circle(np.zeros(page.shape, np.float32), (x, y), 60, 1.0, -1), (0, 0), 6)
    return np.rint(page + light * (255.0 - page)).astype(np.uint8)


def test_what_glare_hides_in_one_photo_is_read_in_another(session, print_of):
    page, board, digits, spare = print_of
    given = int(np.flatnonzero(digits[40:])[0]) + 40
    one, other = (read_board(session, with_glare(page, board, cell), board) for cell in (spare, given))
    assert one.verdict == other.verdict == SUSPECT and one.digits[spare] == other.digits[given] == 0
    assert choose_photos([one, other]) == ["", ""]
    both = combine_readings([one, other])
    assert both.verdict == VERIFIED and (both.digits == digits).all()
    again = combine_readings([one, one])  # no photo shows the cell
    assert again.verdict == SUSPECT and (spare,) in [reason.cells for reason in again.reasons]


@pytest.mark.parametrize("left", [0.12, 0.06])
def test_a_digit_that_is_bleached_in_all_photos_is_read_or_doubted(session, print_of, left):
    page, board, digits, spare = print_of
    page = bleach(page, board, spare, left)
    readings = [read_board(session, cv2.GaussianBlur(page, (0, 0), blur), board) for blur in (0.6, 1.2)]
    both = combine_readings(readings)
    assert (both.digits == digits).all() or both.verdict == SUSPECT


def test_a_digit_that_one_of_two_photos_lacks_is_doubted(session, print_of):
    page, board, _, spare = print_of
    without = page.copy()
    inside(without, board, spare)[:] = np.median(inside(without, board, spare))
    one, other = read_board(session, page, board), read_board(session, without, board)
    assert one.verdict == other.verdict == VERIFIED and other.digits[spare] == 0
    for readings in ([one, other], [other, one]):
        assert (spare,) in [reason.cells for reason in combine_readings(readings).reasons]


def test_a_photo_of_another_board_is_left_out(session, print_of):
    page, board, digits, spare = print_of
    moved = "".join(str(digit % 9 + 1 if digit else 0) for digit in digits)
    one, two = read_board(session, page, board), read_board(session, with_glare(page, board, spare), board)
    other = read_board(session, draw_page(moved, "Rubik")[0], board)
    nothing = read_board(session, np.full((300, 300), 255, np.uint8))
    causes = choose_photos([other, one, nothing, two])
    assert causes[0] == "another board" and "no 9x9 grid" in causes[2] and causes[1] == causes[3] == ""
    assert choose_photos([nothing]) == [""]


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
    repeated = f"{wrong[cell]} is repeated in row {cell // 9 + 1}: {' and '.join(where)}"
    assert repeated in [reason.text for reason in verdict.reasons]
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
