# SPDX-License-Identifier: Apache-2.0
"""The later chapters, in short, on our artifacts: they use no code of ours but DigitNet's class.

INT8 is the exception: the code of docs/quantization.md quantises.
"""

import contextlib
import csv
import json
import re
import shutil

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from digitnet_model import DigitNet

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


@pytest.mark.parametrize("opencv", [4, 5])
def test_a_grid_processor_reads_whole_pages(trained, opencv):
    """Pages of this OpenCV's putText, and of OpenCV 5's, whose digits have another face (tests/opencv5/README.md)."""
    session = onnxruntime.InferenceSession(trained.out / "sudoku_digitnet.onnx", providers=["CPUExecutionProvider"])
    folder = trained.data / "grids" / "val" if opencv == 4 else OPENCV5_PAGES
    table = trained.data / "grids" / "val.csv" if opencv == 4 else OPENCV5_PAGES / "pages.csv"
    wrong = []
    for row in csv.DictReader(table.read_text().splitlines()):
        if row["page"].endswith("_cam.png"):
            digits = process_page(session, cv2.imread(str(folder / row["page"]), cv2.IMREAD_GRAYSCALE))
            wrong.append(sum(a != b for a, b in zip(row["givens"], digits, strict=True)))
    assert len(wrong) >= 3
    assert sum(count == 0 for count in wrong) >= 0.6 * len(wrong), wrong  # the small training reads most boards whole
    assert sum(wrong) <= 0.02 * 81 * len(wrong), wrong


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


@pytest.fixture(scope="module")
def int8(trained, tmp_path_factory) -> dict:
    """The names that the code of docs/quantization.md defines, run where `make` ran."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "data").symlink_to(trained.data)
    shutil.copytree(trained.out, folder / "artifacts")
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict = {"folder": folder}
    with contextlib.chdir(folder):
        exec(code, names)
    return names


def test_the_chapters_way_calibrates_on_the_first_files_in_sorted_order(int8):
    files = sorted((int8["folder"] / "data" / "train").glob("*/*.png"))[:1000]
    first = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    reader = int8["Inputs"](int8["ways"]["chapter"][0])
    inputs = np.concatenate([entry["input"] for entry in iter(reader.get_next, None)])
    assert {file.parent.name for file in files} == {"0"}  # all blank
    np.testing.assert_array_equal(inputs, ((first.astype(np.float32) / 255 - 0.5) / 0.5)[:, None])


def test_the_other_way_calibrates_on_every_class_equally(int8):
    assert np.bincount(int8["cells"].labels[int8["spread"]]).tolist() == [100] * 10 and len({*int8["spread"]}) == 1000


@pytest.mark.parametrize("way", ["chapter", "convolutions"])
def test_an_int8_file_is_smaller_and_gives_the_same_classes(int8, trained, way):
    """Calibrated on blanks alone, the network loses digits if their logits are larger: 2 % without the shift."""
    plain, small = (int8["folder"] / "artifacts" / f"{name}.onnx" for name in ("sudoku_digitnet", f"int8_{way}"))
    assert small.stat().st_size < 0.8 * plain.stat().st_size
    assert {node.op_type for node in onnx.load(small).graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    files = sorted((trained.data / "val").glob("*/*.png"))
    cells = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    inputs = ((cells.astype(np.float32) / 255 - 0.5) / 0.5)[:, None]
    expected, found = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(["logits"], {"input": inputs})[0]
        for file in (plain, small)
    )
    assert found.shape == (len(files), 10)
    assert (found.argmax(axis=1) != expected.argmax(axis=1)).sum() <= 0.01 * len(files)
