# SPDX-License-Identifier: Apache-2.0
"""Copy the repository so that the README's commands run as on a reader's machine, but on little data.

- MAKEFLAGS passes settings (TINY) like a command line; those of a command of the README take precedence.
  A script called without make gets the same by SCRIPT_TINY.
- data/real has a few drawn boards, and parity draws two boards instead of 24.
- `.venv` of the copy holds a `python` that adds these options and then runs this interpreter.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, WITHOUT_MAKE, draw_boards, run

TINY = "TRAIN=2 VAL=1 EPOCHS=1 BATCH=64 THREADS=1"
SCRIPT_TINY = {"02_PrepareData.py": "--train 2 --val 1", "03_Training.py": "--epochs 1 --batch-size 64 --threads 1"}

# The `python` of the copy: the real interpreter and the options that make a script small are filled in.
CLIENT = """import os, sys
tiny = {tiny!r}
words = sys.argv[1:]
options = tiny.get(os.path.basename(words[0]), "").split() if words else []
for name, value in zip(options[::2], options[1::2]):
    if name not in " ".join(words).replace("=", " ").split():
        words += [name, value]
os.execv({python!r}, [{python!r}, *words])
"""


class Copy:
    """A copy of the repository in which commands run as on a reader's machine, but small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        self.environment = WITHOUT_MAKE | {"MAKEFLAGS": f" -- {TINY}"}
        self.environment["PATH"] = f"{folder}/.venv/bin:{os.environ['PATH']}"

    def run(self, command: str) -> subprocess.CompletedProcess:
        """Run one line of shell in the copy, as the reader would type it."""
        shell = ["bash", "-eu", "-o", "pipefail", "-c", command]
        options = dict(capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL)
        return subprocess.run(shell, cwd=self.folder, env=self.environment, **options)
