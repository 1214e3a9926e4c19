# SPDX-License-Identifier: Apache-2.0
"""The chain in use: make, make again, other settings, one lost file; and 03_Training.py by itself."""

import json
import re
import shutil

import pytest
from conftest import ROOT, WITHOUT_MAKE, call, make, run

PARITY = {"golden.npz", "parity.json", "parity.txt"}
EVALUATION = {"evaluation.json", "evaluation.txt", "misread_photos.png"}
EVALUATION |= {"confusion_matrix.png", "learning_curve.png", "misread_cells.png"}
ARTIFACTS = sorted({"digitnet_best.pth", "sudoku_digitnet.onnx", "summary.txt", "training.json"} | PARITY | EVALUATION)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".")}


def test_make_builds_everything_and_ends_in_a_summary(built):
    assert built.result.code == 0, built.result.err
    assert sorted(times(built.out)) == ARTIFACTS
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


@pytest.fixture
def touch(chain, tmp_path):
    """A stand-in for `python`, to test make's choice alone: it touches what a script writes, and logs the call."""
    program = tmp_path / "touch"
    program.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/calls
case "$*" in
03_Training.py*--train-only*) names="training.json digitnet_best.pth";;
03_Training.py*--export-only) names=sudoku_digitnet.onnx;;
04_Parity.py*) names="{" ".join(PARITY)}";;
05_Evaluate.py*) names="{" ".join(EVALUATION)}";;
*) echo "$*: not expected" >&2; exit 1;;
esac
cd "{chain.out}" && touch $names
"""
    )
    program.chmod(0o755)
    return program


def test_changed_epochs_rebuild_the_weights_and_what_depends_on_them(chain, touch):
    data, before = times(chain.data), times(chain.out)
    result = chain.make("-j2", "EPOCHS=2", f"PYTHON={touch}")
    assert result.code == 0, result.err
    assert times(chain.data) == data
    assert all(after > before[name] for name, after in times(chain.out).items())
    train, *_ = touch.with_name("calls").read_text().splitlines()
    assert "03_Training.py " in train and " --epochs 2 " in train
    assert "Nothing to be done for 'all'" in chain.make("EPOCHS=2", f"PYTHON={touch}").out


@pytest.mark.parametrize(
    "lost, remade",
    [
        ("sudoku_digitnet.onnx", {"sudoku_digitnet.onnx", "summary.txt"} | PARITY | EVALUATION),
        *((name, {"summary.txt"} | PARITY) for name in sorted(PARITY)),
        ("evaluation.json", {"summary.txt"} | EVALUATION),
        ("evaluation.txt", {"summary.txt"} | EVALUATION),
        ("misread_cells.png", {"summary.txt"} | EVALUATION),
        ("misread_photos.png", {"summary.txt"} | EVALUATION),
        ("learning_curve.png", {"summary.txt"} | EVALUATION),
        ("summary.txt", {"summary.txt"}),
    ],
)
def test_one_lost_artifact_is_remade_with_what_depends_on_it_alone(chain, touch, lost, remade):
    before = times(chain.out)
    (chain.out / lost).unlink()
    result = chain.make("-j2", f"PYTHON={touch}")
    assert result.code == 0, result.err
    after = times(chain.out)
    assert sorted(after) == ARTIFACTS
    assert {name for name in after if after[name] != before[name]} == remade


def test_without_the_record_of_training_make_still_comes_to_an_end(chain, touch):
    for name in ("training.json", "learning_curve.png"):
        (chain.out / name).unlink()
    assert "Nothing to be done for 'all'" in chain.make(f"PYTHON={touch}").out


def test_other_boards_or_another_bound_are_evaluated(chain, touch):
    shutil.copytree(chain.folder / "real", chain.folder / "my real")
    for setting in (f"REAL={chain.folder}/my real", "MIN_VAL_ACCURACY=50"):
        touch.with_name("calls").write_text("")
        assert chain.make(setting, f"PYTHON={touch}").code == 0
        assert touch.with_name("calls").read_text().startswith("05_Evaluate.py ")
        assert "Nothing to be done for 'all'" in chain.make(setting, f"PYTHON={touch}").out
    with (chain.folder / "real" / "labels.csv").open("a") as file:
        file.write("\n")
    assert "05_Evaluate.py" in chain.make("-n").out


def test_a_report_of_a_script_that_fails_is_removed(chain, tmp_path):
    (tmp_path / "python").write_text(f"#!/bin/sh\necho half > {chain.out}/parity.json; exit 1")
    (tmp_path / "python").chmod(0o755)
    (chain.out / "parity.json").unlink()
    assert chain.make("parity", f"PYTHON={tmp_path}/python").code == 2
    assert not (chain.out / "parity.json").exists()


def test_readers_own_data_are_used_as_they_are(chain, touch, snapshot):
    (chain.data / ".made-by-02_PrepareData.py").unlink()
    (chain.data / "prepared.json").unlink()
    (chain.data / ".drawing").unlink()
    shutil.rmtree(chain.data / "grids")
    before = snapshot(chain.data)
    (chain.out / "digitnet_best.pth").unlink()
    result = chain.make("TRAIN=9", f"PYTHON={touch}")
    assert result.code == 0, result.err
    assert "03_Training.py" in result.out and "02_PrepareData.py" not in result.out
    assert "Nothing to be done for 'all'" in chain.make("TRAIN=9", f"PYTHON={touch}").out
    result = call("03_Training.py", "--epochs", 1, "--threads", 1, "--train-only", cwd=chain.folder)
    assert result.code == 0, result.err
    assert snapshot(chain.data) == before


def test_training_by_itself_needs_no_arguments(chain):
    """As in the tutorial: python3 03_Training.py in a folder with data/."""
    shutil.rmtree(chain.out)
    result = call("03_Training.py", "--epochs", 1, "--threads", 1, cwd=chain.folder)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "Train batch shape: torch.Size([256, 1, 28, 28])"
    assert sum(line.startswith("val acc: ") for line in lines) == 1
    assert sum(line.startswith("Best val acc: ") for line in lines) == 1
    assert "Exported: artifacts/sudoku_digitnet.onnx" in lines
    assert float(lines[-1].removeprefix("Parity MAE: ")) < 1e-4
    assert "epoch 1/1: 100%" in result.err  # the bar
    assert sorted(times(chain.out)) == ["digitnet_best.pth", "sudoku_digitnet.onnx", "training.json"]


def test_same_seed_gives_the_same_weights(built, tmp_path):
    for name in ("a", "b"):
        options = ("--data", built.data, "--out", tmp_path / name, "--epochs", 1, "--threads", 1, "--train-only")
        assert call("03_Training.py", *options).code == 0
    a, b = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("a", "b"))
    assert a["epochs"][0]["val"] == b["epochs"][0]["val"] and a["data"] == b["data"]
    assert (tmp_path / "a" / "digitnet_best.pth").read_bytes() == (tmp_path / "b" / "digitnet_best.pth").read_bytes()


def test_bad_data_stop_make_and_keep_the_artifacts(chain, snapshot):
    """test_bad_input.py has every kind of bad data."""
    cell = next((chain.data / "val" / "0").iterdir())
    cell.unlink()
    cell.write_bytes(b"no image")
    before = {name: content for name, content in snapshot(chain.out).items() if name != ".settings"}
    result = chain.make("EPOCHS=3")
    assert result.code == 2 and "Traceback" not in result.err
    reported = [line for line in result.err.splitlines() if line.startswith("03_Training.py: ")]
    assert len(reported) == 1 and str(cell) in reported[0]
    after = snapshot(chain.out)
    assert {name: after[name] for name in before} == before


# Options that are off, or name nothing, unless they are given.
NO_DEFAULT = {
    "puzzles", *("bf16", "train-only", "export-only"),
    *("golden", "write-golden", "report", "real", "check", "debug"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py"])
def test_help_shows_every_option_with_its_default(name):
    result = call(name, "--help")
    assert result.code == 0
    options = [" ".join(text.split()) for text in result.out[result.out.index("\noptions:") :].split("\n  --")[1:]]
    shown = ("(default: ", " for digitnet, ", "; photo: ")  # some differ from network to network, style to style
    silent = {option.split()[0] for option in options if not any(words in option for words in shown)}
    assert len(options) > len(silent) and silent <= NO_DEFAULT
    assert "None" not in result.out and "False" not in result.out


def test_settings_come_from_the_command_line_and_not_from_the_environment(tmp_path, monkeypatch):
    for name in ("DATA", "SEED", "PROFILE", "MODEL", "PYTHON"):
        monkeypatch.setitem(WITHOUT_MAKE, name, "elsewhere")
    result = run("make", "--dry-run", "train", cwd=ROOT)
    assert result.code == 0, result.err
    assert "elsewhere" not in result.out


def test_an_older_make_is_reported_in_one_line():
    """GNU Make before 4.3 lacks grouped targets; an empty .FEATURES imitates it."""
    result = run("make", "help", ".FEATURES=", cwd=ROOT)
    assert result.code == 2 and "needs GNU Make 4.3 or newer" in result.err and result.err.count("\n") == 1


def test_make_help_lists_targets_and_settings():
    result = run("make", "help", "EPOCHS=77", cwd=ROOT)
    assert result.code == 0
    (phony,) = re.findall(r"^\.PHONY: (.*) FORCE$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  ([a-z][\w-]*) ", result.out, re.MULTILINE) == phony.split()
    assert re.search(r"^  EPOCHS=77 +passes over", result.out, re.MULTILINE)
    targets = result.out.partition("Settings")[0].splitlines()[1:]
    assert {len(re.match(r"  [\w-]+ +", line)[0]) for line in targets} == {14}  # aligned


def test_smoke_is_the_whole_chain_in_a_folder_of_its_own():
    result = run("make", "--dry-run", "smoke", cwd=ROOT)
    assert result.code == 0, result.err
    for script_name in ("02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py"):
        lines = [line for line in result.out.splitlines() if f" {script_name} " in line]
        assert lines and all("build/" in line and " artifacts" not in line for line in lines)
