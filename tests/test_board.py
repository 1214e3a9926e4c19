# SPDX-License-Identifier: Apache-2.0
"""Photos drawn by the tests: boards are found in the right place, read as printed, and doubted where necessary."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT, call

from digitnet_boards import load_photo, rectangle
from pages.fonts import draw_glyphs, load_fonts, pick_file
from pages.newspaper import draw_board, text_bank
from pages.puzzles import SearchLimitError, draw_puzzle, solutions
from pages.tutorial import draw_page
from reading.board import CELL, find_board, grid_doubts, straighten_page
from reading.grid import Board, photo_points
from reading.ink import measure_ink
from reading.rules import MAX_STEPS, Rules, repeats

MODEL = ROOT / "pretrained" / "sudoku_digitnet_photo.onnx"
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


def plain(seed):
    return scene_of(seed)


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
    place = PLACE * 0.7 + (150, 20)
    scene, place = scene_of(seed, place.astype(np.float32))
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


def small_photo(seed):
    scene, place = scene_of(seed)
    return cv2.resize(scene, (300, 400), interpolation=cv2.INTER_AREA), place / 3


def large_photo(seed):
    scene, place = scene_of(seed)
    return cv2.resize(scene, (3600, 4800), interpolation=cv2.INTER_CUBIC), place * 4


SCENES = [plain, text, beside_crossword, mat, finger, shadow, crease, turned, steep, inverted, bent, two_boards,
          small_photo, large_photo]  # fmt: skip


@pytest.mark.parametrize("draw", SCENES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_board_is_found_where_it_is(draw, seed):
    scene, place = draw(seed)
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
    puzzle = draw_puzzle(np.random.default_rng(3))
    page, corners = draw_page(puzzle, "Rubik")
    blanks = [cell for cell in range(81) if puzzle[cell] == "0"]
    ghost, pair, single = blanks[0], blanks[10], blanks[20]

    def middle(cell):
        return np.rint(corners[0] + 75 * np.array([cell % 9 + 0.5, cell // 9 + 0.5])).astype(int)

    x, y = middle(ghost)
    cv2.putText(page, "8", (int(x) - 12, int(y) + 14), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 205, 3)
    x, y = middle(pair)
    for shift, mark in ((-24, "4"), (4, "7")):
        cv2.putText(page, mark, (int(x) + shift, int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 0, 2)
    x, y = middle(single)
    cv2.putText(page, "5", (int(x) - 5, int(y) + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1)
    whole = straighten_page(page, Board(corners.astype(np.float32)))
    ink = measure_ink(np.ascontiguousarray(whole[CELL:-CELL, CELL:-CELL]))
    printed = np.array([digit != "0" for digit in puzzle])
    assert ink.digit_sized[printed].all() and not ink.beside[printed].any()
    assert not ink.digit_sized[ghost] and not ink.digit_sized[single] and ink.beside[pair]
    assert not ink.digit_sized[[cell for cell in blanks if cell != pair]].any()


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


# --- rules -------------------------------------------------------------------------------------


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
    where = [f"row {c // 9 + 1}, column {c % 9 + 1}" for c in sorted([row[0], cell])]
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
    doubt = f"row {cell // 9 + 1}, column {cell % 9 + 1} reads as blank, but may be {digits[cell]}"
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


def test_a_puzzle_that_is_hard_to_refute_ends_in_doubt():
    """Without a limit this one takes minutes."""
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
    digits = np.array([int(c) for c in hard.replace(".", "0")])
    assert not repeats(digits).any()
    with pytest.raises(SearchLimitError):
        Rules().solve(digits)
    assert judged(digits).reasons[0].text == f"whether there is one solution was not decided in {MAX_STEPS} steps"


# --- the script --------------------------------------------------------------------------------


def read(*options, cwd=ROOT):
    return call("06_ReadBoard.py", *options, "--onnx", MODEL, cwd=cwd)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Prints of the tutorial's page: unchanged, turned, light on dark, transparent, with a changed digit, blank."""
    folder = tmp_path_factory.mktemp("photos")
    puzzle = draw_puzzle(np.random.default_rng(23))
    page, corners = draw_page(puzzle, "Rubik")
    page = cv2.GaussianBlur(page, (3, 3), 0)
    for turn in range(4):
        cv2.imwrite(str(folder / f"turned{90 * turn}.png"), np.rot90(page, -turn))
    cv2.imwrite(str(folder / "dark.png"), 255 - page)
    ink = np.zeros((*page.shape, 4), np.uint8)
    ink[..., 3] = 255 - page
    cv2.imwrite(str(folder / "transparent.png"), ink)
    cv2.imwrite(str(folder / "deep.png"), page.astype(np.uint16) * 257)
    wide = cv2.merge([page] * 3)
    cv2.imwrite(str(folder / "colour.jpg"), wide)
    cv2.imwrite(str(folder / "white.png"), np.full((300, 300), 255, np.uint8))
    cv2.imwrite(str(folder / "tiny.png"), page[::40, ::40])
    cell = next(c for c in range(81) if puzzle[c] == "0")
    given = next(c for c in range(81) if puzzle[c] != "0" and c // 9 == cell // 9)
    (x, y), (u, v) = (np.rint(corners[0] + 75 * np.array([c % 9, c // 9])).astype(int) + 4 for c in (cell, given))
    page[y : y + 68, x : x + 68] = page[v : v + 68, u : u + 68]
    cv2.imwrite(str(folder / "repeated.png"), page)
    return folder, puzzle, (cell, given), corners


def test_a_print_is_read_and_verified_however_it_is_turned_or_coloured(photos):
    folder, puzzle, _, _ = photos
    names = [*(f"turned{90 * turn}.png" for turn in range(4)), "dark.png", "transparent.png", "deep.png", "colour.jpg"]
    result = read(*names, "--json", "--solve", cwd=folder)
    assert result.code == 0, result.err + result.out
    readings = [json.loads(line) for line in result.out.splitlines()]
    solution = "".join(map(str, next(solutions({c: int(d) for c, d in enumerate(puzzle) if d != "0"}))))
    for name, reading in zip(names, readings, strict=True):
        assert reading["photo"] == name and reading["digits"] == puzzle and reading["solution"] == solution
        assert reading["verdict"] == "verified" and reading["reasons"] == [] and reading["proposal"] is None
        assert len(reading["probabilities"]) == 81 and min(reading["probabilities"]) > 0.65
        assert reading["inverted"] == (name == "dark.png")
    assert [reading["turn"] for reading in readings] == [0, 90, 180, 270, 0, 0, 0, 0]
    upright, quarter = (np.array(reading["corners"]) for reading in readings[:2])
    height = load_photo(folder / "turned0.png").shape[0]
    assert np.abs(np.stack([height - 1 - upright[:, 1], upright[:, 0]], axis=1) - quarter).max() < 3


def test_a_single_photo_prints_its_grid_and_solution(photos, tmp_path):
    folder, puzzle, _, _ = photos
    result = read(folder / "turned0.png", "--solve", "--picture", tmp_path / "out.png")
    assert result.code == 0 and result.err == ""
    lines = result.out.splitlines()
    shown = [line.replace("|", " ").split() for line in lines if line and "+" not in line and " digits" not in line]
    given = ["".join(mark.replace(".", "0") for mark in line) for line in shown[:9]]
    assert "".join(given) == puzzle and f"{81 - puzzle.count('0')} digits: {puzzle}" in lines
    assert any(line.startswith("verified: ") for line in lines) and all("." not in line for line in shown[-9:])
    photo, picture = load_photo(folder / "turned0.png"), cv2.imread(str(tmp_path / "out.png"))
    assert picture.shape[:2] == photo.shape and (picture[..., 0] != picture[..., 1]).any()  # colour: something is drawn


def test_a_repeated_digit_makes_a_photo_suspect(photos):
    folder, _, cells, _ = photos
    result = read(folder / "repeated.png", folder / "turned0.png", "--json")
    assert result.code == 3
    reading = json.loads(result.out.splitlines()[0])
    places = [[cell // 9 + 1, cell % 9 + 1] for cell in sorted(cells)]
    assert reading["verdict"] == "suspect" and places in [reason["cells"] for reason in reading["reasons"]]
    assert "is repeated in row " in reading["reasons"][0]["text"]
    alone = read(folder / "repeated.png", "--solve")
    assert alone.code == 3 and alone.out.count("?") >= 2 and "no solution to print" in alone.out


def test_photos_without_a_board_are_reported_and_the_highest_exit_code_counts(photos):
    folder, _, _, _ = photos
    result = read("turned0.png", "white.png", "tiny.png", cwd=folder)
    first, white, tiny = result.out.splitlines()
    assert result.code == 4 and first.startswith("turned0.png: verified: ")
    assert white.startswith("white.png: not found: no 9x9 grid is seen") and "smaller than 81 pixels" in tiny
    assert read(folder / "white.png").code == 4


def test_a_board_is_read_where_the_user_says_it_is(photos, tmp_path):
    folder, puzzle, _, corners = photos
    page = load_photo(folder / "turned0.png")
    (left, top), (right, bottom) = np.rint(corners[0]).astype(int), np.rint(corners[2]).astype(int)
    cv2.imwrite(str(tmp_path / "board.png"), page[top:bottom, left:right])
    for options in (
        [tmp_path / "board.png"],
        [tmp_path / "board.png", "--straightened"],
        [folder / "turned0.png", "--corners", *corners.ravel()],
        [folder / "turned0.png", "--crop-margin", 0.1],
    ):
        result = read(*options)
        assert result.code == 0 and puzzle in result.out, result.out


def png_header(width, height):
    """Return a PNG whose header claims a very large size, without any pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["nowhere.jpg"], 1, "No such file or directory: nowhere.jpg"),
        (["folder"], 1, "Is a directory: folder"),
        (["text.jpg"], 1, "text.jpg is not an image that OpenCV reads: save it as JPEG or PNG"),
        (["empty.png"], 1, "empty.png is not an image that OpenCV reads"),
        (["huge.png"], 1, "huge.png is too large or damaged for OpenCV: shrink it"),
        (["turned0.png", "--crop-margin", "0.5"], 2, "--crop-margin: 0.5 is not between 0 and 0.3"),
        (["turned0.png", "dark.png", "--picture", "out.png"], 2, "--picture goes with a single photo"),
        (["turned0.png", "--picture", "out.xyz"], 1, "out.xyz: OpenCV cannot write this format"),
        (["turned0.png", "--straightened", "--corners", *"12345678"], 2, "not allowed with argument"),
    ],
)
def test_a_mistake_is_reported_in_one_line(photos, options, code, words):
    folder, _, _, _ = photos
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "huge.png").write_bytes(png_header(50_000, 50_000))
    result = read(*options, cwd=folder)
    assert result.code == code and words in result.err and len(result.err.splitlines()) == 1
    assert not (folder / "out.png").exists()


def test_unreadable_photos_do_not_stop_the_others(photos):
    folder, puzzle, _, _ = photos
    result = read("nowhere.jpg", "turned0.png", cwd=folder)
    assert result.code == 1 and puzzle in result.out and len(result.err.splitlines()) == 1
