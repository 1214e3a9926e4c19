# SPDX-License-Identifier: Apache-2.0
"""Photo pages: the right digit in the right place, cut at the right margin; same seed, same bytes; fonts kept apart."""

import json

import cv2
import numpy as np
import pytest
from conftest import call

from digitnet_boards import BOARD_SIDE, load_split, read_pages, rectangle, rectify
from digitnet_cli import UserError
from pages.camera import CROP_MARGIN_RANGE, cut_photo, photograph, take_photo
from pages.fonts import TRAIN_FONTS, VAL_FONTS, draw_glyphs, font_files, load_fonts, load_hands
from pages.newspaper import BOARD, EDGE, STEP, draw_board
from pages.puzzles import draw_puzzle, solutions, vary_puzzle

SMALL = ("--style", "photo", "--train", 6, "--val", 4, "--seed", 7)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo")
    for workers in (1, 3):
        result = call("02_PrepareData.py", *SMALL, "--workers", workers, "--out", folder / str(workers))
        assert result.code == 0, result.err
    return folder


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(drawn, snapshot):
    files = [snapshot(drawn / workers) for workers in ("1", "3")]
    fonts = [json.loads(found.pop("prepared.json"))["fonts"] for found in files]
    assert files[0] == files[1]
    assert len(files[0]) == 10 * 2 + 6 + 2 + 3 + 1  # pages and boards, calibration boards, tables, the marker
    assert fonts[0] == fonts[1] and not set(fonts[0]["train"]) & set(fonts[0]["val"])


def test_boards_have_their_givens_and_train_and_val_share_no_puzzle(drawn):
    givens = {}
    for split in ("train", "val"):
        cells = load_split(drawn / "1", split)
        pages = read_pages(drawn / "1" / "grids" / f"{split}.csv")
        assert len(cells.labels) == 81 * len(pages)
        for page in pages:
            mine = cells.boards == page.file.removesuffix("_cam.png")
            assert "".join(map(str, cells.labels[mine][np.argsort(cells.places[mine])])) == page.givens
        givens[split] = {page.givens for page in pages}
    assert len(givens["train"]) == 6 and len(givens["val"]) == 4 and not givens["train"] & givens["val"]


def test_pages_show_the_board_at_the_corners_of_the_csv(drawn):
    """A page straightened by its corners gives the cells of the folders, but for the detector's error and the cut."""
    cells = load_split(drawn / "1", "val")
    for page in read_pages(drawn / "1" / "grids" / "val.csv"):
        view = cv2.imread(str(drawn / "1" / "grids" / "val" / page.file), cv2.IMREAD_UNCHANGED)
        board = rectify(view, page.corners, 9 * 28).astype(float).reshape(9, 28, 9, 28).swapaxes(1, 2)
        board = board.reshape(81, 28, 28)
        mine = cells.boards == page.file.removesuffix("_cam.png")
        light = cells.pixels[mine][np.argsort(cells.places[mine])][:, 8:20, 8:20].mean(axis=(1, 2))
        assert np.corrcoef(light, board[:, 8:20, 8:20].mean(axis=(1, 2)))[0, 1] > 0.8


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
        check_digits(file)


def check_digits(file):
    glyphs = draw_glyphs(file, np.random.default_rng(0))
    ink = glyphs > 0.5
    assert glyphs.shape[0] == 9 and ink.mean(axis=(1, 2)).min() > 0.05
    heights = [np.ptp(np.flatnonzero(digit.any(axis=1))) for digit in ink]
    assert min(heights) > 0.9 * max(heights)
    papers = [np.pad(~shape, 1, constant_values=True).astype(np.uint8) for shape in ink]
    holes = [cv2.connectedComponents(paper, connectivity=4)[0] - 2 for paper in papers]
    assert [holes[digit - 1] for digit in (1, 2, 3, 5, 7, 8)] == [0, 0, 0, 0, 0, 2]
    height = np.arange(ink.shape[1])[:, None]
    assert (height * ink[5]).sum() / ink[5].sum() > (height * ink[8]).sum() / ink[8].sum()  # a 6 is heavy below


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
