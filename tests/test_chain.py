# SPDX-License-Identifier: Apache-2.0
"""The chain in use: make, make again, 03_Training.py by itself, and what each prints as help."""

import json
import re

import pytest
from conftest import ARTIFACTS, ROOT, WITHOUT_MAKE, call, make, run


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".")}


def test_make_builds_everything_and_ends_in_a_summary(built):
    assert built.result.code == 0, built.result.err
    assert times(built.out).keys() == ARTIFACTS
    lines = built.result.out.splitlines()
    assert "Train batch shape: torch.Size([64, 1, 28, 28])" in lines
    for start in ("val acc: 0.", "Best val acc: 0.", "Parity MAE: "):
        assert sum(line.startswith(start) for line in lines) == 1
    assert f"Exported: {built.out}/sudoku_digitnet.onnx" in lines
    parity, counts, *shortfalls = lines[-5:-1]  # after so little training
    assert parity.startswith("parity passed: ") and "324 validation cells" in parity
    assert counts.startswith("validation cells: ") and "camera pages: " in counts
    assert "real boards: " in counts and "of 6 boards wrong" in counts  # two boards, three cuts
    assert len(shortfalls) == 2 and all(line.startswith("falls short: ") for line in shortfalls)
    assert "digitnet_best.pth" in lines[-1] and "sudoku_digitnet.onnx" in lines[-1]


def test_second_make_does_nothing(built):
    before = times(built.out)
    result = make(built.folder)
    assert (result.code, result.err) == (0, "")
    assert "Nothing to be done for 'all'" in result.out
    assert times(built.out) == before


def test_training_by_itself_needs_no_arguments_and_repeats_its_weights(built, tmp_path):
    """As in the tutorial: python3 03_Training.py in a folder with data/."""
    (tmp_path / "data").symlink_to(built.data)
    result = call("03_Training.py", "--epochs", 1, "--threads", 1, cwd=tmp_path).ok()
    lines = result.out.splitlines()
    assert lines[0] == "Train batch shape: torch.Size([256, 1, 28, 28])"
    assert sum(line.startswith("val acc: ") for line in lines) == 1
    assert sum(line.startswith("Best val acc: ") for line in lines) == 1
    assert "Exported: artifacts/sudoku_digitnet.onnx" in lines
    assert float(lines[-1].removeprefix("Parity MAE: ")) < 1e-4
    assert "epoch 1/1: 100%" in result.err  # the bar
    assert times(tmp_path / "artifacts").keys() == {"digitnet_best.pth", "sudoku_digitnet.onnx", "training.json"}

    again = ("--epochs", 1, "--threads", 1, "--train-only", "--out", "again")
    call("03_Training.py", *again, cwd=tmp_path).ok()
    a, b = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("artifacts", "again"))
    assert a["epochs"][0]["val"] == b["epochs"][0]["val"] and a["data"] == b["data"]
    a, b = ((tmp_path / name / "digitnet_best.pth").read_bytes() for name in ("artifacts", "again"))
    assert a == b


# Options that are off, or name nothing, unless they are given.
SILENT = ["puzzles", "bf16", "train-only", "export-only", "golden", "write-golden", "report", "real", "check", "debug"]


@pytest.mark.parametrize("name", ["02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py"])
def test_help_shows_every_option_with_its_default(name):
    result = call(name, "--help").ok()
    options = [" ".join(text.split()) for text in result.out[result.out.index("\noptions:") :].split("\n  --")[1:]]
    shown = ("(default: ", " for digitnet, ", "; photo: ")  # some differ from network to network, style to style
    silent = {option.split()[0] for option in options if not any(words in option for words in shown)}
    assert len(options) > len(silent) and silent <= {*SILENT}
    assert "None" not in result.out and "False" not in result.out


def test_settings_come_from_the_command_line_and_not_from_the_environment(tmp_path, monkeypatch):
    for name in ("DATA", "SEED", "PROFILE", "MODEL", "PYTHON"):
        monkeypatch.setitem(WITHOUT_MAKE, name, "elsewhere")
    result = run("make", "--dry-run", "train", cwd=ROOT).ok()
    assert "elsewhere" not in result.out


def test_an_older_make_is_reported_in_one_line():
    """GNU Make before 4.3 lacks grouped targets; an empty .FEATURES imitates it."""
    result = run("make", "help", ".FEATURES=", cwd=ROOT)
    assert result.code == 2 and "needs GNU Make 4.3 or newer" in result.err and result.err.count("\n") == 1


def test_make_help_lists_targets_and_settings():
    result = run("make", "help", "EPOCHS=77", cwd=ROOT).ok()
    (phony,) = re.findall(r"^\.PHONY: (.*) FORCE$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  ([a-z][\w-]*) ", result.out, re.MULTILINE) == phony.split()
    assert re.search(r"^  EPOCHS=77 +passes over", result.out, re.MULTILINE)
    targets = result.out.partition("Settings")[0].splitlines()[1:]
    assert {len(re.match(r"  [\w-]+ +", line)[0]) for line in targets} == {14}  # aligned


def test_smoke_is_the_whole_chain_in_a_folder_of_its_own():
    result = run("make", "--dry-run", "smoke", cwd=ROOT).ok()
    for script_name in ("02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py"):
        lines = [line for line in result.out.splitlines() if f" {script_name} " in line]
        assert lines and all("build/" in line and " artifacts" not in line for line in lines)
