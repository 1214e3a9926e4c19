# SPDX-License-Identifier: Apache-2.0
"""Users' mistakes and broken files, in all scripts and make: each gives one line with cause, place and cure.

Each case of the first tests spoils a small folder (bad_input.py) and calls a script in this process, or make.
"""

import importlib
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_input import CASES, ONNX, PARITY
from conftest import PYTHON, ROOT, call, copy_product, draw_boards, make, run, slow

from digitnet_boards import load_split, read_pages
from digitnet_cli import UserError
from digitnet_data import remake
from digitnet_onnx import load_model, open_session
from digitnet_parity import read_golden

draw_history = importlib.import_module("05_Evaluate").draw_history
BAR = re.compile(r"[\w /]+: +\d+%\|")  # tqdm's


@pytest.fixture(scope="module")
def sound(built, tmp_path_factory):
    """A folder without any mistake: two small pages, a trained model, a board."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(10):
            (folder / "data" / split / str(label)).mkdir(parents=True)
            path = folder / "data" / split / str(label) / f"000000_clean_{label:02d}.png"
            cv2.imwrite(str(path), rng.integers(0, 256, (28, 28), np.uint8))
    shutil.copytree(built.out, folder / "artifacts", ignore=shutil.ignore_patterns(".*", "*.png"))
    draw_boards(folder / "real", 1)
    return folder


@pytest.mark.usefixtures("few_newspapers")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_reported_in_one_line_and_nothing_is_lost(sound, tmp_path, monkeypatch, snapshot, case, name):
    spoil, command, code, words = CASES[name]
    folder = shutil.copytree(sound, tmp_path / "folder")
    monkeypatch.chdir(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if callable(spoil):
        spoil()
    before = snapshot(folder)
    try:
        if spoil == "full":  # files may not grow: what a program sees is what it sees of a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        result = call(*command, cwd=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = [line for line in result.err.replace("\r", "\n").splitlines() if line.strip() and not BAR.match(line)]
    assert result.code == code and words in result.err, result.err
    assert printed[0].startswith(f"{command[0]}: "), printed
    # Parity prints all that is wrong with the model, one reason per line.
    reasons = printed[1:] if command[0] == "04_Parity.py" and "is not the model of" in printed[0] else []
    assert len(printed) == 1 + len(reasons) and all(line.startswith("  ") for line in reasons), printed
    after = snapshot(folder)
    if command == PARITY and code == 1:  # the verdict of before is no loss: it must not outlast this one
        before.pop("artifacts/parity.json")
        assert b'"passed": true' not in after.pop("artifacts/parity.json", b"")
        before.pop("artifacts/parity.txt")
        assert b"parity passed" not in after.pop("artifacts/parity.txt", b"")
    assert after == before
    assert not (folder / "bang").exists()
    case("bad input in the scripts")


def test_a_full_disk_while_exporting_is_reported_and_keeps_the_old_file(sound, tmp_path, snapshot, case):
    """In a process of its own: the exporter writes temporary files of many kinds, and logs."""
    folder = shutil.copytree(sound, tmp_path / "folder")
    before = snapshot(folder)
    export = f'"{sys.executable}" "{ROOT}/03_Training.py" --export-only'
    result = run("bash", "-c", f"ulimit -f 0; exec {export}", cwd=folder)
    printed = f"03_Training.py: the exporter failed, {ONNX} is unchanged: "
    assert result.code == 1 and result.err.splitlines()[-1].startswith(printed) and "Traceback" not in result.err
    assert snapshot(folder) == before
    case("bad input in the scripts")


@pytest.mark.parametrize("name", ["bench/bench.py", *sorted(path.name for path in ROOT.glob("0*.py"))])
def test_a_python_without_the_packages_is_reported_in_one_line(name):
    result = run(sys.executable, "-S", ROOT / name, *["photo.jpg"] * name.startswith("06"))  # no site-packages
    assert result.code == 1 and result.err.count("\n") == 1 and "then use .venv/bin/python" in result.err
    assert result.err.startswith(f"{name.removeprefix('bench/')}: {sys.executable} has no package ")


MAKE_CASES = {
    "a space in a name": (["clean", "OUT=my results"], "OUT=my results has a space or one of"),
    "EPOCHS=0": (["train", "OUT=new", "EPOCHS=0"], "--epochs: '0' is not a whole number from 1 to"),
    "BATCH=-8": (["train", "OUT=new", "BATCH=-8"], "--batch-size"),
    "SEED=x": (["train", "OUT=new", "SEED=x"], "--seed: 'x'"),
    "an empty name": (["clean", "OUT="], "OUT= is empty"),
    "PROFILE=newspaper": (["PROFILE=newspaper"], "PROFILE=newspaper is neither tutorial nor photo"),
    "PUZZLES=nowhere": (["data", "DATA=new", "PUZZLES=nowhere.txt"], "nowhere.txt"),
    "no such target": (["trian"], "No rule to make target 'trian'"),
}


@pytest.mark.parametrize("name", MAKE_CASES)
def test_make_reports_bad_settings_in_one_line_and_loses_nothing(sound, tmp_path, snapshot, case, name):
    """In a fresh copy of the repository whose folder has spaces in its name, beside data of the reader's own."""
    arguments, words = MAKE_CASES[name]
    folder = shutil.copytree(sound, tmp_path / "a folder with spaces")
    copy_product(folder)
    before = snapshot(folder)
    result = run("make", f"PYTHON={PYTHON}", *arguments, cwd=folder)
    assert result.code == 2 and words in result.err and "Traceback" not in result.err
    assert sum(words in line for line in result.err.splitlines()) == 1
    after = snapshot(folder)
    assert {path: content for path, content in after.items() if path in before} == before
    new = after.keys() - before.keys()
    assert not [path for path in new if not re.search(r"__pycache__|\.(settings|drawing)$", path)]
    case("bad input in make")


# Our files: the target that a cure names, what that runs, and how the scripts read the file.
OWN_FILES = {
    "data/prepared.json": ("data", "02_PrepareData.py", lambda path: load_split(path.parent, "train")),
    "data/grids/val.csv": ("data", "02_PrepareData.py", read_pages),
    "artifacts/digitnet_best.pth": ("train", "03_Training.py", load_model),
    "artifacts/training.json": ("train", "03_Training.py", lambda path: draw_history(path, path.with_name("x.png"))),
    "artifacts/sudoku_digitnet.onnx": ("export", "--export-only", open_session),
    "artifacts/golden.npz": ("golden", "04_Parity.py", read_golden),
}
CURE = r"run `rm (\S+) && make (?:-C \S+ )?(\w+)` with the settings"
FOREIGN = [b"", b"[1]", b"null", b"{}", b"\xff\xfe\0", b"PK\x03\x04"]


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_broken_file_of_our_own_is_reported_with_a_command_that_mends_it(own_chain, name):
    target, script, read = OWN_FILES[name]
    path = own_chain.folder / name
    whole = path.read_bytes()
    read(path)
    for content in (*FOREIGN, whole[: len(whole) // 2 + 5]):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read(path)
        assert "\n" not in str(error.value), content
        removed, again = re.search(CURE, str(error.value)).groups()
        assert again == target
    (kept := path.with_name("kept")).write_bytes(whole)
    Path(removed).unlink()
    planned = make(own_chain.folder, "-n", *target.split())
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
        while (result := make(chain.folder)).code:
            assert result.code == 2 and "Traceback" not in result.err, (name, result.err)
            removed, target = re.search(CURE, result.err).groups()
            Path(removed).unlink()
            assert make(chain.folder, target).code == 0, (name, target)
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
