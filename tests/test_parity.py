"""The exported file keeps the contract and gives PyTorch's answers; 04_Parity.py sees every break of it."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from conftest import script
from onnx import numpy_helper

from digitnet_data import normalize
from digitnet_model import load_model
from digitnet_onnx import classify, contract_failures, open_session, run_logits


def check(chain, *options):
    files = ("--onnx", chain.out / "sudoku_digitnet.onnx", "--weights", chain.out / "digitnet_best.pth")
    return script("04_Parity.py", *files, "--data", chain.data, *options)


def test_exported_file_keeps_the_whole_contract(built):
    path = built.out / "sudoku_digitnet.onnx"
    assert contract_failures(path) == []
    assert [p.name for p in built.out.iterdir() if "onnx" in p.name] == ["sudoku_digitnet.onnx"]  # one file
    assert path.stat().st_size < 100_000
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version <= 10
    session = open_session(path)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("input", "tensor(float)", [1, 28, 28])
    assert (answer.name, answer.type, answer.shape[1:]) == ("logits", "tensor(float)", [10])
    assert isinstance(given.shape[0], str) and given.shape[0] == answer.shape[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 81, 100, 512])
def test_onnx_logits_match_pytorch_for_any_batch(built, batch):
    inputs = np.random.default_rng(batch).standard_normal((batch, 1, 28, 28), np.float32)
    with torch.inference_mode():
        expected = load_model(built.out / "digitnet_best.pth")(torch.from_numpy(inputs)).numpy()
    logits = run_logits(open_session(built.out / "sudoku_digitnet.onnx"), inputs)
    assert logits.shape == (batch, 10) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_classify_gives_softmax_probabilities_of_the_best_class(built):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 28, 28), np.uint8)
    predictions, probabilities = classify(open_session(built.out / "sudoku_digitnet.onnx"), pixels)
    with torch.inference_mode():
        logits = load_model(built.out / "digitnet_best.pth")(normalize(torch.from_numpy(pixels)[:, None]))
    best = logits.softmax(1).max(1)
    assert (predictions == best.indices.numpy()).all()
    np.testing.assert_allclose(probabilities, best.values, atol=1e-5)


def test_parity_passes_and_reports(built):
    report = json.loads((built.out / "parity.json").read_text())
    assert report["passed"] and report["failures"] == []
    assert report["measured"]["validation cells"]["cells"] == 3 * 2 * 81
    assert [report["measured"][f"random batch of {n}"]["cells"] for n in (1, 2, 3, 81, 512)] == [1, 2, 3, 81, 512]
    assert all(result["mae"] < 1e-4 for result in report["measured"].values())
    assert report["accuracy"]["pytorch"] == report["accuracy"]["onnx"]


def weight(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(tensor, values):
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def scale_weight(model):
    values = numpy_helper.to_array(weight(model, "net.7.bias")).copy()  # of the last layer: it is never dead
    values[np.abs(values).argmax()] *= 1.05
    replace(weight(model, "net.7.bias"), values)


def swap_channels(model):
    values = numpy_helper.to_array(weight(model, "net.0.weight"))
    replace(weight(model, "net.0.weight"), values[[1, 0, *range(2, 16)]])


def zero_bias(model):
    replace(weight(model, "net.7.bias"), np.zeros(10, np.float32))


def rename(values, old, new, model):
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    values[0].name = new


def add_softmax(model):
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "raw"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["raw"], ["logits"], axis=1))


def freeze_batch(model):
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2


BREAKS = {
    "one weight 5 % off": (scale_weight, "MAE"),
    "two channels swapped": (swap_channels, "MAE"),
    "a bias forgotten": (zero_bias, "MAE"),
    "softmax added": (add_softmax, "MAE"),
    "input renamed": (lambda m: rename(m.graph.input, "input", "image", m), "inputs are named ['image']"),
    "output renamed": (lambda m: rename(m.graph.output, "logits", "scores", m), "outputs are named ['scores']"),
    "batch frozen": (freeze_batch, "input has dimensions [2, 1, 28, 28]"),
    "opset 18": (lambda m: setattr(m.opset_import[0], "version", 18), "operator sets are {'': 18}"),
    "IR 11": (lambda m: setattr(m, "ir_version", 11), "IR version is 11, above 10"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_parity_fails_on_a_broken_model(chain, name):
    damage, words = BREAKS[name]
    path = chain.out / "sudoku_digitnet.onnx"
    model = onnx.load(path)
    damage(model)
    onnx.save(model, path)
    result = check(chain)
    assert result.code == 1 and words in result.err and "Traceback" not in result.err
    report = json.loads((chain.out / "parity.json").read_text())
    assert not report["passed"] and any(words in failure for failure in report["failures"])


def test_weights_in_a_second_file_are_refused(chain):
    path = chain.out / "sudoku_digitnet.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="weights.data")
    result = check(chain)
    assert result.code == 1 and "another file" in result.err


def test_a_lower_limit_makes_parity_fail(built, tmp_path):
    result = check(built, "--max-mae", "1e-12", "--report", tmp_path / "report.json")
    assert result.code == 1 and "is above 1e-12" in result.err
    assert not json.loads((tmp_path / "report.json").read_text())["passed"]


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_no_model_is_told_in_one_line(chain, content):
    path = chain.out / "sudoku_digitnet.onnx"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = check(chain)
    assert result.code == 1 and str(path) in result.err and len(result.err.splitlines()) == 1


def test_truncated_model_is_told_in_one_line(chain):
    path = chain.out / "sudoku_digitnet.onnx"
    path.write_bytes(path.read_bytes()[:-3000])
    result = check(chain)
    assert result.code == 1 and str(path) in result.err and len(result.err.splitlines()) == 1


def test_later_chapters_load_the_weights_as_the_tutorial_does(built, tmp_path):
    shutil.copy(built.out / "digitnet_best.pth", tmp_path)
    state = torch.load(tmp_path / "digitnet_best.pth", map_location="cpu", weights_only=True)
    assert list(state) == [f"net.{layer}.{kind}" for layer in (0, 3, 7) for kind in ("weight", "bias")]
