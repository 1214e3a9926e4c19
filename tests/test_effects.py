# SPDX-License-Identifier: Apache-2.0
"""Effects on photo pages: each shows, none makes a blank cell a digit, ghosts are paler than ink."""

import numpy as np
import pytest

import pages
from pages import effects, marks
from pages.camera import aim, photograph, take_photo
from pages.fonts import draw_glyphs, load_fonts, load_hands
from pages.newspaper import BOARD, EDGE, PAGE, STEP, draw_board
from pages.pens import Sheet, pick_pen
from pages.pens import cells_of as board_cells
from pages.puzzles import draw_puzzle

PUZZLE = draw_puzzle(np.random.default_rng(5))


def bare_sheet(written=(), ink=0.8):
    page = np.ones((PAGE, PAGE), np.float32)
    return Sheet(page, PUZZLE, np.array(written, int), ink, load_fonts("train"), load_hands("train"))


def cells_of(page):
    """Return the page's cells, [81, STEP, STEP]."""
    board = page[EDGE : EDGE + 9 * STEP, EDGE : EDGE + 9 * STEP]
    return board.reshape(9, STEP, 9, STEP).swapaxes(1, 2).reshape(81, STEP, STEP)


@pytest.mark.parametrize("effect", effects.DRAWN)
def test_each_effect_changes_the_page(effect):
    sheet = bare_sheet(board_cells(PUZZLE, blank=False)[::3])
    effects.DRAWN[effect](sheet, np.random.default_rng(3))
    assert np.abs(sheet.page - 1).max() > 0.02


def test_a_photo_has_allowed_effects_alone(monkeypatch):
    drawn = []
    for effect in effects.DRAWN:
        monkeypatch.setitem(effects.DRAWN, effect, lambda sheet, rng, effect=effect: drawn.append(effect))
        monkeypatch.setitem(pages.EFFECTS, effect, 1)
    faces = load_fonts("train"), load_hands("train")
    for allowed in ({"marks", "tints"}, set(), set(effects.DRAWN)):
        drawn.clear()
        take_photo(PUZZLE, *faces, np.random.default_rng(3), frozenset(allowed))
        assert set(drawn) == allowed


def test_small_digits_bends_and_a_corner_far_off_show():
    def board(**effect):
        rng = np.random.default_rng(3)
        return draw_board(PUZZLE, draw_glyphs(load_fonts("train")[0].upright[0], rng), rng, **effect)[:2]

    def height(page):
        inked = (np.flatnonzero((cell[8:-8, 8:-8] < 0.6).any(axis=1)) for cell in cells_of(page))
        return max(np.ptp(rows) for rows in inked if len(rows))

    (page, corners), (small, _) = board(), board(small=True)
    assert height(small) < 0.42 * STEP < height(page)
    flat, bent = (photograph(page, corners, np.random.default_rng(3), bent)[0] for bent in (False, True))
    assert flat.shape == bent.shape and np.abs(flat.astype(int) - bent).max() > 10
    found, astray = (aim(corners, BOARD, np.random.default_rng(3), astray)[0] for astray in (False, True))
    assert (np.abs(astray - found).max(axis=1) > 1).sum() == 1


@pytest.mark.parametrize("seed", range(8))
def test_ghosts_are_paler_than_the_pages_own_ink(seed):
    for ink in (0.42, 0.95):
        sheet = bare_sheet(ink=ink)
        effects.ghosts(sheet, np.random.default_rng(seed))
        darkest = 1 - sheet.page.min()
        assert 0.005 < darkest <= min(effects.GHOST_MOST, effects.GHOST_INK * ink) + 1e-6


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("family", ["marks", "notes", "numbers"])
def test_marks_leave_the_middle_of_digit_cells_free_and_stand_in_blank_ones(family, seed):
    sheet = bare_sheet()
    effects.DRAWN[family](sheet, np.random.default_rng(seed))
    marked = cells_of(sheet.page)[:, 15:-15, 22:-22].min(axis=(1, 2)) < 0.9
    assert not marked[board_cells(PUZZLE, blank=False)].any()
    touched = cells_of(sheet.page).min(axis=(1, 2)) < 0.9
    assert touched[board_cells(PUZZLE, blank=True)].any()


def test_a_single_pencil_mark_is_small_and_off_the_middle():
    """So that it differs from an answer: below 0.4 of the cell, and its middle at least 0.1 of the cell off."""
    for seed in range(40):
        page = np.ones((PAGE, PAGE), np.float32)
        rng = np.random.default_rng(seed)
        pen = pick_pen(load_fonts("train"), False, rng)._replace(ink=0.9)
        marks.mark_row(page, 40, np.array([7]), pen, rng.uniform(0.18, 0.55), np.zeros(2), rng)
        rows, columns = np.nonzero(page < 0.6)
        assert np.ptp(rows) < 0.4 * STEP
        middle = EDGE + 4.5 * STEP
        assert max(abs(rows.mean() - middle), abs(columns.mean() - middle)) > 0.1 * STEP


def test_handwriting_is_in_the_cells_that_are_not_printed():
    written = board_cells(PUZZLE, blank=False)[::3]
    sheet = bare_sheet(written)
    marks.hand(sheet, np.random.default_rng(1))
    inked = (cells_of(sheet.page)[:, 12:-12, 12:-12] < 0.8).mean(axis=(1, 2)) > 0.02
    assert np.flatnonzero(inked).tolist() == written.tolist()
