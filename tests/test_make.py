# SPDX-License-Identifier: Apache-2.0
"""The Makefile in surroundings of all kinds."""

import re
import shutil

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
    assert "cd " not in re.sub(r"^#.*", "", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


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


def test_empty_settings_leave_their_defaults():
    empty = [f"{name}=" for name in ("SEED", "DATA", "OUT", "MODEL", "PROFILE", "PYTHON")]
    plans = [run("make", "-n", "-B", *options, "data", "check") for options in ([], empty)]
    assert plans[0] == plans[1] and plans[0].code == 0 and plans[0].out
