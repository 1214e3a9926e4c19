"""Every command of README.md is run, as it stands there and in its order, in one copy of the repository.

How that takes seconds instead of minutes:
- The Makefile's settings come from the environment (TINY), so that little data are drawn and one epoch is trained;
  what a command of the README sets itself still wins. A script called without make gets the same by SCRIPT_TINY.
- Ten of the real boards are left.
- `.venv` of the copy holds a `python` that hands the repository's scripts to a server, which has imported torch and
  the rest once and forks for each script; all else (python -m, -c) goes to the real interpreter.
Commands that cannot run here stand in NOT_RUN with the reason. Those, and the ones in the running text, are examined:
`make -n` must know the target, the Makefile must have the setting, the script must exist and have the option.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = {"TRAIN": "4", "VAL": "2", "EPOCHS": "1", "BATCH": "64", "THREADS": "1"}
SCRIPT_TINY = {"02_PrepareData.py": "--train 4 --val 2", "03_Training.py": "--epochs 1 --batch-size 64 --threads 1"}
NOT_RUN = {
    r"make( \S+=\S*)* (test|test-all|lint|bench\S*)\b": "runs this very test, or takes minutes",
    r"make .*TORCH_INDEX=": "installs packages from the network",
    r"(python3|\S+/python) -m (venv|pip)\b|(\S+/)?pip install\b|sudo apt(-get)? ": "installs packages from the network",
    r"git clone |scp |ssh |cd ": "needs the network, or another machine",
    r"python3 tools/arm_check\.py": "fetches a gigabyte and emulates for an hour",
}

# The `python` of the copy: real interpreter, server's socket and the options that make a script small are filled in.
CLIENT = """#!{python} -IS
import os, re, socket, sys
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


def commands(text: str) -> list[str]:
    """The commands of the console and bash blocks, comments dropped, continued lines joined.

    In a block with lines that start with `$ ` these are the commands and the others what is printed.
    """
    found = []
    for block in re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        found += [command for line in typed if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]
    return found


def in_the_text(text: str) -> list[str]:
    """Commands in the running text and in tables: `make …` and `python3 …py …`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(make(?: [^`]*)?|python3 [^`]*\.py[^`]*)`", prose)


def why_not_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command)), None)


class Copy:
    """A copy of the repository in which commands run as on a reader's machine, but small."""

    def __init__(self, folder: Path, address: Path) -> None:
        self.folder = folder
        made = shutil.ignore_patterns(".git", ".venv", "artifacts", "build", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder, ignore=made)
        for part in (folder / "data").glob("*"):
            if part.name != "real":
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        labels = folder / "data" / "real" / "labels.csv"
        labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:11]))
        client = CLIENT.format(python=sys.executable, address=str(address), tiny=SCRIPT_TINY)
        for name in ("python", "python3"):
            path = folder / ".venv" / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(client)
            path.chmod(0o755)
        (folder / ".venv" / ".installed").touch()
        outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "DATA", "OUT", "PROFILE")
        self.environment = {name: value for name, value in os.environ.items() if name not in outer} | TINY
        self.environment["PATH"] = f"{folder}/.venv/bin:{os.environ['PATH']}"
        self.help: dict[str, str] = {}

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

    def examine(self, command: str) -> list[str]:
        """What is wrong with a command, without running it; empty if nothing."""
        words = shlex.split(command, comments=True)
        scripts = [word for word in words if word.endswith(".py")]
        if words[0] == "make":
            return self.examine_make(words)
        if words[0].endswith(("python", "python3")) and scripts:
            return self.examine_script(scripts[0], words)
        return [] if why_not_run(command) else [f"{command}: neither run nor known"]

    def examine_make(self, words: list[str]) -> list[str]:
        makefile = (self.folder / "Makefile").read_text()
        settings = [word.partition("=")[0] for word in words[1:] if "=" in word]
        wrong = [
            f"{name}: no setting of the Makefile"
            for name in settings
            if name not in ("NAME", "PYTHON") and not re.search(rf"^{name}\s*[?:]?=", makefile, re.MULTILINE)
        ]
        plan = self.run(shlex.join(["make", "--dry-run", *words[1:]]))
        if plan.returncode:
            wrong.append(plan.stderr.strip())
        for line in plan.stdout.replace("\\\n", " ").splitlines():
            parts = line.split()
            for part in parts:
                if re.fullmatch(r"\d\d_\w+\.py|tools/\w+\.py", part):
                    wrong += self.examine_script(part, parts)
        return wrong

    def examine_script(self, script: str, words: list[str]) -> list[str]:
        if not (self.folder / script).exists():
            return [f"{script}: no such file"]
        if script not in self.help:
            self.help[script] = self.run(f"python3 {script} --help").stdout
        options = {found[0] for word in words[words.index(script) + 1 :] if (found := re.match(r"--[a-z][\w-]*", word))}
        return [f"{script} has no option {name}" for name in options if not re.search(rf"{name}\b", self.help[script])]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("readme")
    address = folder / "s"
    server = subprocess.Popen([sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        yield Copy(folder / "repository", address)
    finally:
        server.kill()
        server.wait()


def test_every_command_is_known(copy: Copy):
    wrong = {command: copy.examine(command) for command in commands(README) + in_the_text(README)}
    assert not {command: what for command, what in wrong.items() if what}


def test_no_command_hides_in_a_block_that_is_not_read():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    others = [body for language, body in blocks if language not in ("console", "bash", "sh")]
    assert not [body for body in others if re.search(r"^(\$ |make\b|python3 |pip )", body, re.MULTILINE)]
    assert "make" in commands(README)


def test_commands_run(copy: Copy):
    run = [command for command in commands(README) if not why_not_run(command)]
    if any("my.txt" in command for command in run):  # the reader's own puzzles
        numbered = "p.draw_puzzle(numpy.random.default_rng(i))"
        code = f"import numpy, digitnet_puzzles as p; [print({numbered}) for i in range(40)]"
        command = [sys.executable, "-c", code]
        puzzles = subprocess.run(command, cwd=copy.folder, capture_output=True, text=True, check=True)
        (copy.folder / "my.txt").write_text(puzzles.stdout)
    for command in run:
        start = time.monotonic()
        result = copy.run(command)
        print(f"{time.monotonic() - start:5.1f} s  {command}")
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, f"{command}\n{result.stderr}"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("make nosuchtarget", "nosuchtarget"),
        ("make EPOCS=3", "EPOCS: no setting"),
        ("python3 03_Training.py --epoch 3 --sead 1", "no option --sead"),
        ("python3 07_Nothing.py", "no such file"),
        ("frobnicate data", "neither run nor known"),
    ],
)
def test_a_wrong_command_is_found(copy: Copy, command: str, complaint: str):
    assert complaint in " ".join(copy.examine(command))


def test_blocks_are_read_as_a_reader_would():
    text = "```console\n$ make A=1   # why\nsome output\n$ python3 x.py \\\n  --b\n```\n"
    text += "```text\nmake no\n```\nsee `make t`\n"
    assert commands(text) == ["make A=1", "python3 x.py    --b"]
    assert in_the_text(text) == ["make t"]
