# SPDX-License-Identifier: Apache-2.0
"""If glare, a stroke or a wrong rotation hides a given, the reading is suspect."""

import cv2
import numpy as np
import pytest
from conftest import ROOT

from digitnet_onnx import open_session
from pages.tutorial import draw_page
from reading import cells
from reading.board import SUSPECT, VERIFIED, read_board
from reading.grid import Board
from reading.ink import Ink
from reading.rules import Rules
from reading.same import choose_photos, combine_readings

STEP = 75  # pixels of a cell of the chapter's page


@pytest.fixture(scope="module")
def session():
    return open_session(ROOT / "pretrained" / "sudoku_digitnet_photo.onnx")


@pytest.fixture(scope="module")
def print_of(full_puzzle):
    """A print, its board, its digits, and a cell whose digit the others do without."""
    digits = np.array([int(digit) for digit in full_puzzle])
    spare = next(cell for cell in np.flatnonzero(digits) if Rules().is_unique(digits, cell, 0))
    page, corners = draw_page(full_puzzle, "Rubik")
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


@pytest.mark.parametrize("left", [0.5, 0.25, 0.12])
def test_a_bleached_digit_that_the_others_do_without_is_read_or_doubted(session, print_of, left):
    page, board, digits, spare = print_of
    page = bleach(page, board, spare, left)
    reading = read_board(session, page, board)
    assert (reading.digits == digits).all() or reading.verdict == SUSPECT
    if left < 0.2:
        assert (spare,) in [reason.cells for reason in reading.reasons]


@pytest.mark.parametrize("half", [np.s_[:30], np.s_[30:], np.s_[:, :30], np.s_[:, 30:]])
def test_a_digit_of_which_half_is_lost_is_doubted(session, print_of, half):
    page, board, digits, spare = print_of
    page = page.copy()
    cell = inside(page, board, spare)
    cell[half] = np.median(cell)
    reading = read_board(session, page, board)
    assert (reading.digits == digits).all() or reading.verdict == SUSPECT


def test_ink_in_what_reads_as_blank_is_named(session, print_of):
    """A dash is no digit, but it may be what is left of one."""
    page, board, digits, _ = print_of
    page, blank = page.copy(), int(np.flatnonzero(digits == 0)[5])
    cv2.line(inside(page, board, blank), (18, 33), (44, 27), 20, 5, cv2.LINE_AA)
    reading = read_board(session, page, board)
    assert (reading.digits == digits).all() and reading.verdict == SUSPECT
    assert [reason.cells for reason in reading.reasons if "ink in cells read as blank" in reason.text] == [(blank,)]


def test_the_turn_that_leads_to_a_solution_is_taken_though_another_looks_likelier(session, print_of, monkeypatch):
    page, board, digits, _ = print_of
    monkeypatch.setattr(cells, "turn_likelihoods", lambda *_: np.array([0.0, -90.0, 1.0, -90.0]))
    reading = read_board(session, page, board)
    assert reading.turn == 0 and (reading.digits == digits).all()
    assert [reason.text for reason in reading.reasons] == ["its orientation is uncertain"]


def test_what_more_contrast_shows_in_a_blank_cell_may_stand_there():
    shown = np.zeros((81, 10), np.float32)
    shown[7, 4] = 9
    nothing, none = np.zeros(81), np.zeros(81, bool)
    logits = np.zeros((3, 81, 10), np.float32)
    logits[..., 0] = 9
    read = cells.CellReadings(
        0, Ink(nothing, 0.5, none, none, none), logits, shown, np.zeros(81, np.int64), True, False
    )
    assert cells.possible_readings(read) == [{0, 4} if cell == 7 else {0} for cell in range(81)]
    assert cells.ink_doubts(read) == []


def test_more_contrast_is_around_the_paper_of_each_cell(session):
    given = []

    class Network:
        def run(self, _, inputs):
            given.append(np.rint(127.5 + 127.5 * inputs["input"][:, 0]))
            return session.run(["logits"], inputs)

    page, network = np.full((450, 450), 200, np.uint8), Network()
    page[:50, :50], page[20:30, 20:30] = 100, 95
    assert (cells.read_raised(network, page, 0.1, np.arange(81) < 80)[80] == 0).all()
    (given,) = given
    for shift, seen in zip(cells.SHIFTS, given.reshape(-1, 80, 28, 28), strict=True):
        middle = tuple(16 - np.array(shift))  # of a cell of 32 pixels
        assert (seen[0, 0, 0], seen[0][middle]) == (100, 100 - 5 * cells.RAISED_GAIN)
        assert (seen[1:] == 200).all()


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
def test_a_digit_that_is_bleached_in_all_photos_is_doubted(session, print_of, left):
    page, board, _, spare = print_of
    page = bleach(page, board, spare, left)
    readings = [read_board(session, cv2.GaussianBlur(page, (0, 0), blur), board) for blur in (0.6, 1.2)]
    assert combine_readings(readings).verdict == SUSPECT


def test_a_digit_that_one_of_two_photos_lacks_is_doubted(session, print_of):
    page, board, _, spare = print_of
    without = page.copy()
    inside(without, board, spare)[:] = np.median(inside(without, board, spare))
    one, other = read_board(session, page, board), read_board(session, without, board)
    assert one.verdict == other.verdict == VERIFIED and other.digits[spare] == 0
    for readings in ([one, other], [other, one]):
        assert (spare,) in [reason.cells for reason in combine_readings(readings).reasons]


def test_a_photo_of_another_board_is_left_out(session, print_of, full_puzzle):
    page, board, _, spare = print_of
    moved = "".join(str((int(digit) % 9) + 1 if digit != "0" else 0) for digit in full_puzzle)
    one, two = read_board(session, page, board), read_board(session, with_glare(page, board, spare), board)
    other = read_board(session, draw_page(moved, "Rubik")[0], board)
    nothing = read_board(session, np.full((300, 300), 255, np.uint8))
    causes = choose_photos([other, one, nothing, two])
    assert causes[0] == "another board" and "no 9x9 grid" in causes[2] and causes[1] == causes[3] == ""
    assert choose_photos([nothing]) == [""]
