# SPDX-License-Identifier: Apache-2.0
"""One network is the chapter's; the other keeps its budget and contract; only their own weights load."""

import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from digitnet_data import normalize
from digitnet_model import NETWORKS, DigitNet, DigitNetV2, count_parameters, fold_batchnorm
from digitnet_onnx import contract_failures, export, load_model, open_session, run_logits


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
    result = run(sys.executable, "later.py", built.out / "digitnet_best.pth", cwd=tmp_path)
    assert result.code == 0, result.err
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


def randomise_batchnorm(model: nn.Module) -> nn.Module:
    """Set running statistics as after training, far from 0 and 1."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.2, 3)
    return model.eval()


@pytest.mark.parametrize("network", NETWORKS)
def test_folded_network_gives_the_same_logits_without_batchnorm(network, cells):
    torch.manual_seed(1)
    model = randomise_batchnorm(NETWORKS[network]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(normalize(cells)), model(normalize(cells)), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model was changed"


def test_exported_digitnetv2_keeps_the_contract_and_its_logits(v2, cells, tmp_path):
    path = tmp_path / "model.onnx"
    export(v2, path)
    assert contract_failures(path) == []
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


@pytest.mark.parametrize("network", NETWORKS)
def test_load_model_gives_the_saved_network_in_eval_mode(tmp_path, network):
    model = NETWORKS[network]()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = load_model(tmp_path / "weights.pth")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
