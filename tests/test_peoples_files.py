# SPDX-License-Identifier: Apache-2.0
"""Names, puzzles, pictures and texts as people's systems and programs write them."""

import argparse
import importlib
import itertools
import os
import re
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_boards

from digitnet_boards import find_pictures, load_boards, load_photo, read_lines
from digitnet_cli import UserError
from digitnet_data import SYSTEM_NAMES, load_cells, sha256_of_cells
from pages import puzzles
from pages.puzzles import draw_puzzle, judge_puzzle, read_puzzles

PUZZLES = [draw_puzzle(np.random.default_rng(seed)) for seed in range(3)]


def test_system_files_are_no_data_and_others_are():
    names = "Thumbs.db desktop.ini __MACOSX @eaDir .ipynb_checkpoints ._x.png .DS_Store lost+found #recycle"
    names += " $RECYCLE.BIN x.png:Zone.Identifier x.png~ ~$x.png"
    names = [*names.split(), "System Volume Information", "Icon\r"]
    assert all(SYSTEM_NAMES.fullmatch(name) for name in names)
    assert not any(SYSTEM_NAMES.fullmatch(name) for name in ("x.png", "#1.png", "@x.png", "5", "notes.txt", "_x.png"))


def test_names_that_are_not_utf_8_are_read(tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        cell = cv2.imencode(".png", np.full((28, 28), label, np.uint8))[1].tobytes()
        (tmp_path / str(label) / os.fsdecode(b"\xfc_00.png")).write_bytes(cell)
    cells = load_cells(tmp_path)
    assert set(cells.boards) == {os.fsdecode(b"\xfc")} and len(sha256_of_cells(cells)) == 64


def grid(row="{}", join="\n", between=""):
    """Write puzzles in nine lines each."""

    def text(puzzle):
        rows = [row.format(puzzle[i : i + 9]) for i in range(0, 81, 9)]
        return join.join(rows[:3] + [between] * bool(between) + rows[3:6] + [between] * bool(between) + rows[6:])

    return "\n\n".join(map(text, PUZZLES))


def table(row, *rules, blank=" "):
    """Write puzzles with their cells in `row`; the rules stand above, between boxes, below, and between other rows."""
    top, box, bottom, between = [*rules, *[""] * 4][:4]
    text = ""
    for puzzle in PUZZLES:
        rows = [row.format(*puzzle[i : i + 9].replace("0", blank)) for i in range(0, 81, 9)]
        rows = [f"{rows[i]}\n{(box if i in (2, 5) else between) if i < 8 else bottom}" for i in range(9)]
        text += re.sub("\n+", "\n", "\n".join([top, *rows])) + "\n\n"
    return text.encode()


BOX = "{}{}{}"
LINES = "".join(f"{puzzle}\n" for puzzle in PUZZLES)
FILES = {
    **{f"blanks are {mark!r}": LINES.replace("0", mark).encode() for mark in "._*-xX? #~"},
    "mark of UTF-8": LINES.encode("utf-8-sig"),
    "UTF-16": LINES.encode("utf-16"),
    "Latin-1": ("# f\xfcr uns\n" + LINES).encode("latin-1"),
    "header and columns": ("quizzes,solutions\n" + "".join(f"{p},{'1' * 81}\n" for p in PUZZLES)).encode(),
    "the solution first": ("solution;puzzle\n" + "".join(f"{'1' * 81};{p}\n" for p in PUZZLES)).encode(),
    "number, clues, rating": ("id,puzzle,clues\n" + "".join(f"7,{p},{'1' * 81},24,0.5\n" for p in PUZZLES)).encode(),
    "comments": ("# 3 of mine\n" + LINES.replace("\n", "  # easy\n") + f"# {'1' * 81}\n").encode(),
    "nine lines": grid().encode(),
    "titles": "\n".join(f"Grid {i}\n{text}" for i, text in enumerate(grid().split("\n\n"))).encode(),
    "lines between": grid(between="---+---+---").replace("0", ".").encode(),
    "apart": "\n".join(" ".join(puzzle) for puzzle in PUZZLES).encode(),
    "Simple Sudoku's": table(f" |{BOX}|{BOX}|{BOX}|", " *--*", " |--+--|", " *--*\n Simple Sudoku\n", blank="."),
    "HoDoKu's": table(f"| {BOX} | {BOX} | {BOX} |", ".---.---.", ":---+---:", "'---'---'", blank="."),
    "spaces in a frame": table("| {} {} {} | {} {} {} | {} {} {} |", *["+-------+-------+"] * 3),
    "spaces in a narrow frame": table(f"|{BOX}|{BOX}|{BOX}|", *["=" * 13] * 3),
    "spaces in a wide frame": table("┃ {}  {}  {} ┃ {}  {}  {} ┃ {}  {}  {} ┃", "┏━━━┯━━━┓", "┣━━━┿━━━┫", "┗━━━┷━━━┛"),
    "a double frame": table("║ {} │ {} │ {} " * 3 + "║", "╔═══╤═══╗", "╠═══╪═══╣", "╚═══╧═══╝", "╟───┼───╢"),
    "bars around each cell": table("|".join(["{}"] * 9), "", "|".join(["---"] * 9), "", "|".join(["---"] * 9)),
    **{f"a Markdown table below {titles!r}": table("| {} " * 9 + "|", f"{titles}\n{rule}")
       for titles, rule in [("|C1|C2|C3|C4|C5|C6|C7|C8|C9|", "|---" * 9 + "|"), ("|" * 10, "| :-: " * 9 + "|"),
                            ("1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9", "-- | " * 8 + "--")]},
    "a spreadsheet's": re.sub(r"(?<=\d)(?=\d)", ",", grid()).replace("0", "").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_puzzles_are_read_as_people_write_them(tmp_path, name):
    (tmp_path / "my.txt").write_bytes(FILES[name])
    assert list(read_puzzles(tmp_path / "my.txt")) == PUZZLES


def test_reading_many_puzzles_shows_a_bar_after_two_seconds(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.txt").write_text(LINES * 10)
    read_puzzles(tmp_path / "my.txt")
    assert capsys.readouterr().err == ""
    seconds = itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))
    read_puzzles(tmp_path / "my.txt")
    assert "\rread puzzles: 30 lines [" in capsys.readouterr().err


def test_a_file_of_many_lines_is_read_line_by_line(tmp_path):
    (tmp_path / "my.txt").write_text(LINES * 500)
    read_puzzles(tmp_path / "my.txt")
    tracemalloc.start()
    read_puzzles(tmp_path / "my.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "my.txt").stat().st_size / 2


@pytest.mark.parametrize("text", [PUZZLES[0] + "0", grid()[:-10], LINES.replace("0", "O")[:70]])  # see bad_input.py
def test_puzzles_that_are_not_certain_are_refused(tmp_path, text):
    (tmp_path / "my.txt").write_text(text)
    with pytest.raises(UserError, match=r"my\.txt"):
        read_puzzles(tmp_path / "my.txt")


def test_a_puzzle_is_judged_within_bounds(monkeypatch):
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........".replace(".", "0")
    assert not any(map(judge_puzzle, PUZZLES))
    monkeypatch.setattr(puzzles, "MOST_STEPS", 1000)
    assert judge_puzzle(hard) == "it is not solved in 1,000 steps" and "no solution" in judge_puzzle("55" + "0" * 79)
    assert "more than one solution" in judge_puzzle("0" * 81)


def test_only_the_puzzles_that_are_used_are_checked(tmp_path, monkeypatch):
    prepare, judged = importlib.import_module("02_PrepareData"), []
    monkeypatch.setattr(prepare, "judge_puzzle", lambda puzzle: judged.append(puzzle) or "")
    (tmp_path / "my.txt").write_text("\n".join(f"{i:081d}" for i in range(1, 40000)))
    args = argparse.Namespace(puzzles=tmp_path / "my.txt", seed=0, style="tutorial", train=3, val=1)
    assert prepare.choose_puzzles(args, 4, ThreadPoolExecutor(1)) == judged and len(set(judged)) == 4
    (tmp_path / "my.txt").write_text("\n".join(PUZZLES))
    with pytest.raises(UserError, match="ask for fewer, such as --train 2 --val 1"):
        prepare.choose_puzzles(args, 4, ThreadPoolExecutor(1))


def test_boards_of_any_picture_format_are_read_alike(tmp_path):
    draw_boards(tmp_path, 1)
    (board,) = (tmp_path / "boards").iterdir()
    pixels = cv2.imread(str(board), cv2.IMREAD_GRAYSCALE)
    board.unlink()
    clear = np.zeros((*pixels.shape, 4), np.uint8)
    clear[..., 3] = 255 - pixels  # black ink on nothing
    labels = (tmp_path / "labels.csv").read_text()
    cells = []
    formats = (".PNG", pixels, "utf-8-sig"), (".png", clear, "utf-16"), (".bmp", pixels, "latin-1")
    for ending, image, encoding in formats:
        picture = board.with_suffix(ending)
        picture.write_bytes(cv2.imencode(ending, image)[1].tobytes())
        (tmp_path / "labels.csv").write_text(labels, encoding=encoding)
        cells.append(load_boards(tmp_path, 0.06).pixels.astype(int))
        picture.unlink()
    assert (cells[0] == cells[2]).all() and np.abs(cells[0] - cells[1]).max() <= 1
    with pytest.raises(UserError, match="is missing: give it one picture"):
        list(find_pictures(board.parent, [board.stem]))


def test_a_program_is_no_text_file():
    with pytest.raises(UserError, match="is not a text file"):
        list(read_lines(Path(sys.executable)))


@pytest.mark.parametrize(("alpha", "shown"), [(255, 40), (0, 40), (51, 212)])
def test_a_large_picture_with_alpha_is_laid_on_white_in_little_memory(tmp_path, alpha, shown):
    """An alpha of 0 everywhere means nothing."""
    image = np.full((3000, 4000, 4), 40, np.uint8)
    image[..., 3] = alpha
    image[0, 0, 3] = min(alpha, 254)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    tracemalloc.start()
    photo = load_photo(tmp_path / "x.png")
    assert photo.shape == (3000, 4000) and photo[1:].min() == photo[1:].max() == shown
    assert tracemalloc.get_traced_memory()[1] < 8 * photo.size  # bytes
    tracemalloc.stop()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_a_picture_that_was_half_copied_is_to_be_copied_again(tmp_path, ending):
    content = cv2.imencode(ending, np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8))[1].tobytes()
    (tmp_path / "x").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="x is damaged, or no image that OpenCV reads: copy it again, or save"):
        load_photo(tmp_path / "x")
