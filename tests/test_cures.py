# SPDX-License-Identifier: Apache-2.0
"""Messages name a command that mends what they report."""

import importlib
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, slow

from digitnet_boards import load_split, read_pages
from digitnet_cli import UserError
from digitnet_data import remake
from digitnet_onnx import load_model, open_session
from digitnet_parity import read_golden

# Our files: what reads them, the target that a cure names, and what that runs.
OWN_FILES = {
    "data/prepared.json": ("data", "02_PrepareData.py"),
    "data/grids/val.csv": ("data", "02_PrepareData.py"),
    "artifacts/digitnet_best.pth": ("train", "03_Training.py"),
    "artifacts/training.json": ("train", "03_Training.py"),
    "artifacts/sudoku_digitnet.onnx": ("export", "--export-only"),
    "artifacts/golden.npz": ("golden", "04_Parity.py"),
}
CURE = r"run `rm (\S+) && make (?:-C \S+ )?(\w+)` with the settings"
FOREIGN = [b"", b"[1]", b"null", b"{}", b"\xff\xfe\0", b"PK\x03\x04"]


def read_own_file(folder, name):
    """Read one of our files as the scripts do."""
    evaluate, path = importlib.import_module("05_Evaluate"), folder / name
    readers = {
        "prepared.json": lambda: load_split(folder / "data", "train"),
        "val.csv": lambda: read_pages(path),
        "digitnet_best.pth": lambda: load_model(path),
        "training.json": lambda: evaluate.draw_history(path, folder / "x.png"),
        "sudoku_digitnet.onnx": lambda: open_session(path),
        "golden.npz": lambda: read_golden(path),
    }
    readers[path.name]()


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_broken_file_of_our_own_is_reported_with_a_command_that_mends_it(own_chain, name):
    target, script = OWN_FILES[name]
    path = own_chain.folder / name
    whole = path.read_bytes()
    read_own_file(own_chain.folder, name)
    for content in (*FOREIGN, whole[: len(whole) // 2 + 5]):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_own_file(own_chain.folder, name)
        assert "\n" not in str(error.value), content
        removed, again = re.search(CURE, str(error.value)).groups()
        assert again == target
    (kept := path.with_name("kept")).write_bytes(whole)
    Path(removed).unlink()
    planned = own_chain.make("-n", *target.split())
    kept.replace(path)
    assert planned.code == 0 and script in planned.out


@pytest.fixture(scope="module")
def own_chain(built, tmp_path_factory):
    """A copy of the built chain whose tests put back what they break."""
    folder = tmp_path_factory.mktemp("own") / "chain"
    shutil.copytree(built.folder, folder, copy_function=shutil.copy2)
    return built._replace(folder=folder, data=folder / "data", out=folder / "artifacts")


@slow
def test_the_commands_in_messages_mend_what_is_broken(chain, count):
    """Break each of our files, keep its date, and type what messages say until make passes."""
    typed = 0
    for name in (name for name in OWN_FILES if not name.endswith("golden.npz")):  # no target reads that
        path = chain.folder / name
        then = path.stat()
        path.write_bytes(path.read_bytes()[:-30])
        os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
        for made in ("parity.json", "evaluation.json"):  # by what reads the file
            (chain.out / made).unlink()
        while (result := chain.make()).code:
            assert result.code == 2 and "Traceback" not in result.err, (name, result.err)
            removed, target = re.search(CURE, result.err).groups()
            Path(removed).unlink()
            assert chain.make(target).code == 0, (name, target)
            typed += 1
    assert typed >= len(OWN_FILES) - 1
    count(f"cures: {typed} commands of messages typed, each mended what was broken")


def test_a_cure_names_the_command_for_the_very_file(tmp_path, monkeypatch):
    monkeypatch.setattr("digitnet_cli.ROOT", tmp_path)
    monkeypatch.setattr("digitnet_data.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert remake("artifacts/photo/x.onnx", "export", "x.onnx") == "run `make PROFILE=photo export`"
    assert remake("artifacts/x.onnx", "export", "x.onnx") == "run `make export`"
    assert remake("other/x.onnx", "export") == "run `make export` with the settings that made it"
    assert remake("artifacts/my.pth", "export", "x.onnx") == "give x.onnx instead"
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "x.onnx").touch()
    assert remake("artifacts/x.onnx", "export", "x.onnx") == "run `rm artifacts/x.onnx && make export`"
    monkeypatch.chdir(tmp_path / "artifacts")
    assert remake("photo/x.onnx", "export") == f"run `make -C {tmp_path} PROFILE=photo export`"


def test_every_make_command_in_a_message_names_a_target():
    targets = set(re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    sources = [*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("tools/*.py")]
    found = {words for path in sources for words in re.findall(r"`make ([^`{]*)`", path.read_text())}
    assert found and {word for words in found for word in words.split() if "=" not in word} <= targets
