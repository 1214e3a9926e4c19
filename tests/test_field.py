# SPDX-License-Identifier: Apache-2.0
"""Situations on real machines, from public bug reports: each was once a traceback or a wrong result."""

import argparse
import contextlib
import errno
import importlib
import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pip
import pytest
from conftest import ROOT, WITHOUT_MAKE, draw_boards, run, script

import digitnet_cli
from digitnet_cli import UserError, alone_in, container_cpus, open_pool, remake, write_file
from digitnet_data import (
    SYSTEM_NAMES,
    find_picture,
    list_cells,
    load_boards,
    load_cells,
    load_photo,
    read_pages,
    read_text,
    sha256_of_cells,
)
from digitnet_onnx import load_model, open_session
from digitnet_parity import read_golden
from pages import puzzles
from pages.puzzles import draw_puzzle, judge_puzzle, read_puzzles

DRAW = [sys.executable, ROOT / "02_PrepareData.py", "--train", "1", "--val", "1", "--workers", "1", "--out"]
READ = [sys.executable, ROOT / "06_ReadBoard.py", ROOT / "docs" / "pictures" / "newspaper.png"]
PIPES = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
PUZZLES = [draw_puzzle(np.random.default_rng(seed)) for seed in range(3)]

slow = pytest.mark.skipif("not config.getoption('--slow')", reason="runs with --slow (make test-all)")
ROOT_USER = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def call(*command, **environment):
    """Run a command with changed environment variables; None removes one."""
    env = {name: value for name, value in (WITHOUT_MAKE | environment).items() if value is not None}
    return subprocess.run([str(part) for part in command], capture_output=True, env=env, timeout=280)


# --- the environment that libraries take for granted ------------------------------------------------


def test_no_script_leaves_a_file_in_home(built, tmp_path):
    """The chain ran with an empty HOME and without CI, see conftest.built; here the script that reads a photo."""
    assert built.result.code == 0, built.result.err
    photo = next((built.folder / "real" / "photos").glob("*.jpg"))
    command = [sys.executable, ROOT / "06_ReadBoard.py", photo, "--onnx", built.out / "sudoku_digitnet.onnx"]
    done = call(*command, HOME=str(built.folder / "home"), CI=None, PYTHONSAFEPATH="1")
    assert done.returncode in (3, 4) and not done.stderr, done.stderr  # the chain is hardly trained
    assert not list((built.folder / "home").iterdir())


SURROUNDINGS = {
    "no name, no home": dict(USER=None, LOGNAME=None, LNAME=None, USERNAME=None, HOME=None),
    "a home that is none": dict(USER=None, LOGNAME=None, LNAME=None, USERNAME=None, HOME="/nowhere"),
    "ASCII streams": dict(PYTHONIOENCODING="ascii"),
}
# A user without an entry in /etc/passwd, who may read what root may.
NOBODY = [
    "setpriv",
    "--reuid=54321",
    "--clear-groups",
    *(f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")),
]


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_do_not_stop_a_script(name):
    code = "import digitnet_cli, getpass, os; digitnet_cli.start_script(); print('\u2705', getpass.getuser())"
    command = [*(NOBODY if os.getuid() == 0 and name != "ASCII streams" else []), sys.executable, "-c", code]
    done = call(*command, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(ROOT), **SURROUNDINGS[name])
    assert done.returncode == 0 and not done.stderr, done.stderr


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
        done = call(*NOBODY, sys.executable, ROOT / name, *options, **environment)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_every_script_finds_its_neighbours_in_a_safe_path():
    """PYTHONSAFEPATH=1 leaves a script's folder out of sys.path."""
    scripts = [*ROOT.glob("0*.py"), *ROOT.glob("tools/*.py"), ROOT / "bench" / "bench.py"]
    mains = [path for path in scripts if '__name__ == "__main__"' in path.read_text()]
    running = [
        subprocess.Popen([sys.executable, path, "--help"], env=WITHOUT_MAKE | {"PYTHONSAFEPATH": "1"}, **PIPES)
        for path in mains
    ]
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


@pytest.mark.parametrize("start", ["script()", "threading.Thread(target=script).start()"])
def test_a_notebooks_streams_and_threads_do_not_stop_a_script(start):
    done = call(sys.executable, "-c", NOTEBOOK + start, *READ[1:])
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert b"verified: " in done.stdout


def test_closed_streams_do_not_stop_a_script(tmp_path):
    for number, closing in enumerate((">&-", "2>&-", "<&-")):
        picture = tmp_path / f"{number}.png"
        read = shlex.join([*map(str, READ), "--picture", str(picture)])
        done = call("bash", "-c", f"{read} {closing}")
        assert done.returncode == 0 and picture.stat().st_size and not done.stderr, (closing, done.stderr)
    draw = shlex.join([*map(str, DRAW), str(tmp_path / "new")])  # with bars
    assert call("bash", "-c", f"{draw} >&- 2>&- <&-").returncode == 0
    assert json.loads((tmp_path / "new" / "prepared.json").read_text())["cells"]


def test_a_reader_that_left_ends_a_script_quietly(tmp_path):
    code = (
        "import digitnet_cli as c; c.start_script(); c.run_script(lambda _: [print('x' * 999) for i in range(999)], 0)"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = call("bash", "-c", command, PYTHONPATH=str(ROOT))
    assert done.returncode == 141 and done.stderr == b""


def test_foreign_packages_do_not_come_before_the_environments_own(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('of another Python')")
    done = call(*READ, PYTHONPATH=str(tmp_path))
    if sys.prefix != sys.base_prefix:  # a virtual environment
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"unset PYTHONPATH" in done.stderr


# --- durable ----------------------------------------------------------------------------------------


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    steps = []

    def log(name):
        real = getattr(os, name)

        def call(first, *rest):
            steps.append((name, os.path.basename(os.readlink(f"/proc/self/fd/{first}")) if name == "fsync" else ""))
            return real(first, *rest)

        monkeypatch.setattr(os, name, call)

    log("fsync")
    log("replace")
    write_file(tmp_path / "a" / "b" / "x.txt", lambda name: Path(name).write_text("x"))
    temporary = f".x.{os.getpid()}.txt"
    assert steps == [("fsync", temporary), ("replace", ""), ("fsync", "b"), ("fsync", "a"), ("fsync", tmp_path.name)]


def test_cells_are_on_the_disk_before_the_folder_counts_as_whole(tmp_path, monkeypatch):
    prepare = importlib.import_module("02_PrepareData")
    steps = []
    for name in ("sync", "write_json"):
        monkeypatch.setattr(prepare, name, lambda *_, name=name, **disk: steps.append("whole disk" if disk else name))
    for part in (*prepare.SPLITS, "grids"):
        (tmp_path / "new" / part).mkdir(parents=True)
    prepare.swap_in(tmp_path / "new", tmp_path / "old", tmp_path, {})
    assert steps == ["whole disk", "sync", "sync", "write_json"]


def test_a_disk_that_cannot_hold_a_file_is_reported(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "x", lambda name: Path(name).write_text("x"))
    assert not list(tmp_path.iterdir())


class Disk:
    """An ext4 file system in a file, of which a copy is what a power cut leaves: names soon, contents after 30 s."""

    def __init__(self, folder):
        self.image, self.copy, self.folder, self.cut = (folder / name for name in ("disk", "copy", "mounted", "cut"))
        for made in (self.folder, self.cut):
            made.mkdir()
        with self.image.open("wb") as file:
            file.truncate(200 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        subprocess.run(["mount", "-o", "loop,commit=1,noauto_da_alloc", self.image, self.folder], check=True)

    @contextlib.contextmanager
    def after_power_cut(self):
        """Mount what is on the disk now."""
        content = None
        while content != (content := self.image.read_bytes()):  # until nothing is written meanwhile
            pass
        self.copy.write_bytes(content)
        subprocess.run(["mount", "-o", "loop", self.copy, self.cut], check=True)
        try:
            yield self.cut
        finally:
            subprocess.run(["umount", self.cut], check=True)

    def close(self):
        subprocess.run(["umount", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    yield disk
    disk.close()


@slow
@ROOT_USER
def test_what_was_reported_as_saved_outlasts_a_power_cut(disk, count):
    onnx, states = disk.folder / "out" / "sudoku_digitnet.onnx", {"made": 0, "not yet": 0}

    def judge(folder):
        """Whatever is there is whole."""
        data, out = folder / "data", folder / "out"
        if (data / "prepared.json").exists():
            counts = json.loads((data / "prepared.json").read_bytes())["cells"]
            for split in ("train", "val"):
                assert len(load_cells(data / split).labels) == sum(counts[f"{split}/{label}"] for label in range(10))
            assert read_pages(data / "grids" / "val.csv")
        if (out / "digitnet_best.pth").exists():
            assert load_model(out / "digitnet_best.pth") and json.loads((out / "training.json").read_bytes())
        if (out / onnx.name).exists():
            assert open_session(out / onnx.name)
        made = [(data / "prepared.json").exists(), (out / "digitnet_best.pth").exists(), (out / onnx.name).exists()]
        states["made"] += sum(made)
        states["not yet"] += made.count(False)

    draw = [sys.executable, ROOT / "02_PrepareData.py", "--train", 6, "--val", 2, "--out", disk.folder / "data"]
    train = [sys.executable, ROOT / "03_Training.py", "--data", disk.folder / "data", "--out", disk.folder / "out"]
    train += ["--epochs", 3, "--threads", 1]
    rng, cuts, lost = np.random.default_rng(0), 0, 0
    for command in (draw, train):
        process = subprocess.Popen([str(part) for part in command], **PIPES)
        ended = False
        while not ended:  # cuts at any moment, and one after the last message
            ended = process.poll() is not None
            (disk.folder / f"not synced {cuts}").write_bytes(b"x" * 9999)
            time.sleep(3 if ended else rng.uniform(0.3, 1.5))  # the disk has names after 1 s
            with disk.after_power_cut() as folder:
                judge(folder)
                written = folder / f"not synced {cuts}"
                lost += not (written.exists() and written.stat().st_size)
                made = [(folder / "data" / "prepared.json").exists(), (folder / "out" / onnx.name).exists()]
            cuts += 1
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert made == [True, command == train]
    assert states["made"] and states["not yet"] and lost  # this file system does lose what was not synced
    count(f"power cuts: {cuts}, {lost} of as many files lost that were not synced, ours whole: {states}")


# --- own intermediate files, and the cures in messages ------------------------------------------------


# Our files: what reads them, the target that a cure names, and what that runs.
OWN_FILES = {
    "data/prepared.json": ("data", "02_PrepareData.py"),
    "data/grids/val.csv": ("data", "02_PrepareData.py"),
    "artifacts/digitnet_best.pth": ("train", "03_Training.py"),
    "artifacts/training.json": ("train", "03_Training.py"),
    "artifacts/sudoku_digitnet.onnx": ("export", "--export-only"),
    "artifacts/golden.npz": ("golden", "04_Parity.py"),
    "artifacts/parity.json": ("", "04_Parity.py"),
    "artifacts/evaluation.json": ("", "05_Evaluate.py"),
}
FOREIGN = [
    b"",
    b"[1]",
    b"null",
    b"{}",
    b'{"summary": null}',
    b'{"summary": "all is well"}',
    b"\xff\xfe\0",
    b"PK\x03\x04",
]


def read_own_file(folder, name):
    """Read one of our files as the scripts do."""
    evaluate, summarize = importlib.import_module("05_Evaluate"), importlib.import_module("tools.summarize")
    path, onnx = folder / name, folder / "artifacts" / "sudoku_digitnet.onnx"
    readers = {
        "prepared.json": lambda: list_cells(folder / "data" / "train"),
        "val.csv": lambda: read_pages(path),
        "digitnet_best.pth": lambda: load_model(path),
        "training.json": lambda: evaluate.draw_history(path, folder / "x.png"),
        "sudoku_digitnet.onnx": lambda: open_session(path),
        "golden.npz": lambda: read_golden(path),
        "parity.json": lambda: summarize.summary_of(path, onnx, "passed", "04_Parity.py"),
        "evaluation.json": lambda: summarize.summary_of(path, onnx, "sets", "05_Evaluate.py"),
    }
    readers[path.name]()


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_broken_file_of_our_own_is_reported_with_a_command_that_mends_it(own_chain, name, monkeypatch):
    target, script = OWN_FILES[name]
    path = own_chain.folder / name
    whole = path.read_bytes()
    read_own_file(own_chain.folder, name)
    monkeypatch.setenv("MAKELEVEL", "1")  # as make calls scripts
    monkeypatch.setenv("MAKEFLAGS", f" -- DATA={own_chain.data} OUT={own_chain.out}")
    for content in (*FOREIGN, whole[: len(whole) // 2 + 5]):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_own_file(own_chain.folder, name)
        assert "\n" not in str(error.value), content
        removed, _, again = re.search(r"run `rm (\S+)( && cd \S+)? && make ([^`]*)`", str(error.value)).groups()
        assert again.split() == [f"DATA={own_chain.data}", f"OUT={own_chain.out}", *target.split()]
    monkeypatch.undo()
    (kept := path.with_name("kept")).write_bytes(whole)
    Path(removed).unlink()
    planned = own_chain.make("-n", *target.split())
    kept.replace(path)
    assert planned.code == 0 and script in planned.out


@pytest.fixture(scope="module")
def own_chain(built, tmp_path_factory):
    """A copy of the built chain whose tests put back what they break."""
    folder = tmp_path_factory.mktemp("own") / "chain"
    shutil.copytree(built.folder, folder, copy_function=shutil.copy2)
    return built._replace(folder=folder, data=folder / "data", out=folder / "artifacts")


@slow
def test_the_commands_in_messages_mend_what_is_broken(chain, count):
    """Break each of our files, keep its date, and type what messages say until make passes."""
    typed = 0
    for name in (name for name in OWN_FILES if not name.endswith("golden.npz")):  # no target reads that
        path = chain.folder / name
        then = path.stat()
        path.write_bytes(path.read_bytes()[:-30])
        os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
        for made in ("parity.json", "evaluation.json", "summary.txt"):  # by what reads the file
            if name != f"artifacts/{made}":
                (chain.out / made).unlink()
        while (result := chain.make()).code:
            assert result.code == 2 and "Traceback" not in result.err, (name, result.err)
            command = re.search(r"run `(.*?)`", result.err)[1]
            done = call("bash", "-c", f"cd {shlex.quote(str(ROOT))}; {command}")
            assert done.returncode == 0, (name, command, done.stderr)
            typed += 1
    assert typed >= len(OWN_FILES) - 1
    count(f"cures: {typed} commands of messages typed, each mended what was broken")


def test_a_cure_names_the_command_for_the_very_file(tmp_path, monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.setattr(digitnet_cli, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    name = ["x.onnx"]
    assert remake("artifacts/photo/x.onnx", name, "export", "s") == "run `make PROFILE=photo export`"
    assert remake("artifacts/x.onnx", name, "export", "s") == "run `make export`"
    assert remake("other/x.onnx", name, "export", "s.py --out other").endswith("s.py --out other`")
    assert remake("artifacts/my.pth", name, "export", "s") == "give x.onnx instead"
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "x.onnx").touch()
    assert remake("artifacts/x.onnx", name, "export", "s") == "run `rm artifacts/x.onnx && make export`"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert remake("artifacts/photo/x.onnx", name, "export", "s") == f"run `cd {tmp_path} && make PROFILE=photo export`"


def test_every_make_command_in_a_message_names_a_target():
    targets = set(re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    sources = [*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("tools/*.py")]
    found = {words for path in sources for words in re.findall(r"`make ([^`{]*)`", path.read_text())}
    assert found and {word for words in found for word in words.split() if "=" not in word} <= targets


# --- files of people --------------------------------------------------------------------------------

NO_DATA = "Thumbs.db desktop.ini __MACOSX @eaDir .ipynb_checkpoints ._x.png .DS_Store lost+found #recycle $RECYCLE.BIN"
NO_DATA = [*NO_DATA.split(), "System Volume Information", "Icon\r", "x.png:Zone.Identifier", "x.png~", "~$x.png"]


def test_system_files_are_no_data_and_others_are():
    assert all(SYSTEM_NAMES.fullmatch(name) for name in NO_DATA)
    assert not any(SYSTEM_NAMES.fullmatch(name) for name in ("x.png", "#1.png", "@x.png", "5", "notes.txt", "_x.png"))


def test_names_that_are_not_utf_8_are_read(tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        cell = cv2.imencode(".png", np.full((28, 28), label, np.uint8))[1].tobytes()
        (tmp_path / str(label) / os.fsdecode(b"\xfc_00.png")).write_bytes(cell)
    cells = load_cells(tmp_path)
    assert set(cells.boards) == {os.fsdecode(b"\xfc")} and len(sha256_of_cells(cells)) == 64


def grid(row="{}", join="\n", between=""):
    """Write puzzles in nine lines each."""

    def text(puzzle):
        rows = [row.format(puzzle[i : i + 9]) for i in range(0, 81, 9)]
        return join.join(rows[:3] + [between] * bool(between) + rows[3:6] + [between] * bool(between) + rows[6:])

    return "\n\n".join(map(text, PUZZLES))


LINES = "".join(f"{puzzle}\n" for puzzle in PUZZLES)
FILES = {
    **{f"blanks are {mark!r}": LINES.replace("0", mark).encode() for mark in "._*-xX? #~"},
    "mark of UTF-8": LINES.encode("utf-8-sig"),
    "UTF-16": LINES.encode("utf-16"),
    "Latin-1": ("# f\xfcr uns\n" + LINES).encode("latin-1"),
    "header and columns": ("quizzes,solutions\n" + "".join(f"{p},{'1' * 81}\n" for p in PUZZLES)).encode(),
    "the solution first": ("solution;puzzle\n" + "".join(f"{'1' * 81};{p}\n" for p in PUZZLES)).encode(),
    "number, clues, rating": ("id,puzzle,clues\n" + "".join(f"7,{p},{'1' * 81},24,0.5\n" for p in PUZZLES)).encode(),
    "comments": ("# 3 of mine\n" + LINES.replace("\n", "  # easy\n") + f"# {'1' * 81}\n").encode(),
    "nine lines": grid().encode(),
    "titles": "\n".join(f"Grid {i}\n{text}" for i, text in enumerate(grid().split("\n\n"))).encode(),
    "lines between": grid(between="---+---+---").replace("0", ".").encode(),
    "apart": "\n".join(" ".join(puzzle) for puzzle in PUZZLES).encode(),
    "a spreadsheet's": re.sub(r"(?<=\d)(?=\d)", ",", grid()).replace("0", "").encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_puzzles_are_read_as_people_write_them(tmp_path, name):
    (tmp_path / "my.txt").write_bytes(FILES[name])
    assert list(read_puzzles(tmp_path / "my.txt")) == PUZZLES


@pytest.mark.parametrize(
    "text",
    [PUZZLES[0][:80], PUZZLES[0] + "0", "x" + PUZZLES[0][1:-1] + "0", grid()[:-10], LINES.replace("0", "O")[:70]],
)
def test_puzzles_that_are_not_certain_are_refused(tmp_path, text):
    (tmp_path / "my.txt").write_text(text)
    with pytest.raises(UserError, match=r"my\.txt"):
        read_puzzles(tmp_path / "my.txt")


def test_a_puzzle_is_judged_within_bounds(monkeypatch):
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........".replace(".", "0")
    assert not any(map(judge_puzzle, PUZZLES))
    monkeypatch.setattr(puzzles, "MOST_STEPS", 1000)
    assert judge_puzzle(hard) == "it is not solved in 1,000 steps" and "no solution" in judge_puzzle("55" + "0" * 79)
    assert "more than one solution" in judge_puzzle("0" * 81)


def test_only_the_puzzles_that_are_used_are_checked(tmp_path, monkeypatch):
    prepare, judged = importlib.import_module("02_PrepareData"), []
    monkeypatch.setattr(prepare, "judge_puzzle", lambda puzzle: judged.append(puzzle) or "")
    (tmp_path / "my.txt").write_text("\n".join(f"{i:081d}" for i in range(1, 40000)))
    args = argparse.Namespace(puzzles=tmp_path / "my.txt", seed=0, style="tutorial", train=3, val=1)
    assert prepare.choose_puzzles(args, 4, ThreadPoolExecutor(1)) == judged and len(set(judged)) == 4
    (tmp_path / "my.txt").write_text("\n".join(PUZZLES))
    with pytest.raises(UserError, match="ask for fewer, such as --train 2 --val 1"):
        prepare.choose_puzzles(args, 4, ThreadPoolExecutor(1))


def test_boards_of_any_picture_format_are_read_alike(tmp_path):
    draw_boards(tmp_path, 1)
    (board,) = (tmp_path / "boards").iterdir()
    pixels = cv2.imread(str(board), cv2.IMREAD_GRAYSCALE)
    board.unlink()
    clear = np.zeros((*pixels.shape, 4), np.uint8)
    clear[..., 3] = 255 - pixels  # black ink on nothing
    labels = (tmp_path / "labels.csv").read_text()
    cells = []
    for ending, image, encoding in (
        (".PNG", pixels, "utf-8-sig"),
        (".png", clear, "utf-16"),
        (".bmp", pixels, "latin-1"),
    ):
        picture = board.with_suffix(ending)
        picture.write_bytes(cv2.imencode(ending, image)[1].tobytes())
        (tmp_path / "labels.csv").write_text(labels, encoding=encoding)
        cells.append(load_boards(tmp_path, 0.06).pixels.astype(int))
        picture.unlink()
    assert (cells[0] == cells[2]).all() and np.abs(cells[0] - cells[1]).max() <= 1
    with pytest.raises(UserError, match="is missing: give it one picture"):
        find_picture(board.with_suffix(""))


def test_pictures_and_texts_that_cannot_be_read_are_reported(tmp_path, monkeypatch):
    def refuse(*_):
        raise cv2.error("more pixels than it decodes")

    (tmp_path / "huge.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(UserError, match=r"huge\.png is too large or damaged for OpenCV"):
        load_photo(tmp_path / "huge.png")
    with pytest.raises(UserError, match="is not a text file"):
        read_text(Path(sys.executable))


# --- processes --------------------------------------------------------------------------------------


def test_a_second_run_in_a_folder_is_refused_and_the_first_loses_nothing(tmp_path):
    (tmp_path / ".new.1").mkdir()
    with alone_in(tmp_path), pytest.raises(UserError, match="another run is writing to"):
        importlib.import_module("02_PrepareData").prepare(argparse.Namespace(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".new.1"]


@pytest.mark.parametrize("name", ["02_PrepareData.py", "03_Training.py"])
def test_a_script_does_not_write_where_another_run_does(built, tmp_path, name):
    options = {"02_PrepareData.py": DRAW[2:-1], "03_Training.py": ["--data", built.data, "--epochs", 1, "--threads", 1]}
    with alone_in(tmp_path):
        done = script(name, *options[name], "--out", tmp_path)
    assert done.code == 1
    assert done.err == f"{name}: another run is writing to {tmp_path}: wait until it ends, or name another\n"
    assert not list(tmp_path.iterdir())


@slow
def test_trainings_on_several_processes_share_a_machine(chain, tmp_path):
    """Two at once, and the port that torchrun takes by default is in use."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # another program has it
            taken.bind(("", 29500))
            taken.listen()
        settings = [f"PYTHON={sys.executable}", f"DATA={chain.data}", "NPROC=2", "EPOCHS=1", "BATCH=64", "THREADS=1"]
        command = ["make", "-C", ROOT, "train", "TRAIN=6", "VAL=3", *settings]
        outs = [tmp_path / name for name in "ab"]
        running = [subprocess.Popen([*command, f"OUT={out}"], env=WITHOUT_MAKE, **PIPES) for out in outs]
        for process in running:
            _, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors
    assert len({(out / "digitnet_best.pth").read_bytes() for out in outs}) == 1


def marked(mark):
    """Return the ids of the processes that have `mark` among their variables."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            found += [int(path.parent.name)] * (mark.encode() in path.read_bytes().split(b"\0"))
    return found


@pytest.mark.parametrize("method", [pytest.param("fork", marks=slow), pytest.param("spawn", marks=slow), "forkserver"])
def test_workers_end_with_their_parent_whatever_the_start_method(tmp_path, method, snapshot):
    """Python 3.14's default is forkserver, whose processes are not children of ours."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import multiprocessing; multiprocessing.set_start_method({method!r}, force=True)"
    )
    assert call(*DRAW, tmp_path / "data").returncode == 0
    before, mark = snapshot(tmp_path / "data"), f"MARK={tmp_path}"
    draw = [sys.executable, ROOT / "02_PrepareData.py", "--train", "60", "--workers", "2", "--out", tmp_path / "data"]
    environment = WITHOUT_MAKE | {"PYTHONPATH": str(tmp_path), "MARK": str(tmp_path)}
    process = subprocess.Popen(draw, env=environment, **PIPES)
    while not list(tmp_path.glob("data/.new.*/train/0/*.png")):  # until its workers draw
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    workers = marked(mark)
    assert len(workers) >= 3
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    left = marked(mark)
    for pid in left:
        os.kill(pid, 9)
    assert not left
    after = snapshot(tmp_path / "data")
    assert before.items() <= after.items()
    assert all(name.startswith(".new.") for name in after.keys() - before.keys())
    assert call(*DRAW, tmp_path / "data").returncode == 0
    assert snapshot(tmp_path / "data").keys() == before.keys()


def test_killed_workers_and_missing_shared_memory_are_reported(tmp_path, monkeypatch, capsys):
    with alone_in(tmp_path) as lock, pytest.raises(UserError, match="was killed"), open_pool(2, lock=lock) as pool:
        list(pool.map(os._exit, [9]))

    def refuse(*_):
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refuse)
    with open_pool(2) as pool:
        assert list(pool.map(abs, [-1, 2], chunksize=4)) == [1, 2]
    assert "no shared memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/a", {"a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("3:cpu:/docker/7", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("0::/", {}, math.inf),
    ],
)
def test_the_containers_limit_counts(tmp_path, group, files, cores):
    for name, content in ({"../../../proc/self/cgroup": group} | files).items():
        path = Path(os.path.normpath(tmp_path / "sys/fs/cgroup" / name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert container_cpus(tmp_path) == cores


# --- make -------------------------------------------------------------------------------------------


def test_make_clean_removes_our_data_wherever_cdpath_leads(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("data", "elsewhere/data"):
        (tmp_path / folder / "train").mkdir(parents=True)
        (tmp_path / folder / "train" / "a.jpg").touch()
    (tmp_path / "data" / ".made-by-02_PrepareData.py").touch()
    done = call("make", "-C", tmp_path, "clean", CDPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 0 and not list((tmp_path / "data").iterdir())
    assert (tmp_path / "elsewhere" / "data" / "train" / "a.jpg").exists()
    assert "cd " not in re.sub(r"^#.*", "", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_tests_use_their_own_packages_and_plugins(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "own" / "bin").mkdir(parents=True)
    (tmp_path / "own" / "pyvenv.cfg").touch()
    (tmp_path / "own" / "bin" / "python").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "own" / "bin" / "python").chmod(0o755)
    foreign = ["PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTEST_PLUGINS", "PYTEST_ADDOPTS"]
    done = call("make", "-C", tmp_path, "test", "VENV=", "PYTHON=own/bin/python", **dict.fromkeys(foreign, "foreign"))
    assert done.returncode == 0 and b"=foreign" not in done.stdout
    assert b"\nPYTEST_DISABLE_PLUGIN_AUTOLOAD=1\n" in done.stdout


def test_empty_settings_leave_their_defaults():
    empty = [f"{name}=" for name in ("SEED", "DATA", "OUT", "MODEL", "PROFILE", "PYTHON", "MIN_ACCURACY")]
    plans = [run("make", "-n", "-B", *options, "data", "check-real") for options in ([], empty)]
    assert plans[0] == plans[1] and plans[0].code == 0 and plans[0].out


@pytest.mark.parametrize("venv", [".venv", ".venv-read"])
def test_a_virtual_environment_without_its_python_is_reported(tmp_path, venv):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-inference.txt"):
        (tmp_path / name).touch()
    (tmp_path / venv / "bin").mkdir(parents=True)
    (tmp_path / venv / "bin" / "python").symlink_to("/usr/bin/python3.99")
    done = call("make", "-C", tmp_path, f"{venv}/.installed")
    assert done.returncode == 2 and f"mv {venv} {venv}.old".encode() in done.stderr
    (tmp_path / venv / ".installed").touch()
    done = call("make", "-C", tmp_path, "-n", f"{venv}/.installed")  # make's own: built anew
    assert done.returncode == 0 and f"-m venv --clear {venv}".encode() in done.stdout


def test_an_unsupported_python_is_skipped(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "python3.13").write_text("#!/bin/sh\necho 3.13\n")
    (tmp_path / "python3.13").chmod(0o755)
    (tmp_path / "requirements.txt").touch()
    done = call("make", "-C", tmp_path, "-n", ".venv/.installed", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert b"base='python3.13'" in done.stdout
    done = call("make", "-C", tmp_path, "-n", ".venv/.installed", f"PYTHON3={sys.executable}")
    assert f"base='{sys.executable}'".encode() in done.stdout


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
    done = call("make", "-C", tmp_path, ".venv/.installed", **variables)
    assert done.returncode == 0, done.stderr
    assert {"tiny.py", "tinier.py"} <= {path.name for path in packages.iterdir()}
    assert not (tmp_path / "elsewhere").exists()
