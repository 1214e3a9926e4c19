# SPDX-License-Identifier: Apache-2.0
"""06_ReadBoard.py: verdicts and exit codes, text, JSON and pictures, and one line for each mistake."""

import json

import cv2
import numpy as np
import pytest
from bad_input import png
from conftest import PRETRAINED, ROOT, call

from digitnet_boards import load_photo
from pages.puzzles import draw_puzzle, solutions
from pages.tutorial import draw_page


def read(*options, cwd=ROOT):
    return call("06_ReadBoard.py", *options, "--onnx", PRETRAINED, cwd=cwd)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Prints of the chapter's page: unchanged, turned, light on dark, transparent, with a changed digit, blank."""
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
    cv2.imwrite(str(folder / "colour.jpg"), cv2.merge([page] * 3))
    cv2.imwrite(str(folder / "white.png"), np.full((300, 300), 255, np.uint8))
    cv2.imwrite(str(folder / "tiny.png"), page[::40, ::40])
    (folder / "folder").mkdir()
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / "huge.png").write_bytes(png(b"\x08\x00", b"", side=50_000))
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
    assert white.startswith("white.png: not found: no 9x9 grid found") and "smaller than 81 pixels" in tiny
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


def test_several_photos_of_one_board_give_one_result(photos):
    folder, puzzle, _, _ = photos
    result = read("turned90.png", "text.jpg", "turned0.png", "white.png", "--same", "--json", cwd=folder)
    reading = json.loads(result.out)
    assert result.code == 0 and reading["photo"] == "turned90.png" and reading["digits"] == puzzle
    bad, white = result.err.splitlines()
    assert "text.jpg is damaged, or no image" in bad and "white.png is left out: no 9x9 grid found" in white
    assert f"digits: {puzzle}" in read("turned0.png", "turned90.png", "--same", cwd=folder).out
    assert read("white.png", "white.png", "--same", cwd=folder).code == 4
    assert read("text.jpg", "nowhere.jpg", "--same", cwd=folder).code == 1


CORNERS = "--corners: give x y of the four corners, clockwise, each inside the photo of 800 x"


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["nowhere.jpg"], 1, "No such file or directory: nowhere.jpg"),
        (["folder"], 1, "Is a directory: folder"),
        (["text.jpg"], 1, "text.jpg is damaged, or no image that OpenCV reads: copy it again"),
        (["empty.png"], 1, "empty.png is damaged, or no image that OpenCV reads"),
        (["huge.png"], 1, "huge.png is too large or damaged for OpenCV: shrink it"),
        (["turned0.png", "--crop-margin", "0.5"], 2, "--crop-margin: 0.5 is not between 0 and 0.3"),
        (["turned0.png", "dark.png", "--picture", "out.png"], 2, "--picture goes with a single photo"),
        (["turned0.png", "--picture", "out.xyz"], 1, "out.xyz: OpenCV cannot write this format"),
        (["turned0.png", "--straightened", "--corners", *"12345678"], 2, "not allowed with argument"),
        (["turned0.png", "--corners", 0, 0, 9, 0, "nan", 9, 0, 9], 1, CORNERS),
        (["turned0.png", "--corners", 9, 9, 9, 99, 99, 99, 99, 9], 1, CORNERS),
        (["turned0.png", "--corners", 9, 9, 999, 9, 999, 99, 9, 99], 1, CORNERS),
    ],
)
def test_a_mistake_is_reported_in_one_line(photos, options, code, words):
    folder, _, _, _ = photos
    result = read(*options, cwd=folder)
    assert result.code == code and words in result.err and len(result.err.splitlines()) == 1
    assert not (folder / "out.png").exists()


def test_unreadable_photos_do_not_stop_the_others_and_are_no_secret(photos):
    folder, puzzle, _, _ = photos
    result = read("nowhere.jpg", "turned0.png", "white.png", "repeated.png", cwd=folder)
    assert result.code == 1 and puzzle in result.out and len(result.err.splitlines()) == 1
    for names in (["text.jpg"], ["white.png", "nowhere.jpg"], ["turned0.png", "text.jpg", "white.png"]):
        result = read(*names, "--json", cwd=folder)
        lines = [json.loads(line) for line in result.out.splitlines()]
        assert result.code == 1 and [line["photo"] for line in lines] == names
        (bad,) = (line for line in lines if line["verdict"] == "unreadable")
        assert bad["photo"] in bad["reasons"][0]["text"] and bad["reasons"][0]["text"] in result.err
