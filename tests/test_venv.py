# SPDX-License-Identifier: Apache-2.0
"""Environments that make builds."""

import shutil
import sys
import venv
import zipfile
from pathlib import Path

import pip
import pytest
from conftest import ROOT, run, slow


@pytest.mark.parametrize("venv", [".venv", ".venv-read"])
def test_a_virtual_environment_without_its_python_is_reported(tmp_path, venv):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-inference.txt"):
        (tmp_path / name).touch()
    (tmp_path / venv / "bin").mkdir(parents=True)
    (tmp_path / venv / "bin" / "python").symlink_to("/usr/bin/python3.99")
    done = run("make", "-C", tmp_path, f"{venv}/.installed")
    assert done.code == 2 and f"mv {venv} {venv}.old" in done.err
    (tmp_path / venv / ".installed").touch()
    done = run("make", "-C", tmp_path, "-n", f"{venv}/.installed")  # make's own: built anew
    assert done.code == 0 and f"-m venv --clear {venv}" in done.out


def test_an_unsupported_python_is_skipped(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "python3.13").write_text("#!/bin/sh\necho 3.13\n")
    (tmp_path / "python3.13").chmod(0o755)
    (tmp_path / "requirements.txt").touch()
    done = run("make", "-C", tmp_path, "-n", ".venv/.installed", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert "base='python3.13'" in done.out
    done = run("make", "-C", tmp_path, "-n", ".venv/.installed", f"PYTHON3={sys.executable}")
    assert f"base='{sys.executable}'" in done.out


def make_wheel(folder, name, needs=""):
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


# A reader's own settings of pip, as in pip.conf; PIP_TARGET is the variable of `target`.
PIP_SETTINGS = {
    "target": "{}/elsewhere",
    "prefix": "{}/elsewhere",
    "root": "{}/elsewhere",
    "user": "1",
    "dry-run": "1",
    "no-deps": "1",
    "require-hashes": "1",
    "python": "{}/elsewhere/bin/python",
}


@pytest.mark.parametrize("where", ["pip.conf", pytest.param("variables", marks=slow)])
@pytest.mark.parametrize("names", [[*PIP_SETTINGS], *(pytest.param([name], marks=slow) for name in PIP_SETTINGS)])
def test_packages_go_to_the_environment_whatever_pips_settings_say(tmp_path, names, where):
    shutil.copy(ROOT / "Makefile", tmp_path)
    make_wheel(tmp_path, "tiny", "Requires-Dist: tinier\n")
    make_wheel(tmp_path, "tinier")
    (tmp_path / "requirements.txt").write_text("--no-index\n--find-links .\ntiny==1\n")
    packages = tmp_path / f".venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    venv.create(tmp_path / ".venv", symlinks=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "pip").symlink_to(Path(pip.__file__).parent)  # 10 s faster than ensurepip
    (packages / "linked.pth").write_text(f"{tmp_path}/linked")
    settings = {name: PIP_SETTINGS[name].format(tmp_path) for name in names}
    (tmp_path / "pip.conf").write_text("\n".join(["[global]", *(f"{name} = {settings[name]}" for name in names)]))
    variables = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    if where == "variables":
        variables = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()}
    done = run("make", "-C", tmp_path, ".venv/.installed", **variables)
    assert done.code == 0, done.err
    assert {"tiny.py", "tinier.py"} <= {path.name for path in packages.iterdir()}
    assert not (tmp_path / "elsewhere").exists()
