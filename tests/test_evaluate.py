"""The real boards, and what 05_Evaluate.py says of an ONNX file."""

import shutil

import numpy as np
import pytest
from conftest import ROOT, script

from digitnet_cli import UserError
from digitnet_data import BLANK, REAL_BOARDS, load_boards, load_cells


@pytest.mark.parametrize("margin", [0, 0.06, 0.12])
def test_every_real_board_has_81_cells_and_its_givens(margin):
    cells = load_boards(REAL_BOARDS, margin)
    assert cells.pixels.shape == (159 * 81, 28, 28) and len(set(cells.names)) == 159 * 81
    assert np.count_nonzero(cells.labels) == 4626
    boards = cells.labels.reshape(159, 9, 9)
    boxes = boards.reshape(159, 3, 3, 3, 3).swapaxes(2, 3).reshape(159, 9, 9)
    for units in (boards, boards.swapaxes(1, 2), boxes):  # rows, columns, boxes: a digit stands there once at most
        assert all(np.bincount(unit, minlength=10)[1:].max() <= 1 for unit in units.reshape(-1, 9))


def test_real_labels_fit_the_ink():
    """Cells with a digit hold more dark pixels than blank ones, so labels and boards are not mixed up."""
    cells = load_boards(REAL_BOARDS, 0.12)
    spread = np.ptp(np.percentile(cells.pixels[:, 4:24, 4:24].reshape(len(cells.labels), -1), (1, 70), axis=1), axis=0)
    order = np.argsort(-spread.reshape(159, 81), axis=1)
    digits = np.take_along_axis(cells.labels.reshape(159, 81) != BLANK, order, axis=1)
    found = sum(row[: row.sum()].sum() for row in digits)
    assert found > 0.97 * 4626


def test_nothing_trains_on_the_real_boards(tmp_path):
    with pytest.raises(UserError, match="never for training"):
        load_cells(REAL_BOARDS / "train")
    link = tmp_path / "mine"
    link.symlink_to(REAL_BOARDS)
    result = script("03_Training.py", "--data", link, "--out", tmp_path)
    assert result.code == 1 and "never for training" in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("damage, words", [("label", "81 digits"), ("image", "image1.jpg"), ("labels", "labels.csv")])
def test_damaged_real_boards_are_named(tmp_path, damage, words):
    real = shutil.copytree(ROOT / "data" / "real", tmp_path / "real")
    labels = real / "labels.csv"
    if damage == "label":
        labels.write_text("board,givens\nimage1,0123\n")
    elif damage == "image":
        (real / "boards" / "image1.jpg").write_bytes(b"no image")
    else:
        labels.write_text("board,givens\n")
    with pytest.raises(UserError, match=words):
        load_boards(real, 0)
