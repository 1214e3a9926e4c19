# SPDX-License-Identifier: Apache-2.0
"""The exported file keeps the contract and gives PyTorch's answers; 04_Parity.py finds every break of it."""

import hashlib
import importlib
import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, call, run
from mutants import insert_after_all, replace, weight
from onnx import numpy_helper

from digitnet_cli import UserError
from digitnet_data import load_cells, normalize
from digitnet_onnx import classify, contract_failures, load_model, open_session
from digitnet_parity import Limits, Reference, compare, compute_reference, count_changes, edge_inputs
from digitnet_parity import check_golden as check_vectors


@pytest.fixture
def check(few_newspapers):
    """Call check(chain, options...) to run 04_Parity.py on a chain's files."""

    def run_check(chain, *options):
        files = ("--onnx", chain.out / "sudoku_digitnet.onnx", "--weights", chain.out / "digitnet_best.pth")
        return call("04_Parity.py", *files, "--data", chain.data, *options)

    return run_check


def test_exported_file_keeps_the_whole_contract(built):
    path = built.out / "sudoku_digitnet.onnx"
    assert contract_failures(path.read_bytes()) == []
    assert path.stat().st_size < 100_000
    session = open_session(path)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("input", "tensor(float)", [1, 28, 28])
    assert (answer.name, answer.type, answer.shape[1:]) == ("logits", "tensor(float)", [10])
    assert isinstance(given.shape[0], str) and given.shape[0] == answer.shape[0]


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
    assert report["passed"] and report["failures"] == [] and report["weights"] == 5130
    cells = {name: result["cells"] for name, result in report["measured"].items()}
    batches = {f"random batch of {n}": n for n in (1, 2, 3, 81, 119, 512)}
    drawn = {f"newspaper cells {margin}%": 24 * 81 for margin in (0, 6, 12)}
    assert cells == {**batches, "edge inputs": 32, "validation cells": 2 * 2 * 81, **drawn}
    for name, result in report["measured"].items():
        assert result["mae"] < 1e-4 and result["max_abs"] < 1e-3
        assert all(0 < error < 1e-3 for error in result["max_error_to_float64"].values())
        if name in drawn or name == "validation cells":
            assert result["different_class"] == result["different_blank"] == 0 < result["smallest_margin"]
            assert result["pytorch"] == result["onnx"] and result["onnx"]["cells"] == result["cells"]
    run = report["run"]
    assert {"torch", "onnx", "onnxruntime", "numpy"} <= run["versions"].keys() and "cpu_flags" in run
    for name in ("digitnet_best.pth", "sudoku_digitnet.onnx"):
        assert report["sha256"][str(built.out / name)] == hashlib.sha256((built.out / name).read_bytes()).hexdigest()


def test_parity_fails_on_a_broken_model_and_prints_every_reason(exported, check):
    """Break it in three ways at once; tests/test_mutants.py has every kind of break."""
    path = exported.out / "sudoku_digitnet.onnx"
    model = onnx.load(path)
    replace(model, "net.7.bias", numpy_helper.to_array(weight(model, "net.7.bias")) * np.float32([1.01] + 9 * [1]))
    insert_after_all(model, "Softmax", axis=1)
    model.opset_import[0].version, model.ir_version = 18, 11
    onnx.save(model, path)
    result = check(exported)
    assert result.code == 1 and "Traceback" not in result.err and "parity passed" not in result.out
    report = json.loads((exported.out / "parity.json").read_text())
    assert not report["passed"]
    for part in (
        "weights net.7.bias: 1 of 10 differ, by up to",
        "edge inputs: the exported graph differs from float64 PyTorch: MAE",
        "validation cells: the exported",
        "operator sets are {'': 18}",
        "IR version is 11, above 10",
    ):
        assert any(part in failure for failure in report["failures"])
    assert result.err.splitlines()[1:] == [f"  {failure}" for failure in report["failures"]]


@pytest.mark.parametrize("culprit", ["PyTorch", "exporter", "optimizer", "nobody"])
def test_parity_attributes_a_mismatch_to_the_guilty_stage(built, culprit):
    """Move the answers of one stage by 0.01; fake sessions allow it for each stage."""

    def session(moved):
        return SimpleNamespace(run=lambda *given: [real.run(*given)[0] + np.float32(0.01 * moved)])

    real = open_session(built.out / "sudoku_digitnet.onnx")
    model = load_model(built.out / "digitnet_best.pth")
    reference = compute_reference(model, "edges", edge_inputs())
    if culprit == "PyTorch":
        reference = reference._replace(logits=reference.logits + np.float32(0.01))
    sessions = session(culprit == "exporter"), session(culprit in ("exporter", "optimizer"))
    failures, _ = compare(reference, *sessions, Limits(1e-4, 1e-3))
    words = {"PyTorch": "PyTorch's own float32", "exporter": "exported graph", "optimizer": "graph optimizer"}
    assert len(failures) == (culprit != "nobody")
    assert not failures or words[culprit] in failures[0]


def test_a_tie_in_the_last_bits_does_not_count_as_another_class_but_a_change_does():
    logits = np.zeros((3, 10), np.float32)
    logits[:, 3] = 5
    logits[:2, 7] = 5 - 1e-6, 4
    reference = Reference("cells", np.zeros((3, 1, 28, 28), np.float32), 512, logits, logits.astype(float))
    changed = logits.copy()
    changed[:2, 7] = 5 + 1e-6, 6  # a tie that falls the other way; another answer
    assert count_changes(reference, changed, 2e-6)["different_class"] == 1


@pytest.mark.parametrize("limit, words, other", [("--max-mae", "MAE", "largest"), ("--max-abs", "largest", "MAE")])
def test_a_lower_limit_makes_parity_fail(built, check, tmp_path, limit, words, other):
    result = check(built, limit, "1e-12", "--report", tmp_path / "report.json")
    assert result.code == 1 and words in result.err and "is above 1e-12" in result.err and other not in result.err
    assert not json.loads((tmp_path / "report.json").read_text())["passed"]


def test_folders_that_are_not_utf_8_are_written_read_and_named(chain, tmp_path):
    folder = chain.folder.rename(tmp_path / os.fsdecode(b"f\xfc$x_{$r")) / "artifacts"
    before = (folder / "sudoku_digitnet.onnx").read_bytes()
    call("03_Training.py", "--export-only", "--out", folder).ok()
    assert (folder / "sudoku_digitnet.onnx").read_bytes() == before
    options = "--onnx", folder / "sudoku_digitnet.onnx", "--data", folder.parent / "data", "--out", tmp_path
    run("env", "MPLBACKEND=a_notebooks", sys.executable, ROOT / "05_Evaluate.py", *options).ok()  # may crash


def test_logits_that_are_not_finite_are_refused(exported):
    path = exported.out / "sudoku_digitnet.onnx"
    model = onnx.load(path)
    replace(model, "net.7.bias", np.full(10, np.nan, np.float32))
    onnx.save(model, path)
    with pytest.raises(UserError, match=f"{path} gives logits that are not finite"):
        classify(open_session(path), np.zeros((3, 28, 28), np.uint8))


def test_golden_vectors_are_small_whole_and_pytorchs(built, tmp_path):
    path = built.out / "golden.npz"
    assert path.stat().st_size < 1_000_000
    with np.load(path, allow_pickle=False) as golden:
        inputs, logits = golden["inputs"], golden["logits"]
        sha256 = hashlib.sha256((built.out / "sudoku_digitnet.onnx").read_bytes()).hexdigest()
        assert str(golden["onnx_sha256"]) == sha256
        assert "torch" in json.loads(str(golden["versions"]))["versions"]
    assert inputs.dtype == logits.dtype == np.float32 and len(inputs) == len(logits) > 100
    with torch.inference_mode():
        expected = load_model(built.out / "digitnet_best.pth")(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    cells = load_cells(built.data / "val")
    known = {normalize(pixels).tobytes(): label for pixels, label in zip(cells.pixels, cells.labels, strict=True)}
    assert {known[cell.tobytes()] for cell in inputs if cell.tobytes() in known} == set(range(10))
    assert {edge.tobytes() for edge in edge_inputs()} <= {cell.tobytes() for cell in inputs}
    importlib.import_module("04_Parity").write_golden(tmp_path / "vectors", inputs, logits, path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["vectors"]  # numpy would add .npz


def test_golden_check_runs_where_only_numpy_and_onnxruntime_are(built, tmp_path):
    """Every import from outside the standard library, the repository and requirements-inference.txt is refused."""
    guard = """
import sys
own = {f"digitnet_{name}" for name in ("cli", "data", "machine", "onnx", "parity", "scores")}
allowed = own | {"numpy", "onnxruntime", "flatbuffers", "google", "packaging"}  # with what onnxruntime needs
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed | sys.stdlib_module_names:
            raise ImportError(name + " is not installed")
sys.meta_path.insert(0, Guard())
import runpy
sys.path.insert(0, sys.argv[1])
sys.argv = ["04_Parity.py", *sys.argv[2:]]
runpy.run_path(sys.path[0] + "/04_Parity.py", run_name="__main__")
"""
    files = ("--onnx", built.out / "sudoku_digitnet.onnx", "--golden", built.out / "golden.npz")
    result = run(sys.executable, "-c", guard, ROOT, *files, "--report", tmp_path / "report.json").ok()
    assert result.out.splitlines()[-1].startswith("parity passed: ")
    assert json.loads((tmp_path / "report.json").read_text())["passed"]


def test_pins_for_the_golden_check_are_those_of_all():
    pins = [set((ROOT / name).read_text().splitlines()) for name in ("requirements.txt", "requirements-inference.txt")]
    inference = {line for line in pins[1] if "==" in line}
    names = {line.partition("==")[0] for line in inference}
    assert names == {"numpy", "onnxruntime", "opencv-python-headless"} and inference < pins[0]


@pytest.mark.parametrize("answers", ["nearly the same", "others"])
def test_golden_check_refuses_another_file(exported, answers):
    path = exported.out / "sudoku_digitnet.onnx"
    model = onnx.load(path)
    if answers == "others":
        replace(model, "net.7.bias", np.ones(10, np.float32))
    onnx.save(model, path)
    path.write_bytes(path.read_bytes() + onnx.ModelProto(doc_string="x").SerializeToString())
    result = call("04_Parity.py", "--onnx", path, "--golden", exported.out / "golden.npz")
    assert result.code == 1 and "is not the file that" in result.err and ("MAE" in result.err) == (answers == "others")


def save(inputs, logits):
    return lambda path: np.savez(path, inputs=inputs, logits=logits, onnx_sha256="", versions="{}")


BAD_GOLDEN = {
    "empty": lambda path: path.write_bytes(b""),
    "a bit turned over": lambda path: path.write_bytes(path.read_bytes()[:9000] + b"?!" + path.read_bytes()[9002:]),
    "pickled": save(np.array([{}], object), np.zeros((1, 10))),
    "other shapes": save(np.zeros(3), np.zeros(3)),
    "not a number": save(np.zeros((1, 1, 28, 28), np.float32), np.full((1, 10), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", BAD_GOLDEN)
def test_bad_golden_files_are_refused_in_one_line(built, tmp_path, name):
    path = tmp_path / "golden.npz"
    shutil.copy(built.out / "golden.npz", path)
    BAD_GOLDEN[name](path)
    with pytest.raises(UserError, match=str(path)) as raised:
        check_vectors(path, built.out / "sudoku_digitnet.onnx", {}, Limits(1e-4, 1e-3))
    assert len(str(raised.value).splitlines()) == 1
