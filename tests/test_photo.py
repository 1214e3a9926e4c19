# SPDX-License-Identifier: Apache-2.0
"""Photo pages: the right digit in the right place, cut at the right margin; each effect shows, no ghost is ink."""

import json

import cv2
import numpy as np
import pytest
from conftest import call

import pages
from digitnet_boards import BOARD_SIDE, load_split, read_pages, rectangle, rectify
from digitnet_cli import UserError
from pages import effects, marks
from pages.camera import CROP_MARGIN_RANGE, aim, cut_photo, photograph, take_photo
from pages.fonts import TRAIN_FONTS, VAL_FONTS, draw_glyphs, font_files, load_fonts, load_hands
from pages.newspaper import BOARD, EDGE, PAGE, STEP, draw_board
from pages.pens import Sheet, pick_pen
from pages.pens import cells_of as board_cells
from pages.puzzles import draw_puzzle, solutions, vary_puzzle

PUZZLE = draw_puzzle(np.random.default_rng(5))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo")
    call("02_PrepareData.py", "--style", "photo", "--train", 6, "--val", 4, "--seed", 7, "--out", folder).ok()
    return folder


def test_every_page_and_board_is_written_and_train_and_val_share_no_font(drawn, snapshot):
    """test_prepare.py has the bytes, which photos have in common with newspapers."""
    files = snapshot(drawn)
    fonts = json.loads(files["prepared.json"])["fonts"]
    assert len(files) == 10 * 2 + 6 + 2 + 3 + 2  # pages and boards, calibration boards, tables, the marker, the report
    assert fonts["train"] and fonts["val"] and not set(fonts["train"]) & set(fonts["val"])


def test_boards_have_their_givens_and_pages_show_them_at_the_corners_of_the_csv(drawn):
    """A page straightened by its corners gives the cells of the folders, but for the detector's error and the cut."""
    givens = {}
    for split in ("train", "val"):
        cells = load_split(drawn, split)
        pages = read_pages(drawn / "grids" / f"{split}.csv")
        assert len(cells.labels) == 81 * len(pages)
        for page in pages:
            mine = np.flatnonzero(cells.boards == page.file.removesuffix("_cam.png"))
            mine = mine[np.argsort(cells.places[mine])]
            assert "".join(map(str, cells.labels[mine])) == page.givens
            view = cv2.imread(str(drawn / "grids" / split / page.file), cv2.IMREAD_UNCHANGED)
            shown = rectify(view, page.corners, 9 * 28).reshape(9, 28, 9, 28).swapaxes(1, 2).reshape(81, 28, 28)
            cut, seen = (each[:, 8:20, 8:20].mean(axis=(1, 2)) for each in (cells.pixels[mine], shown))
            elsewhere = (np.roll(seen, 1), np.roll(seen, 9), seen.reshape(9, 9).T.ravel())
            right, *wrong = (np.corrcoef(cut, cells_seen)[0, 1] for cells_seen in (seen, *elsewhere))
            assert right > max(wrong) + 0.3
        givens[split] = {page.givens for page in pages}
    assert len(givens["train"]) == 6 and len(givens["val"]) == 4 and not givens["train"] & givens["val"]


@pytest.mark.parametrize("seed", range(12))
def test_each_given_is_printed_in_its_cell_and_nothing_in_the_others(seed):
    """Before paper and camera, with marks in place of digits: a square at the place that 1-9 have on a keypad."""
    rng = np.random.default_rng(seed)
    puzzle = draw_puzzle(rng)
    marks = np.zeros((9, 90, 90), np.float32)
    for i in range(9):
        marks[i, 30 * (i // 3) : 30 * (i // 3) + 30, 30 * (i % 3) : 30 * (i % 3) + 30] = 1
    page, corners, _ = draw_board(puzzle, marks, rng)
    assert np.allclose(corners, [(EDGE, EDGE), (EDGE + BOARD, EDGE), (EDGE + BOARD,) * 2, (EDGE, EDGE + BOARD)])
    places = {}
    for cell, digit in enumerate(puzzle):
        y, x = EDGE + cell // 9 * STEP, EDGE + cell % 9 * STEP
        inside = cv2.GaussianBlur(page, (0, 0), 3)[y + 10 : y + STEP - 10, x + 10 : x + STEP - 10]  # no halftone dots
        found = inside < np.median(inside) - 0.15
        assert found.any() == (digit != "0"), f"cell {cell} is to show {digit}"
        if digit != "0":
            places.setdefault(int(digit) - 1, []).append(np.argwhere(found).mean(axis=0))
    place = {i: np.mean(found, axis=0) for i, found in places.items()}
    for i, found in places.items():
        assert np.abs(np.array(found) - place[i]).max() < 2.5  # the same for the same digit
        for j in place:
            assert ((place[i] - place[j]) * np.sign(np.subtract(divmod(i, 3), divmod(j, 3))) > -2.5).all()
            assert (np.abs(place[i] - place[j]) > 4.5).tolist() == np.not_equal(divmod(i, 3), divmod(j, 3)).tolist()


def test_the_camera_returns_the_true_corners():
    """A page with a dot at each corner: the photo is darkest there, whatever the perspective and the bend."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        page = np.ones((BOARD + 2 * EDGE,) * 2, np.float32)
        square = rectangle(EDGE, EDGE, BOARD, BOARD)
        for x, y in square:
            cv2.circle(page, (int(x), int(y)), 9, 0, -1)
        view, corners, side = photograph(page, square, rng)
        for x, y in corners:
            reach = int(0.06 * side)
            top, left = max(0, int(y) - reach), max(0, int(x) - reach)
            window = 255.0 - view[top : int(y) + reach + 1, left : int(x) + reach + 1]
            window = np.maximum(0, window - np.median(window) - 0.5 * (window.max() - np.median(window)))
            rows, columns = np.indices(window.shape)
            centre = np.array([(columns * window).sum(), (rows * window).sum()]) / window.sum() + (left, top)
            assert np.hypot(*(centre - (x, y))) < 0.015 * side


def test_cells_are_cut_with_the_margin_drawn():
    fonts = load_fonts("val")
    margins = []
    for seed in range(12):
        photo = take_photo("123456789" * 9, fonts, load_hands("val"), np.random.default_rng(seed))
        assert photo.view.dtype == np.uint8 and CROP_MARGIN_RANGE[0] <= photo.crop_margin <= CROP_MARGIN_RANGE[1]
        inset = int(photo.crop_margin * 50)
        board = rectify(photo.view, photo.cut_corners, BOARD_SIDE)
        cell = board[400 + inset : 450 - inset, 400 + inset : 450 - inset]
        assert (cut_photo(photo)[80] == cv2.resize(cell, (28, 28), interpolation=cv2.INTER_AREA)).all()
        margins.append(photo.crop_margin)
    assert {0, 0.06, 0.12} <= set(margins)


@pytest.mark.parametrize("package", [*TRAIN_FONTS, *VAL_FONTS])
def test_every_font_has_nine_different_digits_of_one_height(package):
    """Old-style figures would hang below the line or be small; symbol fonts would have boxes or nothing."""
    files = font_files(package)
    assert files
    for file in files:
        ink = draw_glyphs(file, np.random.default_rng(0)) > 0.5
        assert len(ink) == 9 and ink.mean(axis=(1, 2)).min() > 0.05
        heights = [np.ptp(np.flatnonzero(digit.any(axis=1))) for digit in ink]
        assert min(heights) > 0.9 * max(heights)
        papers = [np.pad(~shape, 1, constant_values=True).astype(np.uint8) for shape in ink]
        holes = [cv2.connectedComponents(paper, connectivity=4)[0] - 2 for paper in papers]
        assert [holes[digit - 1] for digit in (1, 2, 3, 5, 7, 8)] == [0, 0, 0, 0, 0, 2]
        six, nine = (np.argwhere(ink[digit - 1])[:, 0].mean() for digit in (6, 9))
        assert six > nine  # a 6 is heavy below


def test_a_missing_font_package_is_named():
    with pytest.raises(UserError, match="fonts of fontpkg-nowhere are not installed"):
        font_files("fontpkg_nowhere")


def test_varied_puzzles_keep_their_rules():
    rng = np.random.default_rng(3)
    puzzle = draw_puzzle(rng)
    for givens in (0, 50, 81):
        varied = vary_puzzle(puzzle, givens, rng)
        count = 81 - varied.count("0")
        assert count == max(givens, 81 - puzzle.count("0"))
        assert len(list(solutions({c: int(d) for c, d in enumerate(varied) if d != "0"}))) == 1
        assert varied != puzzle


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
def test_marks_leave_the_middle_of_digit_cells_free_and_stand_in_blank_ones(seed):
    sheet = bare_sheet()
    marks.marks(sheet, np.random.default_rng(seed))
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
