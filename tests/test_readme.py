# SPDX-License-Identifier: Apache-2.0
"""Every command of the README and of three pages of docs/ runs, unchanged, in a copy of the repository.

First those in blocks, then those in the running text and its tables. NOT_RUN has commands that cannot run here, with
the reason; `make --dry-run` checks them. Commands that take minutes run in `make test-all`.
"""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, WITHOUT_MAKE, draw_boards, run

from pages.puzzles import draw_puzzle

# In the copy, commands run on little data: MAKEFLAGS passes settings like a command line, but those of the command
# itself come first. A script called without make gets the same from SCRIPT_TINY by the `python` of the copy's .venv.
TINY = "TRAIN=2 VAL=1 EPOCHS=1 BATCH=64 THREADS=1"
SCRIPT_TINY = {"02_PrepareData.py": "--train 2 --val 1", "03_Training.py": "--epochs 1 --batch-size 64 --threads 1"}

CLIENT = """import os, sys
tiny = {tiny!r}
words = sys.argv[1:]
options = tiny.get(os.path.basename(words[0]), "").split() if words else []
for name, value in zip(options[::2], options[1::2]):
    if name not in " ".join(words).replace("=", " ").split():
        words += [name, value]
os.execv({python!r}, [{python!r}, *words])
"""


PAGES = ("README.md", "docs/performance.md", "docs/quantization.md", "docs/troubleshooting.md")
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
NOT_RUN = {
    r"make (test|test-all)$": "run this test themselves",
    r"git clone |make real |\S+/python tools/real\.py|make evaluate REAL=": "need the data set; see tests/test_real.py",
    r"sudo apt |cd sudoku": "are about the reader's own machine",
    r"make TORCH_INDEX=|\S*pip install |python3 -m venv ": "need the network; the copy has .venv and .venv-check",
}
SLOW = r"make (bench|VENV=|EPOCHS=|PROFILE=|PUZZLES=|OUT=|DATA=|-j2|train)|\S+/python bench/|\S+ 03_\S+ --epochs"
FAILS = {"make check": "falls short"}  # after so little training
LAST = "rm -rf .venv"  # no command runs after it


def in_blocks(text: str) -> list[str]:
    """Return the commands of the console and bash blocks, without comments, with continued lines joined.

    In a block with lines that start with `$ `, these are the commands, and the other lines are output.
    """
    found = []
    for block in re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        found += [command for line in typed if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]
    return found


def in_the_text(text: str) -> list[str]:
    """Commands in the running text and in tables."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(make|(?:make|source|pip|rm|git|python3|\S+/python|\S+\.py) [^`]+)`", prose)


def is_run(command: str, slow: bool) -> bool:
    return not any(re.match(pattern, command) for pattern in NOT_RUN) and (slow or not re.match(SLOW, command))


def unknown_settings(command: str) -> list[str]:
    """Return settings of a `make` command that the Makefile lacks; make itself would ignore them."""
    makefile = (ROOT / "Makefile").read_text()
    names = re.findall(r" (\w+)=", command) if command.startswith("make ") else []
    return [name for name in names if not re.search(rf"^{name}\s*[?:]?=", makefile, re.MULTILINE)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the repository, in a folder with spaces, and a call that runs a line of shell there.

    It is as on a reader's machine, but all is small.
    """
    folder = tmp_path_factory.mktemp("readme") / "a folder with spaces"
    made = shutil.ignore_patterns(".git", ".venv", "artifacts", "build", "__pycache__", ".*_cache", "data")
    shutil.copytree(ROOT, folder, ignore=made)
    parity = folder / "digitnet_parity.py"
    parity.write_text(parity.read_text().replace("NEWSPAPER_BOARDS = 24", "NEWSPAPER_BOARDS = 2"))
    draw_boards(folder / "data" / "real", 3)
    run(sys.executable, "-m", "venv", "--without-pip", folder / ".venv")  # tools/venv.py may hide the library's
    client = folder / ".venv" / "client.py"
    client.write_text(CLIENT.format(python=sys.executable, tiny=SCRIPT_TINY))
    for name in ("python", "python3"):
        path = folder / ".venv" / "bin" / name
        path.unlink()
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{client}" "$@"\n')
        path.chmod(0o755)
    for stamp in (".installed", ".installed-dev"):
        (folder / ".venv" / stamp).write_text(os.path.realpath(folder / ".venv" / "bin" / "python") + "\n")
    (folder / ".venv-check").symlink_to(".venv")
    environment = WITHOUT_MAKE | {"MAKEFLAGS": f" -- {TINY}", "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}
    options = dict(capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
    return folder, lambda line: subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", line], **options)


def test_commands_that_are_not_run_are_known_to_make(copy):
    left = [command for command in in_blocks(README) + in_the_text(README) if not is_run(command, slow=False)]
    assert "make test" in left
    for command in left:
        if command.startswith("make "):
            assert unknown_settings(command) == []
            assert copy[1](command.replace("make ", "make --dry-run ", 1)).returncode == 0, command


def test_no_command_hides_in_a_block_that_is_not_read():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    others = [body for language, body in blocks if language not in ("console", "bash", "sh")]
    assert others and not [body for body in others if re.search(r"^(\$ |make\b|python3 |pip )", body, re.MULTILINE)]


def test_every_source_file_names_its_licence():
    folders = ("", "pages", "reading", "tools", "bench", "tests")
    sources = [ROOT / "Makefile", *(path for folder in folders for path in (ROOT / folder).glob("*.py"))]
    assert len(sources) > 60
    assert [path for path in sources if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:100]] == []


def test_every_command_runs(copy, request, count):
    folder, type_in = copy
    own = [draw_puzzle(np.random.default_rng(number)) for number in range(40)]
    (folder / "my.txt").write_text("\n".join(own))
    listed = dict.fromkeys(in_blocks(README) + in_the_text(README))  # each once
    assert {"make", "make PROFILE=photo", LAST, *FAILS} <= listed.keys()
    run = [command for command in listed if is_run(command, request.config.getoption("--slow"))]
    for command in sorted(run, key=LAST.__eq__):
        start = time.monotonic()
        result = type_in(command)
        print(f"{time.monotonic() - start:5.1f} s  {command}")
        printed = f"{command}\n{result.stdout}\n{result.stderr}"
        assert unknown_settings(command) == [] and "Traceback" not in result.stderr, printed
        reads = "06_ReadBoard.py" in command
        if command in FAILS:
            assert result.returncode and FAILS[command] in result.stderr, printed
        else:
            assert result.returncode in ((0, 3) if reads else (0,)), printed  # doubts, after so little training
        if reads:
            assert re.search(r"^\d+ digits: \d{81}$", result.stdout, re.MULTILINE), printed
    count(f"README: {len(run)} of {len(listed)} commands run")
