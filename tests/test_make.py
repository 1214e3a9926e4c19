# SPDX-License-Identifier: Apache-2.0
"""The Makefile in surroundings of all kinds."""

import re
import shutil
from pathlib import Path

from conftest import ROOT, run


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
    assert run("make", "-n", "-f", ROOT / "Makefile", "clean", cwd=ROOT).code == 0


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
    assert "venv.py own/.installed requirements.txt" in run(*plan, "own/.installed", "-Wrequirements.txt").out
    assert '"own/bin/python" 06' in run(*plan, "read", "PHOTO=x").out
    (tmp_path / "own/bin/python").unlink()
    assert "venv.py own/.installed requirements.txt" in run(*plan, "own/.installed").out
    assert "venv.py own-read/.installed requirements-inference.txt" in run(*plan, "own-read/.installed").out


def test_pre_commit_runs_the_ruff_of_make_lint():
    (pin,) = re.findall(r"^ruff==(.*)$", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert f"    rev: v{pin}\n" in (ROOT / ".pre-commit-config.yaml").read_text()
