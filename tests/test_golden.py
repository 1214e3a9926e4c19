# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: the check of an ONNX file on a machine without PyTorch."""

import hashlib
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, call, run
from mutants import replace

from digitnet_cli import UserError
from digitnet_data import load_cells, normalize
from digitnet_onnx import load_model
from digitnet_parity import Limits, edge_inputs
from digitnet_parity import check_golden as check_vectors


def check_golden(chain, *options, golden=None):
    onnx_file = chain.out / "sudoku_digitnet.onnx"
    return call("04_Parity.py", "--onnx", onnx_file, "--golden", golden or chain.out / "golden.npz", *options)


def test_golden_vectors_are_small_whole_and_pytorchs(built):
    path = built.out / "golden.npz"
    assert path.stat().st_size < 1_000_000
    with np.load(path, allow_pickle=False) as golden:
        inputs, logits = golden["inputs"], golden["logits"]
        assert (
            str(golden["onnx_sha256"]) == hashlib.sha256((built.out / "sudoku_digitnet.onnx").read_bytes()).hexdigest()
        )
        assert "torch" in json.loads(str(golden["versions"]))["versions"]
    assert inputs.dtype == logits.dtype == np.float32 and len(inputs) == len(logits) > 100
    with torch.inference_mode():
        expected = load_model(built.out / "digitnet_best.pth")(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    cells = load_cells(built.data / "val")
    known = {normalize(pixels).tobytes(): label for pixels, label in zip(cells.pixels, cells.labels, strict=True)}
    assert {known[cell.tobytes()] for cell in inputs if cell.tobytes() in known} == set(range(10))
    assert {edge.tobytes() for edge in edge_inputs()} <= {cell.tobytes() for cell in inputs}


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
    result = run(sys.executable, "-c", guard, ROOT, *files, "--report", tmp_path / "report.json")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].startswith("parity passed: ")
    assert json.loads((tmp_path / "report.json").read_text())["passed"]


def test_pins_for_the_golden_check_are_those_of_all():
    pins = [set((ROOT / name).read_text().splitlines()) for name in ("requirements.txt", "requirements-inference.txt")]
    inference = {line for line in pins[1] if "==" in line}
    assert {line.partition("==")[0] for line in inference} == {
        "numpy",
        "onnxruntime",
        "opencv-python-headless",
    } and inference < pins[0]


def test_golden_check_refuses_another_models_answers(exported):
    path = exported.out / "sudoku_digitnet.onnx"
    model = onnx.load(path)
    replace(model, "net.7.bias", np.ones(10, np.float32))
    onnx.save(model, path)
    result = check_golden(exported)
    assert result.code == 1 and "is not the file that" in result.err and "MAE" in result.err


def test_golden_check_refuses_another_file_with_nearly_the_same_answers(exported):
    path = exported.out / "sudoku_digitnet.onnx"
    path.write_bytes(path.read_bytes() + onnx.ModelProto(doc_string="x").SerializeToString())
    result = check_golden(exported)
    assert result.code == 1 and "is not the file that" in result.err and "MAE" not in result.err


def pickled(path):
    with path.open("wb") as file:
        np.savez(file, inputs=np.array([{}], object), logits=np.zeros((1, 10)), onnx_sha256="", versions="{}")


BAD_GOLDEN = {
    "empty": lambda path: path.write_bytes(b""),
    "a bit turned over": lambda path: path.write_bytes(path.read_bytes()[:9000] + b"?!" + path.read_bytes()[9002:]),
    "pickled": pickled,
    "other shapes": lambda path: np.savez(path, inputs=np.zeros(3), logits=np.zeros(3), onnx_sha256="", versions="{}"),
    "not a number": lambda path: np.savez(
        path, inputs=np.zeros((1, 1, 28, 28), np.float32), logits=np.full((1, 10), np.nan, np.float32),
        onnx_sha256="", versions="{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_GOLDEN)
def test_bad_golden_files_are_refused_in_one_line(built, tmp_path, name):
    path = tmp_path / "golden.npz"
    shutil.copy(built.out / "golden.npz", path)
    BAD_GOLDEN[name](path)
    limits = Limits(1e-4, 1e-3)
    with pytest.raises(UserError, match=str(path)) as raised:
        check_vectors(path, built.out / "sudoku_digitnet.onnx", {}, limits)
    assert len(str(raised.value).splitlines()) == 1
