"""A copy of the repository in which the README's commands run as on a reader's machine, in seconds instead of minutes.

- The Makefile's settings come from the environment (TINY), so that little data are drawn and one epoch is trained;
  what a command of the README sets itself still wins. A script called without make gets the same by SCRIPT_TINY.
- Ten of the real boards are left.
- `.venv` of the copy holds a `python` that hands the repository's scripts to a server, which has imported torch and
  the rest once and forks for each script; all else (python -m, -c) goes to the real interpreter.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from conftest import ROOT

TINY = {"TRAIN": "4", "VAL": "2", "EPOCHS": "1", "BATCH": "64", "THREADS": "1"}
SCRIPT_TINY = {"02_PrepareData.py": "--train 4 --val 2", "03_Training.py": "--epochs 1 --batch-size 64 --threads 1"}

# The `python` of the copy: real interpreter, server's socket and the options that make a script small are filled in.
CLIENT = """import os, re, socket, sys
tiny = {tiny!r}
words = sys.argv[1:]
if not words or not words[0].endswith(".py") or not os.path.exists(words[0]):
    os.execv({python!r}, [{python!r}, *words])
options = tiny.get(os.path.basename(words[0]), "").split()
for name, value in zip(options[::2], options[1::2]):
    if name not in " ".join(words).replace("=", " ").split():
        words += [name, value]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    text = "\\0".join([os.getcwd(), "\\1".join(f"{{k}}={{v}}" for k, v in os.environ.items()), *words])
    socket.send_fds(server, [len(text.encode()).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(text.encode())
    sys.exit(int(server.recv(8) or b"99"))
"""

# Imports what the scripts import, but computes nothing: a process without threads may fork.
SERVER = """
import os, runpy, socket, sys, traceback
import cv2, matplotlib.pyplot, numpy, onnx, onnxruntime, onnxscript, torch, torch.onnx, torchvision, tqdm
import networkx, torch._functorch.aot_autograd, torch.export._trace, torch.onnx._internal.exporter._core  # by export

server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
while True:
    client, _ = server.accept()
    head, files, _, _ = socket.recv_fds(client, 4, 3)
    text = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL).decode()
    if os.fork():
        for file in (*files, client.fileno()):
            os.close(file)
        client.detach()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]: pass
        except ChildProcessError: pass
        continue
    server.close()
    child = os.fork()
    if child:  # waits for the script and tells how it ended
        client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    client.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
    folder, environment, *sys.argv = text.split("\\0")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(pair.split("=", 1) for pair in environment.split("\\1"))
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
"""


class Copy:
    """A copy of the repository in which commands run as on a reader's machine, but small."""

    def __init__(self, folder: Path, address: Path) -> None:
        self.folder = folder
        made = shutil.ignore_patterns(".git", ".venv", "artifacts", "build", "__pycache__", ".*_cache", "data")
        shutil.copytree(ROOT, folder, ignore=made)
        shutil.copytree(ROOT / "data" / "real", folder / "data" / "real")
        labels = folder / "data" / "real" / "labels.csv"
        labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:11]))
        venv.create(folder / ".venv")
        client = folder / ".venv" / "client.py"
        client.write_text(CLIENT.format(python=sys.executable, address=str(address), tiny=SCRIPT_TINY))
        for name in ("python", "python3"):
            path = folder / ".venv" / "bin" / name
            path.unlink()
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{client}" "$@"\n')
            path.chmod(0o755)
        (folder / ".venv" / ".installed").touch()
        outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "DATA", "OUT", "PROFILE")
        self.environment = {name: value for name, value in os.environ.items() if name not in outer} | TINY
        self.environment["PATH"] = f"{folder}/.venv/bin:{os.environ['PATH']}"

    def run(self, command: str) -> subprocess.CompletedProcess:
        """Runs one line of shell in the copy, as the reader would type it."""
        shell = ["bash", "-eu", "-o", "pipefail", "-c", command]
        return subprocess.run(
            shell,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
            stdin=subprocess.DEVNULL,
        )
