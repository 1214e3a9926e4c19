# SPDX-License-Identifier: Apache-2.0
"""The tutorial's later chapters, in short, on our artifacts: they use no code of ours but DigitNet's class.

INT8 is the exception: it is tools/quantize.py that quantises as the chapter does, and measures.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, script
from onnx import TensorProto
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from digitnet_data import Cells
from digitnet_model import DigitNet

sys.path.insert(0, str(ROOT / "tools"))
import quantize

OPENCV5_PAGES = ROOT / "tests" / "opencv5"


def test_an_evaluation_script_scores_the_weights_as_training_did(trained):
    """ImageFolder, PIL transforms, weights_only: the same count of wrong cells as in training.json."""
    transform = transforms.Compose(
        [transforms.Grayscale(), transforms.Resize((28, 28)), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )
    dataset = datasets.ImageFolder(trained.data / "val", transform)
    assert dataset.classes == [str(digit) for digit in range(10)]
    model = DigitNet(num_classes=10)
    model.load_state_dict(torch.load(trained.out / "digitnet_best.pth", map_location="cpu", weights_only=True))
    model.eval()
    wrong = 0
    with torch.no_grad():
        for images, labels in DataLoader(dataset, batch_size=256):
            wrong += (model(images).argmax(1) != labels).sum().item()
    history = json.loads((trained.out / "training.json").read_text())
    best = history["epochs"][history["best_epoch"] - 1]["val"]
    assert (len(dataset), wrong) == (best["cells"], best["wrong_cells"])
    assert wrong < 0.005 * len(dataset)


def find_grid(page):
    """Return the corners of the largest quadrilateral, clockwise from the top left."""
    blurred = cv2.GaussianBlur(page, (5, 5), 0)
    ink = cv2.adaptiveThreshold(blurred, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 11, 2)
    contours, _ = cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        corners = cv2.approxPolyDP(contour, 0.02 * cv2.arcLength(contour, True), True)[:, 0].astype(np.float32)
        if len(corners) == 4:
            total, difference = corners.sum(axis=1), np.diff(corners, axis=1)[:, 0]
            return corners[[total.argmin(), difference.argmin(), total.argmax(), difference.argmax()]]
    raise AssertionError("no quadrilateral on the page")


def process_page(session, page):
    """Read a page, uint8 [H, W], to 81 digits: straighten, cut 12 %, one batch, softmax, 0.65 rule."""
    side = 450
    square = np.float32([(0, 0), (side - 1, 0), (side - 1, side - 1), (0, side - 1)])
    board = cv2.warpPerspective(page, cv2.getPerspectiveTransform(find_grid(page), square), (side, side))
    step, cut = side // 9, int(0.12 * (side // 9))
    cells = [
        cv2.resize(board[y + cut : y + step - cut, x + cut : x + step - cut], (28, 28), interpolation=cv2.INTER_AREA)
        for y in range(0, side, step)
        for x in range(0, side, step)
    ]
    batch = ((np.stack(cells).astype(np.float32) / 255 - 0.5) / 0.5)[:, None]
    logits = session.run(["logits"], {"input": batch})[0]
    assert logits.shape == (81, 10) and logits.dtype == np.float32
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return "".join(str(p.argmax()) if p.max() >= 0.65 else "0" for p in probabilities)


def read_pages(session, folder, table):
    """Return name -> (truth, reading) of the camera's pages."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["page"].endswith("_cam.png")]
    return {
        row["page"]: (row["givens"], process_page(session, cv2.imread(str(folder / row["page"]), cv2.IMREAD_GRAYSCALE)))
        for row in rows
    }


@pytest.mark.parametrize("opencv", [4, 5])
def test_a_grid_processor_reads_whole_pages(trained, opencv):
    """Pages of this OpenCV's putText, and of OpenCV 5's, whose digits have another face (tests/opencv5/README.md)."""
    session = onnxruntime.InferenceSession(trained.out / "sudoku_digitnet.onnx", providers=["CPUExecutionProvider"])
    folder = trained.data / "grids" / "val" if opencv == 4 else OPENCV5_PAGES
    table = trained.data / "grids" / "val.csv" if opencv == 4 else OPENCV5_PAGES / "pages.csv"
    pages = read_pages(session, folder, table)
    wrong = [sum(a != b for a, b in zip(truth, read, strict=True)) for truth, read in pages.values()]
    assert len(pages) >= 3
    assert sum(count == 0 for count in wrong) >= 0.6 * len(pages), wrong  # the small training reads most boards whole
    assert sum(wrong) <= 0.02 * 81 * len(pages), wrong


def test_an_app_takes_a_single_file_within_its_limits(trained, tmp_path):
    """Copied alone, as into an app's assets: no second file, opset and IR that ONNX Runtime 1.18 on Android reads."""
    asset = tmp_path / "assets" / "sudoku_digitnet.onnx"
    asset.parent.mkdir()
    shutil.copy(trained.out / "sudoku_digitnet.onnx", asset)
    model = onnx.load(asset, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_location != TensorProto.DEFAULT]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 19} and model.ir_version <= 10
    session = onnxruntime.InferenceSession(asset, providers=["CPUExecutionProvider"])
    for cells in (1, 7, 81, 512):
        assert session.run(["logits"], {"input": np.zeros((cells, 1, 28, 28), np.float32)})[0].shape == (cells, 10)


def test_calibration_cells_are_the_first_files_or_spread_over_the_classes(monkeypatch, tmp_path):
    labels = np.repeat(np.arange(10), [90, *range(20, 29)])
    cells = Cells(np.arange(len(labels))[:, None], labels, labels.astype(str), labels)
    calibrated = []

    def record(onnx, path, calibration_data_reader, **options):
        calibrated.append(np.concatenate(list(calibration_data_reader.batches)).ravel())
        Path(path).touch()

    monkeypatch.setattr(quantize, "quantize_static", record)
    quantize.quantize(tmp_path / "float.onnx", cells, 50, tmp_path)
    first, spread = calibrated
    assert first.tolist() == list(range(50))  # all blank, as in sorted order
    assert np.bincount(labels[spread]).tolist() == [5] * 10 and len(set(spread)) == 50
    assert spread[0] == 0 and spread[4] == 89  # the first and the last blank


def test_quantiser_makes_int8_files_and_reports_what_they_lose(trained, tmp_path):
    """Calibrated on blanks alone, as a later chapter's script does, it loses digits if they have larger logits."""
    (tmp_path / "data").mkdir()
    for folder in ("train", "val"):
        (tmp_path / "data" / folder).symlink_to(trained.data / folder)
    shutil.copy(trained.out / "sudoku_digitnet.onnx", tmp_path)
    result = script(
        "tools/quantize.py", "--onnx", "sudoku_digitnet.onnx", "--out", "int8", "--cells", 200, cwd=tmp_path
    )
    assert result.code == 0, result.err
    models = json.loads((tmp_path / "int8" / "quantize.json").read_text())["models"]
    assert list(models) == ["float", "INT8, tutorial", "INT8, convolutions"]
    plain = models.pop("float")
    for model in models.values():
        assert model["bytes"] < 0.8 * plain["bytes"]
        assert model["different_class"] <= 0.01 * plain["wrong"]["validation cells"]["cells"]  # 2 % without the shift
    assert sum(line.startswith("| ") for line in result.out.splitlines()) == 4
    for name in ("tutorial", "convolutions"):
        session = onnxruntime.InferenceSession(tmp_path / "int8" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        assert session.run(["logits"], {"input": np.zeros((81, 1, 28, 28), np.float32)})[0].shape == (81, 10)
