# SPDX-License-Identifier: Apache-2.0
"""One network is the chapter's, the other keeps its budget; the later chapters, in short, run on our artifacts.

They use no code of ours but DigitNet's class. INT8 is the exception: the code of docs/quantization.md quantises.
"""

import contextlib
import csv
import json
import re
import shutil
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, run
from onnx import TensorProto
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

from digitnet_data import normalize
from digitnet_model import NETWORKS, DigitNet, DigitNetV2, count_parameters, fold_batchnorm
from digitnet_onnx import contract_failures, export, load_model, open_session, run_logits

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


@pytest.fixture(scope="module")
def v2() -> DigitNetV2:
    """A DigitNetV2 whose BatchNorm has seen data, in eval mode, with logits that differ from cell to cell."""
    torch.manual_seed(0)
    model = DigitNetV2()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    for _ in range(20):
        model(torch.rand(64, 1, 28, 28) * 2 - 1)
    return model.eval()


@pytest.fixture(scope="module")
def cells() -> torch.Tensor:
    """uint8 [8, 1, 28, 28]: dark strokes on light paper, no value at the ends of the range."""
    pixels = np.random.default_rng(0).integers(190, 220, (8, 1, 28, 28), dtype=np.uint8)
    for i, cell in enumerate(pixels[:, 0]):
        cell[5:23, 10 + i : 13 + i] = 60
    return torch.from_numpy(pixels)


def test_digitnet_has_the_tutorials_layers_and_5130_parameters():
    assert count_parameters(DigitNet()) == 5_130
    assert {key: tuple(value.shape) for key, value in DigitNet().state_dict().items()} == {
        "net.0.weight": (16, 1, 3, 3),
        "net.0.bias": (16,),
        "net.3.weight": (32, 16, 3, 3),
        "net.3.bias": (32,),
        "net.7.weight": (10, 32),
        "net.7.bias": (10,),
    }
    names = [type(layer).__name__ for layer in DigitNet().net]
    assert names == ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]


def multiply_adds(network):
    """Count multiply-adds per cell; torch counts two FLOPs for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network().eval()(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() // 2


def test_digitnetv2_costs_no_more_multiply_adds_than_digitnet():
    assert multiply_adds(DigitNet) == 28 * 28 * 16 * 9 + 14 * 14 * 32 * 16 * 9 + 320 == 1_016_384
    assert multiply_adds(DigitNetV2) == 970_624
    assert count_parameters(DigitNetV2()) == 47_450


def test_the_model_file_works_alone_beside_scripts_of_others(built, tmp_path):
    """As in the later chapters: only this file is copied, torch is the only package, nothing is hooked."""
    shutil.copy(ROOT / "digitnet_model.py", tmp_path)
    (tmp_path / "later.py").write_text(
        "import sys, torch\n"
        "hook = sys.excepthook\n"
        "from digitnet_model import DigitNet\n"
        "assert sys.excepthook is hook\n"
        "model = DigitNet(num_classes=10)\n"
        "model.load_state_dict(torch.load(sys.argv[1], map_location='cpu', weights_only=True))\n"
        "print(list(model.eval()(torch.zeros(2, 1, 28, 28)).shape))\n"
        "print([name for name in sys.modules if name.startswith('digitnet')])\n"
    )
    result = run(sys.executable, "later.py", built.out / "digitnet_best.pth", cwd=tmp_path).ok()
    assert result.out.splitlines() == ["[2, 10]", "['digitnet_model']"]


def test_a_flat_cell_is_the_same_at_every_brightness_and_faint_texture_stays_near_it(v2):
    flat = torch.full((3, 1, 28, 28), 0.0) + torch.tensor([0, 128, 255]).view(3, 1, 1, 1)
    with torch.inference_mode():
        logits = v2(normalize(flat))
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:1].expand(3, 10), logits, atol=1e-4, rtol=1e-4)
        standardize = v2.net[0]
        texture = torch.randint(198, 203, (3, 1, 28, 28))  # two grey levels either way: less than any printed ink
        assert standardize(normalize(texture)).abs().max() < 0.2
        ink = torch.full((1, 1, 28, 28), 200.0)
        ink[..., 8:20, 12:16] = 60
        assert standardize(normalize(ink)).abs().max() > 2


@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_network_loads_in_eval_mode_and_gives_the_same_logits_without_batchnorm(network, cells, tmp_path):
    torch.manual_seed(1)
    model = NETWORKS[network]()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, far from 0 and 1
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.2, 3)
    state = model.state_dict()
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_model(tmp_path / "weights.pth")
    assert type(loaded) is type(model) and not loaded.training
    folded = fold_batchnorm(loaded)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    with torch.inference_mode():
        expected = model.eval()(normalize(cells))
        torch.testing.assert_close(folded(normalize(cells)), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())  # as saved: unchanged


def test_exported_digitnetv2_keeps_the_contract_and_its_logits(v2, cells, tmp_path):
    path = tmp_path / "model.onnx"
    export(v2, path)
    assert contract_failures(path.read_bytes()) == []
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert b".py" not in path.read_bytes()  # the exporter's notes on the source code name folders of this machine
    known = "ReduceMean ReduceL2 Sub Add Div Conv Relu MaxPool AveragePool Reshape Gemm"  # to old ONNX Runtimes, too
    assert operators <= {*known.split()}
    session = open_session(path)
    for count in (1, 3, 8):
        inputs = normalize(cells[:count])
        with torch.inference_mode():
            expected = v2(inputs).numpy()
        np.testing.assert_allclose(run_logits(session, inputs.numpy()), expected, atol=1e-4, rtol=1e-4)
