# SPDX-License-Identifier: Apache-2.0
"""tools/venv.py: a stub for Python where its answers are enough, real pip with tiny wheels for pip's settings."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest
from conftest import ROOT, WITHOUT_MAKE, run, slow

sys.path.insert(0, str(ROOT / "tools"))
import venv

KIND = "CPython 3.12, 64-bit"
ADVICE = "ImportError: x.so: failed to map segment\\nImportError:\\n\\nread this:\\n    pip install numpy"


def stub(folder, name="stub", kind=KIND, create="true", ensure="true", pip="true", load="true"):
    """Write a Python of this kind that answers by shell commands, and logs TMPDIR for each run of pip."""
    (folder / "requirements.txt").write_text("--no-index\n--find-links .\ntiny==1\n")
    (folder / name).write_text(f"""#!/bin/sh
case "$*" in
"-Im venv"*) {create} && rm -rf env && mkdir -p env/bin && touch env/pyvenv.cfg && ln -s ../../{name} env/bin/python;;
*"pip --version") [ -e "{folder}/has_pip" ];;
*"venv ensurepip") echo "{kind}";;
*"ensurepip --default-pip") {ensure} && touch "{folder}/has_pip";;
*"pip install"*) echo "$TMPDIR" >> "{folder}/log"; sleep 0.3; {pip};;
*tiny) {load};;
esac
""")
    (folder / name).chmod(0o755)
    return str(folder / name)


def fill(folder, python="", failure=""):
    """Fill folder/env; it must fail with one line in which `failure` is found, or else write the stamp."""
    done = run(sys.executable, ROOT / "tools/venv.py", "env/.installed", "requirements.txt", python, cwd=folder)
    (*_, last) = (done.err or "\n").splitlines()
    assert re.search(f"^make: .*{failure}" if failure else "^$", last), done.err
    assert done.code == bool(failure) and (folder / "env/.installed").exists() != bool(failure)


CHANGES = {
    "sys.maxsize = 2**31 - 1": "CPython {}.{}, 32-bit",
    "platform.python_implementation = lambda: 'PyPy'": "PyPy {}.{}, 64-bit",
    "sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get": "CPython {}.{}, 64-bit, free-threaded",
    "sys.version_info = (3, 10)": "CPython 3.10, 64-bit",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_python_of_another_kind_is_skipped(tmp_path, monkeypatch, change):
    changed = f"import platform, sys, sysconfig; {change}\n{venv.PROBE}"
    (kind,), _ = venv.run(sys.executable, "-Ic", changed)
    assert kind == CHANGES[change].format(*sys.version_info)
    stub(tmp_path, "python3", kind), stub(tmp_path, "python3.12")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert venv.find_python() == "python3.12"
    fill(tmp_path, f"{tmp_path}/python3", "no 64-bit CPython 3.11 to 3.14 with venv is found")


def test_an_environment_is_made_anew_when_its_python_is_gone_or_another(tmp_path):
    python = tmp_path / "env/bin/python"
    fill(tmp_path, stub(tmp_path, "first"))
    assert (tmp_path / "log").read_text() == f"{tmp_path}/env\n"  # TMPDIR
    fill(tmp_path, stub(tmp_path, "second"))
    assert python.resolve().name == "first"
    (tmp_path / "first").unlink()
    fill(tmp_path, stub(tmp_path, "second"))
    assert python.resolve().name == "second"
    (tmp_path / "env/.installed").write_text("/usr/bin/python3.99\n")
    fill(tmp_path, stub(tmp_path, "third"))
    assert python.resolve().name == "third"


FAILURES = {
    r"permitted: 'lib'\).* symbolic links.*VENV=": {"create": "! echo \"Error: not permitted: 'lib'\" >&2"},
    r"\(ImportError: x.so: failed to map segment\).*noexec.*VENV=": {"load": f"! printf '{ADVICE}' >&2"},
    r"\(killed by SIGILL\)": {"load": "kill -ILL $$"},
    r"\(OSError: the disk is full\).*check disk, network": {"ensure": "! echo OSError: the disk is full >&2"},
    r"\(see above\).*pip config list": {"pip": "exit 1"},
}


@pytest.mark.parametrize("words", FAILURES)
def test_a_failure_is_one_line_without_a_stamp_and_no_dead_end(tmp_path, words):
    for _ in range(2):
        fill(tmp_path, stub(tmp_path, **FAILURES[words]), words)
    fill(tmp_path, stub(tmp_path))


@pytest.mark.parametrize("python", ["/usr/bin/python3.99", sys.executable])
def test_a_folder_that_make_did_not_make_is_not_touched(tmp_path, snapshot, python):
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").symlink_to(python)
    before = snapshot(tmp_path / "env")
    fill(tmp_path, stub(tmp_path), "env is not make's.* move it away")
    assert snapshot(tmp_path / "env") == before


def test_what_a_link_leads_to_is_used_and_never_emptied(tmp_path, snapshot):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    fill(first, stub(first))
    (second / "env").symlink_to(first / "env")
    fill(second, stub(second))
    (first / "stub").unlink()  # as an upgrade of the system does
    before = snapshot(first)
    command = [sys.executable, ROOT / "tools/venv.py", "env/.installed", "requirements.txt", second / "stub"]
    done = run(*command, cwd=second)
    assert done.code == 1 and "env is not make's" in done.err and "move it away" in done.err
    assert before and snapshot(first) == before


def test_of_runs_at_the_same_time_one_installs(tmp_path):
    command = [sys.executable, ROOT / "tools/venv.py", "env/.installed", "requirements.txt", stub(tmp_path)]
    running = [subprocess.Popen(command, cwd=tmp_path, env=WITHOUT_MAKE) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text().count("\n") == 1


def make_wheel(folder, name, needs="", code=""):
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{needs}")
        wheel.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.dist-info/RECORD", "")


SETTINGS = {"TARGET": "else", "PREFIX": "else", "ROOT": "else", "USER": "1", "DRY_RUN": "1", "NO_DEPS": "1"}


@pytest.mark.parametrize("name", [name if name[0] in "TDN" else pytest.param(name, marks=slow) for name in SETTINGS])
def test_pips_settings_that_lead_elsewhere_are_noticed(tmp_path, monkeypatch, name):
    stub(tmp_path)
    make_wheel(tmp_path, "tiny", "Requires-Dist: tinier\n", "import tinier")
    make_wheel(tmp_path, "tinier")
    venv.run(sys.executable, "-Im", "venv", "--without-pip", tmp_path / "env")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/pip").symlink_to(Path(pip.__file__).parent)  # seconds faster than ensurepip
    (next((tmp_path / "env/lib").iterdir()) / "site-packages/linked.pth").write_text(f"{tmp_path}/linked")
    monkeypatch.setitem(WITHOUT_MAKE, f"PIP_{name}", SETTINGS[name])
    fill(tmp_path, failure="is not installed in env .*pip config list")
    monkeypatch.delitem(WITHOUT_MAKE, f"PIP_{name}")
    fill(tmp_path)
