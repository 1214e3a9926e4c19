# SPDX-License-Identifier: Apache-2.0
"""Situations that libraries take for granted: a user, a home, streams, the environment's own packages."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DRAW, PIPES, PRETRAINED, READ, ROOT, ROOT_USER, WITHOUT_MAKE, copy_product, run, slow


def test_no_script_leaves_a_file_in_home(built, tmp_path):
    """The chain ran with an empty HOME and without CI, see conftest.built; here the script that reads a photo."""
    assert built.result.code == 0, built.result.err
    photo = next((built.folder / "real" / "photos").glob("*.jpg"))
    command = [sys.executable, ROOT / "06_ReadBoard.py", photo, "--onnx", built.out / "sudoku_digitnet.onnx"]
    done = run(*command, HOME=str(built.folder / "home"), CI=None, PYTHONSAFEPATH="1")
    assert done.code in (3, 4) and not done.err, done.err  # the chain is hardly trained
    assert not list((built.folder / "home").iterdir())


SURROUNDINGS = {
    "no name, no home": dict(USER=None, LOGNAME=None, LNAME=None, USERNAME=None, HOME=None),
    "a home that is none": dict(USER=None, LOGNAME=None, LNAME=None, USERNAME=None, HOME="/nowhere"),
    "ASCII streams": dict(PYTHONIOENCODING="ascii"),
}
# A user without an entry in /etc/passwd, who may read what root may.
NOBODY = ["setpriv", "--reuid=54321", "--clear-groups", *(f"--{of}-caps=+dac_read_search" for of in ("inh", "ambient"))]


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_do_not_stop_a_script(name):
    code = "import digitnet_cli, getpass, os; print('\u2705', getpass.getuser())"
    command = [*(NOBODY if os.getuid() == 0 and name != "ASCII streams" else []), sys.executable, "-c", code]
    done = run(*command, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(ROOT), **SURROUNDINGS[name])
    assert done.code == 0 and not done.err, done.err


@slow
@ROOT_USER
def test_a_user_without_an_entry_in_passwd_runs_every_script(chain):
    for path in (chain.folder, *chain.folder.rglob("*")):
        os.chown(path, 54321, -1)
    for parent in chain.folder.parents[:4]:
        parent.chmod(parent.stat().st_mode | 0o111)
    onnx = ["--onnx", chain.out / "sudoku_digitnet.onnx"]
    environment = dict(USER=None, LOGNAME=None, HOME="/", PYTHONDONTWRITEBYTECODE="1")
    scripts = {
        "02_PrepareData.py": ["--out", chain.folder / "new", "--train", 1, "--val", 1],
        "03_Training.py": ["--data", chain.data, "--out", chain.out, "--epochs", 1, "--threads", 1],
        "04_Parity.py": ["--data", chain.data, *onnx, "--weights", chain.out / "digitnet_best.pth"],
        "05_Evaluate.py": ["--data", chain.data, *onnx, "--out", chain.out],
    }
    for name, options in scripts.items():
        done = run(*NOBODY, sys.executable, ROOT / name, *options, **environment)
        assert done.code == 0 and "Traceback" not in done.err, done.err


def test_every_script_finds_its_neighbours_in_a_safe_path():
    """PYTHONSAFEPATH=1 leaves a script's folder out of sys.path."""
    scripts = [*ROOT.glob("0*.py"), *ROOT.glob("tools/*.py"), ROOT / "bench" / "bench.py"]
    mains = [path for path in scripts if '__name__ == "__main__"' in path.read_text()]
    options = dict(env=WITHOUT_MAKE | {"PYTHONSAFEPATH": "1"}, **PIPES)
    running = [subprocess.Popen([sys.executable, path, "--help"], **options) for path in mains]
    assert len(running) > 8
    for path, process in zip(mains, running, strict=True):
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, (path, errors)


# Streams of notebooks, IDLE and Spyder: they can write, and little else.
NOTEBOOK = """
import runpy, sys, threading
class Shell:
    def __init__(self, stream): self.stream = stream
    def write(self, text): return self.stream.write(text)
    def flush(self): pass
sys.stdout, sys.stderr = Shell(sys.stdout), Shell(sys.stderr)
sys.argv = sys.argv[1:]
def script():
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("start", ["script()", "one = threading.Thread(target=script); one.start(); one.join()"])
def test_a_notebooks_streams_and_threads_do_not_stop_a_script(start):
    done = run(sys.executable, "-c", NOTEBOOK + start, *READ[1:])
    assert done.code == 0 and not done.err, done.err
    assert "verified: " in done.out


def test_closed_streams_do_not_stop_a_script(tmp_path):
    for number, closing in enumerate((">&-", "2>&-", "<&-")):
        picture = tmp_path / f"{number}.png"
        read = shlex.join([*map(str, READ), "--picture", str(picture)])
        done = run("bash", "-c", f"{read} {closing}")
        assert done.code == 0 and picture.stat().st_size and not done.err, (closing, done.err)
    draw = shlex.join([sys.executable, *DRAW, str(tmp_path / "new")])  # with bars
    run("bash", "-c", f"{draw} >&- 2>&- <&-").ok()
    assert json.loads((tmp_path / "new" / "prepared.json").read_text())["cells"]


def test_a_reader_that_left_ends_a_script_quietly():
    code = "import digitnet_cli as c; c.run_script(lambda _: print('x\\n' * 99999), c.argparse.Namespace())"
    for end in (f'-c "{code}" | head -1', f'"{ROOT}/tools/doctor.py" | true'):
        done = run("bash", "-c", f'"{sys.executable}" {end}; exit ${{PIPESTATUS[0]}}', PYTHONPATH=str(ROOT))
        assert done.code == 141 and done.err == ""


def test_foreign_packages_do_not_come_before_the_environments_own(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('of another Python')")
    done = run(*READ, PYTHONPATH=str(tmp_path))
    if sys.prefix != sys.base_prefix:  # a virtual environment
        assert done.code == 0, done.err
    else:
        assert done.code == 1 and done.err.count("\n") == 1 and "unset PYTHONPATH" in done.err


@pytest.mark.parametrize(("script", "words"), {"03_Training.py": "no weights", "05_Evaluate.py": "no data"}.items())
def test_a_readers_own_modules_beside_the_scripts_stand_for_no_other(tmp_path, script, words):
    copy_product(tmp_path)
    packages = {"torch", "numpy", "onnx", "onnxruntime", "cv2", "tqdm", "matplotlib", "filelock", "sympy", "yaml"}
    for name in packages | {path.stem for path in Path(os.__file__).parent.glob("[a-z]*")} | {"select", "math", "zlib"}:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    options = ["--export-only"] if script == "03_Training.py" else ["--onnx", PRETRAINED]
    done = run(sys.executable, tmp_path / script, *options, cwd=tmp_path)
    assert done.code == 1 and words in done.err and done.err.count("\n") == 1, done.err


def test_a_failure_of_a_package_is_one_line_that_names_the_step_and_a_traceback_with_debug(tmp_path):
    (tmp_path / "fail.py").write_text(
        "from unittest import mock; from digitnet_cli import argument_parser, run_script\n"
        "def train(args):\n    mock.Mock(side_effect=RuntimeError('could not create\\na primitive'))()\n"
        "run_script(train, argument_parser('').parse_args())\n"
    )
    done = run(sys.executable, tmp_path / "fail.py", PYTHONPATH=str(ROOT))
    line = "RuntimeError in train (fail.py, line 3): could not create a primitive: add --debug for the traceback"
    assert done.code == 1 and done.err == f"fail.py: {line}\n"
    done = run(sys.executable, tmp_path / "fail.py", "--debug", PYTHONPATH=str(ROOT))
    assert done.code == 1 and "Traceback" in done.err and done.err.endswith("a primitive\n")
