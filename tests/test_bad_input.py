# SPDX-License-Identifier: Apache-2.0
"""Users' mistakes, in all scripts and make: each gives one line with cause, place and cure, and loses nothing.

Each case spoils a small folder (bad_input.py) and calls a script in this process, or make.
"""

import re
import resource
import shutil
import sys

import cv2
import numpy as np
import pytest
from bad_input import CASES, ONNX, PARITY
from conftest import PYTHON, ROOT, call, copy_product, draw_boards, run

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
