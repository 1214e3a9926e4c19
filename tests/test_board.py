# SPDX-License-Identifier: Apache-2.0
"""Boards in photos drawn by the tests are found in the right place, and their ink is told from marks and ghosts."""

import cv2
import numpy as np
import pytest

from digitnet_boards import rectangle
from pages.fonts import draw_glyphs, load_fonts, pick_file
from pages.newspaper import draw_board, text_bank
from pages.puzzles import draw_puzzle
from pages.tutorial import draw_page
from reading.board import find_board, grid_doubts, straighten_page
from reading.cells import ODD
from reading.grid import Board, photo_points
from reading.ink import CELL, compare_shades, measure_ink

HEIGHT, WIDTH = 1200, 900
PLACE = np.array([(160, 300), (700, 280), (730, 850), (140, 830)], np.float32)  # of the board in most scenes


def newspaper_board(seed):
    """Draw a printed board, uint8 [H, W]; return it and its corners."""
    rng = np.random.default_rng(seed)
    glyphs = draw_glyphs(pick_file(load_fonts("val"), rng), rng)
    page, corners, _ = draw_board(draw_puzzle(rng), glyphs, rng)
    return np.clip(235 * page, 0, 255).astype(np.uint8), corners


def lay(scene, page, corners, place):
    """Lay a page on a scene so that its board's corners come to `place`."""
    transform = cv2.getPerspectiveTransform(corners, place)
    size = scene.shape[::-1]
    there = cv2.warpPerspective(np.full_like(page, 255), transform, size)
    view = cv2.warpPerspective(page, transform, size, flags=cv2.INTER_AREA)
    return np.where(there > 128, view, scene)


def scene_of(seed, place=PLACE, ground=235):
    return lay(np.full((HEIGHT, WIDTH), ground, np.uint8), *newspaper_board(seed), place), place


def camera(scene, seed):
    """Add a camera's blur and noise."""
    noise = np.random.default_rng(seed).normal(0, 4, scene.shape)
    return np.clip(cv2.GaussianBlur(scene, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)


def grid(scene, x, y, cell, columns, rows):
    for i in range(columns + 1):
        cv2.line(scene, (x + i * cell, y), (x + i * cell, y + rows * cell), 30, 2)
    for j in range(rows + 1):
        cv2.line(scene, (x, y + j * cell), (x + columns * cell, y + j * cell), 30, 2)
    return scene


def crossword(scene, x, y, cell):
    rng = np.random.default_rng(5)
    for i, j in np.argwhere(rng.random((13, 13)) < 0.2):
        cv2.rectangle(scene, (x + i * cell, y + j * cell), (x + (i + 1) * cell, y + (j + 1) * cell), 30, -1)
    return grid(scene, x, y, cell, 13, 13)


def text(seed):
    """Draw text up to the frame, and a caption that touches it."""
    scene, place = scene_of(seed)
    words = (255 * (1 - text_bank(3))).astype(np.uint8)
    scene[860:1180] = np.minimum(scene[860:1180], words[:320, :WIDTH])
    scene[20:260] = np.minimum(scene[20:260], words[400:640, :WIDTH])
    cv2.line(scene, (150, 838), (300, 900), 20, 4)
    cv2.putText(scene, "Nr. 1234", (150, 865), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 20, 3)
    return scene, place


def beside_crossword(seed):
    """Draw a board beside a larger grid that is no board."""
    scene, place = scene_of(seed, (PLACE * 0.7 + (150, 20)).astype(np.float32))
    return crossword(scene, 150, 640, 42), place


def mat(seed):
    """Draw a page on a dark mat: its edge is a larger quadrilateral than the board."""
    scene, place = scene_of(seed)
    dark = np.full_like(scene, 45)
    sheet = np.array([(70, 140), (800, 120), (850, 1080), (40, 1100)], np.int32)
    return np.where(cv2.fillPoly(np.zeros_like(scene), [sheet], 255) > 0, scene, dark), place


def finger(seed):
    """Draw fingers that hold the page, one of them on the frame."""
    scene, place = scene_of(seed)
    cv2.ellipse(scene, ((120, 600), (150, 80), 10), 120, -1)
    cv2.ellipse(scene, ((430, 870), (90, 140), 0), 130, -1)
    return scene, place


def shadow(seed):
    scene, place = scene_of(seed)
    corner = cv2.fillPoly(np.zeros_like(scene), [np.array([(0, 300), (900, 700), (900, 1200), (0, 1200)])], 255)
    return np.where(corner > 0, scene * 0.45, scene).astype(np.uint8), place


def crease(seed):
    """Draw a fold through the board: a dark line beside a bright one."""
    scene, place = scene_of(seed)
    cv2.line(scene, (0, 480), (900, 610), 90, 5)
    cv2.line(scene, (0, 487), (900, 617), 250, 5)
    return scene, place


def turned(seed):
    angle = np.deg2rad(24)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    return scene_of(seed, ((PLACE - PLACE.mean(axis=0)) @ turn.T + (450, 600)).astype(np.float32))


def steep(seed):
    return scene_of(seed, np.array([(250, 300), (640, 290), (800, 800), (90, 820)], np.float32))


def inverted(seed):
    scene, place = scene_of(seed)
    return 255 - scene, place


def bent(seed):
    """Bend the paper by up to a third of a cell, which four corners cannot describe."""
    scene, place = scene_of(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bend = 20 * np.sin(np.pi * (x - 140) / 590)  # 0 at the board's left and right edge
    return cv2.remap(scene, x, y - bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), place


def two_boards(seed):
    """Draw two boards, of which the larger counts."""
    scene, place = scene_of(seed)
    small = np.array([(330, 930), (560, 930), (560, 1160), (330, 1160)], np.float32)
    return lay(scene, *newspaper_board(seed + 1), small), place


SCENES = [scene_of, text, beside_crossword, mat, finger, shadow, crease, turned, steep, inverted, bent, two_boards]
SCALES = dict.fromkeys(SCENES, (1,)) | {scene_of: (1, 1 / 3, 4)}


@pytest.mark.parametrize("draw, scale", [(draw, scale) for draw in SCENES for scale in SCALES[draw]])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_board_is_found_where_it_is(draw, scale, seed):
    scene, place = draw(seed)
    scene = cv2.resize(scene, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    place = scale * place
    board = find_board(camera(scene, seed))
    assert board is not None
    error = np.linalg.norm(photo_points(board, rectangle(0, 0, 9, 9)) - place, axis=1).max()
    assert error < 0.25 * board.cell, f"a corner is off by {error / board.cell:.2f} cells"


def test_cells_of_a_bent_board_are_cut_along_its_lines():
    """Check the middle of each level line, where the bend is largest."""
    scene, place = bent(4)
    middles = np.array([(4.5, row) for row in range(10)], np.float32)
    straight, found = (photo_points(board, middles) for board in (Board(place), find_board(scene)))
    truth = straight[:, 1] + 20 * np.sin(np.pi * (straight[:, 0] - 140) / 590)
    assert np.abs(found[:, 1] - truth).max() < 6 < 15 < np.abs(straight[:, 1] - truth).min()  # a cell has 62 pixels


NOTHING = {
    "blank": lambda scene: scene,
    "noise": lambda scene: camera(scene // 2, 3),
    "text": lambda scene: np.minimum(scene, (255 * (1 - text_bank(2)))[:HEIGHT, :WIDTH].astype(np.uint8)[:1000]),
    "crossword": lambda scene: crossword(scene, 60, 60, 60),
    "keypad": lambda scene: grid(scene, 200, 100, 160, 3, 4),
    "calendar": lambda scene: grid(scene, 100, 200, 90, 7, 6),
    "16 x 16": lambda scene: grid(scene, 50, 50, 50, 16, 16),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_board_is_found_where_there_is_none(name):
    assert find_board(NOTHING[name](np.full((1000, WIDTH), 235, np.uint8))) is None


def test_the_smallest_and_flattest_pictures_have_no_board():
    for shape in ((1, 1), (80, 80), (3, 900), (900, 3), (100, 5000)):
        assert find_board(np.full(shape, 200, np.uint8)) is None


# --- ink ---------------------------------------------------------------------------------------


def test_ink_distinguishes_marks_and_ghosts_from_digits():
    digits = np.array([int(digit) for digit in draw_puzzle(np.random.default_rng(3))])
    page, corners = draw_page("".join(map(str, digits)), "Rubik")
    blanks, printed = np.flatnonzero(digits == 0), digits != 0
    ghost, pair, single = blanks[[0, 10, 20]].tolist()

    def write(cell, text, shift, *style):
        x, y = np.rint(corners[0] + 75 * np.array([cell % 9 + 0.5, cell // 9 + 0.5]) + shift).astype(int)
        cv2.putText(page, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, *style)

    write(ghost, "8", (-12, 14), 1.2, 205, 3)
    write(pair, "4", (-24, 0), 0.9, 0, 2)
    write(pair, "7", (4, 0), 0.9, 0, 2)
    write(single, "5", (-5, 5), 0.35, 0, 1)
    whole = straighten_page(page, Board(corners.astype(np.float32)))
    page = np.ascontiguousarray(whole[CELL:-CELL, CELL:-CELL])
    sized, alike = measure_ink(page).digit_sized, compare_shades(page, digits)
    assert (sized == printed)[np.arange(81) != pair].all()
    assert (alike[printed, digits[printed]] > 0.9).all() and alike[pair, 1:].max() < ODD


def test_blank_cells_with_bleached_lines_are_doubted():
    page, corners = draw_page(draw_puzzle(np.random.default_rng(3)), "Rubik")
    whole = straighten_page(page, Board(corners.astype(np.float32)))
    assert grid_doubts(whole, 0, np.zeros(81, np.int64)) == []
    y, x = np.mgrid[: whole.shape[0], : whole.shape[1]] / CELL - 1.5
    light = 0.97 * np.exp(-((x - 2) ** 2 + (y - 6) ** 2) / 6)  # on row 7, column 3
    bleached = (whole + light * (255.0 - whole)).astype(np.uint8)
    for turn, cell in ((0, 6 * 9 + 2), (1, 6 * 9 + 6)):  # where a quarter turn counterclockwise takes it
        assert (cell,) in [reason.cells for reason in grid_doubts(bleached, turn, np.zeros(81, np.int64))]
    assert grid_doubts(bleached, 0, np.ones(81, np.int64)) == []


def test_a_board_without_a_frame_is_not_doubted():
    page, corners = draw_page(draw_puzzle(np.random.default_rng(3)), "Rubik")
    whole = 255 - straighten_page(page, Board(corners.astype(np.float32)))
    whole[CELL : 2 * CELL + 6, -2 * CELL - 6 : -CELL] //= 2  # a corner cell's lines are paler
    whole[: CELL + 6] = whole[-CELL - 6 :] = whole[:, : CELL + 6] = whole[:, -CELL - 6 :] = 0
    assert grid_doubts(255 - whole, 0, np.zeros(81, np.int64)) == []
