# SPDX-License-Identifier: Apache-2.0
"""The real boards, and 05_Evaluate.py's report on an ONNX file."""

import argparse
import importlib
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import ROOT, call, draw_boards, make, run, slow, train_small

from digitnet_boards import Page, load_boards, load_split, rectangle
from digitnet_cli import UserError
from digitnet_data import REAL_BOARDS, Cells
from digitnet_pictures import PhotoReading, describe_photos, table_of_photos
from digitnet_scores import Predictions, describe_predictions
from reading.board import Reading

evaluate = importlib.import_module("05_Evaluate")
SQUARE = rectangle(100, 100, 90, 90)
GIVENS = "1" + 80 * "0"
CUTS = ["real boards, 0% cut", "real boards, 6% cut", "real boards, 12% cut"]


def test_the_repository_holds_no_picture_of_others():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = run("git", "ls-files", cwd=ROOT).out.split()
    pictures = [path for path in listed if path.endswith((".jpg", ".jpeg", ".png", ".webp", ".npz", ".pdf"))]
    assert pictures and not [path for path in listed if path.startswith("data/")]
    drawn = r"docs/pictures/newspaper\.png|tests/opencv5/.*"
    assert [path for path in pictures if not re.fullmatch(drawn, path)] == []


def test_nothing_trains_on_the_real_boards(tmp_path):
    with pytest.raises(UserError, match="never for training"):
        load_split(REAL_BOARDS / "boards", "train")
    (tmp_path / "data").mkdir()
    for link in ("mine", "data/train_boards"):
        (tmp_path / link).symlink_to(REAL_BOARDS)
    for data in (tmp_path / "mine", tmp_path / "data"):
        result = call("03_Training.py", "--data", data, "--out", tmp_path)
        assert result.code == 1 and "never for training" in result.err and "Traceback" not in result.err


DAMAGE = {
    "label": ("labels.csv", b"board,givens\nimage1,0123\n", "81 digits"),
    "image": ("boards/image1.jpg", b"no image", "image1.jpg is damaged, or no image that OpenCV reads"),
    "labels": ("labels.csv", b"board,givens\n", "labels.csv, line 1: it lists no board"),
    "photo": ("photos/image1.jpg", b"no image", "photos/image1.jpg is damaged, or no image"),
    "photos": ("photos/photos.csv", b"photo,givens\n", "photos.csv, line 1: it lists no photo"),
    "columns": ("photos/photos.csv", b"photo,givens\nimage1,0\n", "photos.csv, line 2: 'x0': correct"),
    "corner": ("photos/photos.csv", (b",0,newspaper", b"?,0,newspaper"), "photos.csv, line 2: could not convert"),
    "turn": ("photos/photos.csv", (b",0,newspaper", b",45,newspaper"), "photos.csv, line 2: givens are not 81 digits"),
    "givens": ("photos/photos.csv", (b"image1,", b"image1,1"), "photos.csv, line 2: givens are not 81 digits"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_real_boards_and_photos_are_named_in_one_line(built, tmp_path, capfd, name):
    real = shutil.copytree(built.folder / "real", tmp_path / "real")
    path, content, words = DAMAGE[name]
    if isinstance(content, tuple):
        content = (real / path).read_bytes().replace(*content)
    (real / path).write_bytes(content)
    args = argparse.Namespace(real=real, onnx=built.out / "sudoku_digitnet.onnx")
    with pytest.raises(UserError, match=words):
        evaluate.read_whole_photos(args) if path.startswith("photos") else load_boards(real, 0)
    assert "WARN" not in capfd.readouterr().err  # OpenCV's own lines


def found(turn=0, corners=SQUARE, digits=GIVENS, verdict="verified"):
    """Return a reading as reading.board does."""
    if corners is None:
        return Reading("not found", [])
    return Reading(verdict, [], None, np.array(corners, np.float32), turn, False, np.array([*map(int, digits)]))


def test_photos_are_counted_by_what_became_of_them():
    wrong = "9" + GIVENS[1:]
    cases = {
        "right": (found(), "", 0),
        "right, verdict suspect": (found(verdict="suspect"), "", 0),
        "corners nearly half a cell off": (found(corners=np.add(SQUARE, (0, 4.9))), "", 0.49),
        "corners off, digits right": (found(corners=np.add(SQUARE, (6, 0))), "", 0.6),
        "a cell misread": (found(digits=wrong, verdict="suspect"), "misread cells: 1", 0),
        "a cell misread, but verified": (found(digits=wrong), "misread cells: 1", 0),
        "corners off": (found(corners=SQUARE + 50.0, digits=wrong, verdict="suspect"), "wrong corners", 50**0.5),
        "turned": (found(90, np.roll(SQUARE, -1, axis=0), wrong, "suspect"), "turned by 90°", 0),
        "not found": (found(corners=None), "not found", None),
    }
    page = Page("image1.jpg", GIVENS, SQUARE + 0.0, 0, "newspaper; folded")
    pages = [page._replace(kind="book"), *[page] * 8]
    readings = [PhotoReading(pages[i], reading, float(i)) for i, (reading, _, _) in enumerate(cases.values())]
    for reading, (_, cause, error) in zip(readings, cases.values(), strict=True):
        assert reading.cause == cause and reading.corner_error == (error and pytest.approx(error, abs=0.01))
    report = describe_photos(readings)
    assert report["all"] == {
        "photos": 9, "answered": 8, "corners": 6, "right": 4, "verified": 4, "verified_wrong": 1, "seconds": 4.0,
    }  # fmt: skip
    assert {kind: counts["photos"] for kind, counts in report["by_kind"].items()} == {"book": 1, "newspaper": 8}
    assert [entry["misread"] for entry in report["each"]][3:6] == [[], [0], [0]]
    assert report["each"][-1]["misread"] is None and report["each"][-1]["corner_error"] is None
    lines = table_of_photos(report).splitlines()
    assert lines[3].split() == ["all", "9", "8", "6", "4", "4", "1", "4.00"]
    assert lines[5] == "  image1.jpg (newspaper; folded): misread cells: 1; verified" and len(lines) == 4 + 5
    many = table_of_photos(describe_photos(3 * readings)).splitlines()
    assert len(many) == 4 + 12 + 1 and many[-1] == "  and 3 more, see evaluation.json"


def test_cells_below_the_threshold_count_as_blank():
    cells = [(5, 5, 0.99), (5, 5, 0.6), (0, 7, 0.6), (0, 7, 0.7), (3, 8, 0.97), (3, 8, 0.3), (3, 8, 1.0)]
    labels, guesses, probabilities = np.array([*cells, *[(0, 0, 0.9)] * 155, (0, 9, 0.9)]).T  # the last: of no board
    place = np.arange(163)
    boards = Cells(np.zeros((163, 28, 28), np.uint8), labels.astype(int), (place // 81).astype(str), place % 81)
    entry = describe_predictions(Predictions(boards, guesses.astype(int), probabilities.astype(np.float32)))
    rule, plain = entry["thresholded"], entry["best_class"]
    counts = {"cells": 163, "digits": 5, "blanks": 158, "boards": 2, "wrong_cells": 6, "wrong_boards": 1}
    assert plain == counts | {"wrong_digits": 3, "wrong_blanks": 3}
    assert rule == counts | {"wrong_digits": 4, "wrong_blanks": 2}
    table = np.array(entry["confusion_thresholded"])
    assert table.sum() == 163 and (table[3, 8], table[3, 0], table[5, 0], table[5, 5], table[0, 7]) == (2, 1, 1, 1, 1)
    assert entry["worst_confusions"][0] == {"truth": 3, "guess": 8, "times": 2}
    confidence = entry["confidence"]
    assert (confidence["right_digits"], confidence["right_digits_below"]) == (2, 1)
    assert confidence["mean_of_right_cells"] == pytest.approx((155 * 0.9 + 0.99 + 0.6) / 157, abs=1e-4)


def test_evaluation_counts_every_set_and_draws_the_pictures(built):
    report = json.loads((built.out / "evaluation.json").read_text())
    assert list(report["sets"]) == ["validation cells", "camera pages", *CUTS, "real boards"]
    for name, entry in report["sets"].items():
        for counts in (entry["thresholded"], entry["best_class"]):
            assert counts["cells"] == counts["digits"] + counts["blanks"]
            assert counts["wrong_cells"] == counts["wrong_digits"] + counts["wrong_blanks"]
            if name.startswith("real"):
                cuts = 3 if name == "real boards" else 1
                truth = load_boards(built.folder / "real", 0).labels
                digits = cuts * np.count_nonzero(truth)
                assert (counts["boards"], counts["cells"], counts["digits"]) == (cuts * 2, cuts * 162, digits)
        table = np.array(entry["confusion_thresholded"])
        assert table.sum() - np.trace(table) == entry["thresholded"]["wrong_cells"]
    together, *cuts = ([report["sets"][name]["thresholded"][f"wrong_{kind}"] for kind in ("cells", "digits", "boards")]
                       for name in ("real boards", *CUTS))  # fmt: skip
    assert together == [sum(counts) for counts in zip(*cuts, strict=True)]
    photos = report["photos"]
    assert photos["all"]["photos"] == len(photos["each"]) == 2 and photos["by_kind"]["newspaper"] == photos["all"]
    assert sum(not entry["cause"] for entry in photos["each"]) == photos["all"]["right"]
    assert f"real photos: {2 - photos['all']['right']} of 2 wrong, " in report["summary"]
    for name in ("confusion_matrix", "learning_curve", "misread_cells", "misread_photos"):
        picture = cv2.imread(str(built.out / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert min(picture.shape) > 400 and picture.std() > 10  # there is something to see


def test_evaluation_needs_neither_pages_nor_real_boards_and_says_so(built, tmp_path):
    for folder in ("data", "real", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "val").symlink_to(built.data / "val")
    shutil.copy(built.out / "misread_photos.png", tmp_path / "out")  # of other photos, once
    shutil.copy(built.out / "sudoku_digitnet.onnx", tmp_path)
    options = ("--onnx", "sudoku_digitnet.onnx", "--out", "out", "--real", "real")
    result = call("05_Evaluate.py", *options, cwd=tmp_path).ok()
    for words in (
        "skipping camera pages: no data/grids/val.csv\n",
        "skipping real boards: no real/labels.csv; `make real` makes them from a clone of https://",
        "skipping real photos: no real/photos/photos.csv\n",
        "skipping the learning curve: no training.json\n",
    ):
        assert words in result.out
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(report["sets"]) == ["validation cells"] and report["photos"] is None
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"confusion_matrix.png", "evaluation.json", "evaluation.txt", "misread_cells.png"}


def test_a_badly_trained_model_fails_the_check_in_one_line(built):
    falls_short = re.findall("^falls short: (.*)", built.result.out, re.MULTILINE)  # make itself goes on
    assert "of the validation cells are right, not 99.28 %" in falls_short[0] and "camera pages" in falls_short[1]
    result = make(built.folder, "check")
    assert result.code == 2 and "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("05_Evaluate.py: ")]
    assert f"falls short: {'; '.join(falls_short)}: train on more puzzles, longer, or another seed" in line


def test_what_falls_short_is_listed_kind_by_kind():
    cells = {"cells": 10_000, "wrong_cells": 72}
    pages = {"boards": 500, "wrong_boards": 5}
    report = {"validation cells": {"best_class": cells}, "camera pages": {"thresholded": pages}}
    photos = {"all": {"photos": 50, "right": 45, "verified_wrong": 0}}
    assert evaluate.shortfalls(report, photos, 99.28) == [] == evaluate.shortfalls(report, None, 99.28)
    assert evaluate.shortfalls(report, photos, 99.29) == ["99.28 % of the validation cells are right, not 99.29 %"]
    pages["wrong_boards"], photos["all"]["verified_wrong"] = 6, 1
    assert len(evaluate.shortfalls(report, photos, 99.29)) == 3


# The percentage of digits that must be right, far below what was measured, because rounding differs between processors:
# 75.1 with 56 pages and 82.0 with 120 (2026-11-28 and 26). What such weak networks call verified means nothing.
@pytest.mark.parametrize(
    ("train", "val", "epochs", "batch", "boards", "least"),
    [(56, 6, 12, 64, 12, 60), pytest.param(120, 10, 6, 128, 24, 70, marks=slow)],
)
def test_even_a_small_photo_training_reads_photos(tmp_path, train, val, epochs, batch, boards, least):
    """A low bar for photo pages and DigitNetV2."""
    draw_boards(tmp_path / "real", boards)
    drawing = ("--style", "photo", "--train", train, "--val", val)
    train_small(tmp_path, drawing, ("--model", "digitnetv2", "--epochs", epochs, "--batch-size", batch))
    model = tmp_path / "artifacts" / "sudoku_digitnet.onnx"
    options = ["--onnx", model, "--data", tmp_path / "data", "--out", tmp_path / "out", "--real", tmp_path / "real"]
    call("05_Evaluate.py", *options).ok()
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    counts, photos = report["sets"]["real boards"]["thresholded"], report["photos"]["all"]
    assert 100 * (1 - counts["wrong_digits"] / counts["digits"]) >= least, counts
    assert photos["photos"] == boards and photos["right"] >= 1, photos
