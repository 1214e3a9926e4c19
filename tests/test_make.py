# SPDX-License-Identifier: Apache-2.0
"""The Makefile in surroundings of all kinds."""

import math
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ARTIFACTS, EVALUATION, PARITY, ROOT, copy_product, pytest_xdist_auto_num_workers, run


def test_make_clean_removes_our_data_wherever_cdpath_leads(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("data", "elsewhere/data"):
        (tmp_path / folder / "train").mkdir(parents=True)
        (tmp_path / folder / "train" / "a.jpg").touch()
    (tmp_path / "data" / ".made-by-02_PrepareData.py").touch()
    done = run("make", "-C", tmp_path, "clean", CDPATH=str(tmp_path / "elsewhere"))
    assert done.code == 0 and not list((tmp_path / "data").iterdir())
    assert (tmp_path / "elsewhere" / "data" / "train" / "a.jpg").exists()


def test_the_makefile_touches_no_other_folder(tmp_path, snapshot):
    for name in ("build/app", "artifacts/summary.txt", "data/.made-by-02_PrepareData.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    before = snapshot(tmp_path)
    (tmp_path / "GNUmakefile").symlink_to(ROOT / "Makefile")
    for options in (["-f", ROOT / "Makefile"], ["-f", f"../{tmp_path.name}/GNUmakefile"], []):
        for target in ("clean", "all"):
            done = run("make", *options, target, cwd=tmp_path)
            assert done.code == 2 and re.fullmatch(r".* only in its own folder: run `make -C FOLDER`.*\n", done.err)
    assert snapshot(tmp_path) == before
    run("make", "-n", "-f", ROOT / "Makefile", "clean", cwd=ROOT).ok()


NAMES = ["IMG_1(1).png", "it's.png", "a&b.png", "a;touch lost.png", "WhatsApp  Image 1.jpg", "a$b.png", "[*]#%:.png"]
NAMES += ["-x.png", "`touch lost`.png", "$(shell touch lost)", '"q"', "a\\b.png", "~/it's  x.jpg"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_reaches_a_script_as_it_is(tmp_path, name):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = ["make", "-s", f"PYTHON={tmp_path}/python"]
    shown = name.replace("~", "/home/me")
    for target, setting, words in (("read", "PHOTO", "06_ReadBoard.py\n--"), ("real", "DATASET", "tools/real.py")):
        done = run(*command, target, f"{setting}={name}", HOME="/home/me")
        assert (done.code, done.out, done.err) == (0, f"{words}\n{shown}\n", "")
    if "$" not in name:
        command += [f"DATA={tmp_path}", "-o", "artifacts/sudoku_digitnet.onnx", "-W", tmp_path, "check"]
        done = run(*command, f"REAL={name}", HOME="/home/me")
        assert done.code == 0 and f"--real\n{shown}\n" in done.out
    assert not (ROOT / "lost").exists()


def test_names_that_make_cannot_hold_are_refused_in_one_line(tmp_path):
    for name in ("run-10:30", "a;b", "100%", "#1", "my run", "[x]", "a*", "a|b", "a\\b", "$$a", "~/a"):
        for setting in ("DATA", "OUT", "PUZZLES", "VENV"):
            done = run("make", "-n", f"{setting}={tmp_path}/{name}")
            assert done.code == 2 and re.fullmatch(r"Makefile:\d+: .*which make takes as its own.*\n", done.err), name
    for name in ("d(1)", "john's", "a&b", '"a"', "a=b", "a,b", "a~b", "<a>"):
        (tmp_path / f"{name}.txt").touch()
        settings = f"DATA={tmp_path}/{name}", f"OUT={tmp_path}/o/{name}", f"PUZZLES={tmp_path}/{name}.txt"
        done = run("make", "-n", *settings)
        assert done.code == 0 and not done.err, name
        run("bash", "-n", "-c", done.out).ok()
    (tmp_path / "link").symlink_to("/mnt/usb")
    for setting in (f"DATA={tmp_path}/link", f"OUT={tmp_path}/link", "DATA=README.md", "OUT=README.md"):
        done = run("make", "-n", setting)
        assert done.code == 2 and re.fullmatch(r".* is a file, or a link to nothing: mount its disk.*\n", done.err)


@pytest.mark.parametrize("target, setting", [("read", "PHOTO"), ("real", "DATASET")])
def test_what_to_read_is_asked_for_before_anything_is_installed(target, setting):
    done = run("make", target)
    assert done.code == 2 and not done.out
    assert re.fullmatch(rf"Makefile:\d+: .*make {target} needs {setting}=.*\n", done.err)


def test_the_tests_use_their_own_packages_and_plugins(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "own" / "bin").mkdir(parents=True)
    (tmp_path / "own" / "pyvenv.cfg").touch()
    (tmp_path / "own" / "bin" / "python").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "own" / "bin" / "python").chmod(0o755)
    foreign = ["PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTEST_PLUGINS", "PYTEST_ADDOPTS"]
    done = run("make", "-C", tmp_path, "test", "VENV=", "PYTHON=own/bin/python", **dict.fromkeys(foreign, "foreign"))
    assert done.code == 0 and "=foreign" not in done.out
    assert "\nPYTEST_DISABLE_PLUGIN_AUTOLOAD=1\n" in done.out


def test_an_environment_is_filled_again_when_its_python_or_its_requirements_change(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "own/bin").mkdir(parents=True)
    (tmp_path / "own/bin/python").symlink_to("/bin/sh")
    for name in ("requirements.txt", "requirements-inference.txt", "own/.installed"):
        (tmp_path / name).write_text(f"{Path('/bin/sh').resolve()}\n")
    plan = ["make", "-C", tmp_path, "-n", "VENV=own"]
    assert "is up to date" in run(*plan, "own/.installed").out
    assert "venv.py 'own/.installed' requirements.txt" in run(*plan, "own/.installed", "-Wrequirements.txt").out
    assert '"own/bin/python" 06' in run(*plan, "read", "PHOTO=x").out
    (tmp_path / "own/bin/python").unlink()
    assert "venv.py 'own/.installed' requirements.txt" in run(*plan, "own/.installed").out
    assert "venv.py 'own-read/.installed' requirements-inference.txt" in run(*plan, "own-read/.installed").out


def test_pre_commit_runs_the_ruff_of_make_lint():
    (pin,) = re.findall(r"^ruff==(.*)$", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert f"    rev: v{pin}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


@pytest.fixture
def work(tmp_path):
    """Return a folder with a stand-in for Python that writes what a script writes, and a call of make there."""
    (tmp_path / "python").write_text(f"""#!/bin/sh
for word; do
    case "$before" in --out) out="$word";; --model) model="$word";; --weights) out="${{word%/*}}";; esac; before="$word"
done
echo "$*" >> calls; mkdir -p "$out"; cd "$out"
case "$*" in
02*) mkdir train; names=".made-by-02_PrepareData.py prepared.json";;
03*--train-only*) names="training.json ${{model}}_best.pth";; 03*) names=sudoku_digitnet.onnx;;
04*) names="{" ".join(PARITY)}";; 05*) names="{" ".join(EVALUATION)}"
esac
for name in $names; do echo ours > $name; done
""")
    (tmp_path / "python").chmod(0o755)
    copy_product(tmp_path)
    for table in ("labels.csv", "photos/photos.csv"):
        (tmp_path / "data/real" / table).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/real" / table).touch()

    def make(*words):
        (tmp_path / "calls").write_text("")
        return run("make", "PYTHON=./python", *words, cwd=tmp_path)

    return tmp_path, make


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name[0] != "."}


def test_changed_epochs_rebuild_the_weights_and_what_depends_on_them(work):
    folder, make = work
    make().ok()
    data, before = times(folder / "data"), times(folder / "artifacts")
    assert make("-j2", "EPOCHS=2").code == 0 and times(folder / "data") == data
    train, *_ = (folder / "calls").read_text().splitlines()
    assert "03_Training.py " in train and " --epochs 2" in train
    assert all(after > before[name] for name, after in times(folder / "artifacts").items())
    assert "Nothing to be done for 'all'" in make("EPOCHS=2").out


def test_one_lost_artifact_is_remade_with_what_depends_on_it_alone(work):
    folder, make = work
    make().ok()
    remade = {"summary.txt": set(), "sudoku_digitnet.onnx": {"sudoku_digitnet.onnx"} | PARITY | EVALUATION}
    remade |= dict.fromkeys(PARITY, PARITY) | dict.fromkeys(EVALUATION, EVALUATION)
    for lost, made in remade.items():
        before = times(folder / "artifacts")
        (folder / "artifacts" / lost).unlink()
        make("-j2").ok()
        after = times(folder / "artifacts")
        assert after.keys() == ARTIFACTS and {name for name in after if after[name] != before[name]} == made | {
            "summary.txt"
        }
    for name in ("training.json", "learning_curve.png"):
        (folder / "artifacts" / name).unlink()
    assert "Nothing to be done for 'all'" in make().out


def test_other_boards_or_another_bound_are_evaluated(work):
    folder, make = work
    make().ok()
    shutil.copytree(folder / "data/real", folder / "my real")
    for setting in ("REAL=my real", "MIN_VAL_ACCURACY=50"):
        assert make(setting).code == 0 and (folder / "calls").read_text().startswith("05_Evaluate.py ")
        assert "Nothing to be done for 'all'" in make(setting).out
    (folder / "data/real/labels.csv").write_text("another")
    assert "05_Evaluate.py" in make("-n", setting).out


def test_a_script_that_fails_stops_make_and_only_the_report_that_it_began_is_removed(work, snapshot):
    folder, make = work
    make().ok()
    before = snapshot(folder / "artifacts")
    (folder / "fail").write_text("""#!/bin/sh
case "$*" in *--epochs*) exit 1;; 04*) cd artifacts; ls parity.json || { echo half > parity.json; exit 1; }; cd ..; esac
exec ./python "$@"
""")
    (folder / "fail").chmod(0o755)
    assert make("PYTHON=./fail", "EPOCHS=3").code == 2
    after = snapshot(folder / "artifacts")
    assert after.pop(".settings") != before.pop(".settings") and after == before
    (folder / "artifacts/parity.json").unlink()
    assert make("PYTHON=./fail", "parity").code == 2 and not (folder / "artifacts/parity.json").exists()


def test_data_and_results_may_be_in_one_folder(work):
    folder, make = work
    (folder / "link").symlink_to("same")
    for names in (["DATA=same", "OUT=./same/"], ["DATA=same", "OUT=same"], ["DATA=same", "OUT=link"]):
        done = make(*names)
        assert done.code == 0 and not done.err and "Nothing to be done" in make(*names).out
    assert make("DATA=same", "OUT=same", "clean").code == 0 and not (folder / "same").exists()


def test_a_copied_folder_is_taken_as_it_is_by_the_command_of_the_docs(work):
    folder, make = work
    make().ok()
    os.utime(folder / "data/prepared.json")  # as of a copy: of another order
    assert "--train-only" in make("-n").out
    (command,) = re.findall("`(touch .*?)`", (ROOT / "docs/troubleshooting.md").read_text())
    assert run("bash", "-c", command, cwd=folder).code == 0 and "Nothing to be done" in make().out


def test_own_cells_corrected_in_place_are_trained_on(work):
    folder, make = work
    for name in (f"my's/{split}/{label}/a b.png" for split in ("train", "val") for label in range(10)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("cell")
    settings = ["-j4", "DATA=my's", "OUT=out's", "TRAIN=9"]
    cell = folder / "my's/val/5/a b.png"
    for text, seconds in (("cell", 0), ("else", -9), ("longer", 0)):  # an older file of the same size, another size
        cell.write_text(text)
        os.utime(cell, (1e9 + seconds,) * 2)
        make(*settings).ok()
        calls = (folder / "calls").read_text()
        assert "--train-only" in calls and "02_" not in calls
        assert "Nothing to be done" in make(*settings).out
    cell.rename(cell.with_name("b.png"))
    assert "--train-only" in make("-n", *settings).out


def test_weights_of_another_script_are_used_and_never_overwritten_or_removed(work, snapshot):
    folder, make = work
    (folder / "artifacts").mkdir()
    for name in ("digitnet_best.pth", "sudoku_digitnet.onnx"):  # first the weights alone, then both
        (folder / "artifacts" / name).write_text("theirs")
        theirs = snapshot(folder / "artifacts")
        for words in (["train"], ["-j4", "SEED=1"], ["EPOCHS=3"], ["SEED=2", "parity"]):
            done = make(*words)
            assert done.code == 0 and "best.pth is not make's: it is used as it is; to train name" in done.out, done
            assert "--train-only" not in (folder / "calls").read_text()
            assert "Nothing to be done" in make(*words).out
            assert theirs.items() <= snapshot(folder / "artifacts").items()
        assert (folder / "artifacts/sudoku_digitnet.onnx").exists() and make("clean").code == 0
        assert snapshot(folder / "artifacts") == theirs
    done = make("MODEL=digitnetv2", "EPOCHS=1")
    assert done.code == 2 and "onnx is not make's: move it away" in done.err  # of other weights
    (folder / "artifacts/sudoku_digitnet.onnx").unlink()
    for words in (["MODEL=digitnetv2"], ["-j4", "EPOCHS=2"], ["MODEL=digitnetv2", "clean"], ["clean"]):
        make(*words).ok()
        assert (folder / "artifacts/digitnet_best.pth").read_text() == "theirs"
    assert make("OUT=other", "train").code == 0 and (folder / "other/digitnet_best.pth").exists()
    assert make("OUT=other", "clean").code == 0 and not (folder / "other").exists()


@pytest.mark.parametrize("name", ["summary.txt", "confusion_matrix.png", "sudoku_digitnet.onnx", "training.json"])
def test_another_programs_results_stop_make_and_stay(work, snapshot, name):
    folder, make = work
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / name).write_text("theirs")
    for target in ("all", "train", "evaluate"):
        refused = make(target)
        assert refused.code == 2 and f"make: artifacts/{name} is not make's: move it away or name " in refused.err
    assert make("clean").code == 0 and snapshot(folder / "artifacts") == {name: b"theirs"}


@pytest.mark.parametrize("gigabytes, limit, workers", [(0.6, math.inf, 1), (3.5, math.inf, 3), (9, 2.3, 2), (9, 9, 4)])
def test_make_test_starts_as_many_processes_as_fit_into_memory(monkeypatch, gigabytes, limit, workers):
    meminfo = f"MemTotal: 1 kB\nMemAvailable:   {gigabytes * 1e9 / 1024:.0f} kB\n"
    monkeypatch.setattr("digitnet_machine.read_system_file", lambda _: meminfo)
    monkeypatch.setattr("digitnet_machine.available_cpus", lambda: 4)
    monkeypatch.setattr("digitnet_machine.container_limits", lambda _: {"memory": limit * 1e9})
    assert pytest_xdist_auto_num_workers() == workers
