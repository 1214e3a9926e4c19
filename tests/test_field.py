# SPDX-License-Identifier: Apache-2.0
"""Situations on real machines, from public bug reports: each was once a traceback or a wrong result."""

import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, WITHOUT_MAKE, draw_boards, run

import digitnet_cli
from digitnet_cli import UserError, alone_in, container_cpus, remake, write_file
from digitnet_data import SYSTEM_NAMES, find_picture, load_boards, load_photo, read_pages, read_text
from pages.puzzles import draw_puzzle, judge_puzzle, read_puzzles

SCRIPTS = [f"{name}.py" for name in ("02_PrepareData", "03_Training", "04_Parity", "05_Evaluate")]
DRAW = [sys.executable, ROOT / "02_PrepareData.py", "--train", "1", "--val", "1", "--workers", "1", "--out"]
PUZZLES = [draw_puzzle(np.random.default_rng(seed)) for seed in range(3)]

# Minutes, many processes: make test-all runs them.
pytestmark = pytest.mark.skipif("not config.getoption('--slow')", reason="runs with --slow (make test-all)")


def call(*command, **environment):
    """Run a command with changed environment variables; None removes one."""
    env = {name: value for name, value in (WITHOUT_MAKE | environment).items() if value is not None}
    return subprocess.run([str(part) for part in command], capture_output=True, env=env, timeout=280)


# --- the environment that libraries take for granted ------------------------------------------------


def test_no_script_leaves_a_file_in_home_and_telemetry_is_off(built, tmp_path):
    for name in ("05_Evaluate.py",):
        options = ["--onnx", built.out / "sudoku_digitnet.onnx", "--data", built.data, "--real", built.folder / "real"]
        done = call(
            sys.executable, ROOT / name, *options, "--out", tmp_path / "out", HOME=str(tmp_path / "home"), CI=None
        )
        assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "home").rglob("*"))
    code = "import os, digitnet_onnx; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert call(sys.executable, "-c", code, PYTHONPATH=str(ROOT), ORT_DISABLE_TELEMETRY=None).stdout == b"1\n"


SURROUNDINGS = {
    "no name, no home": dict(USER=None, LOGNAME=None, LNAME=None, USERNAME=None, HOME=None),
    "ASCII streams": dict(PYTHONIOENCODING="ascii"),
    "safe path": dict(PYTHONSAFEPATH="1"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_do_not_stop_a_script(tmp_path, name):
    code = "import digitnet_cli, getpass, os; digitnet_cli.start_script(); print('\u2705', getpass.getuser())"
    prefix = (
        ["setpriv", "--reuid", "54321", "--clear-groups"] if name.startswith("no name") and os.getuid() == 0 else []
    )
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)} | SURROUNDINGS[name]
    done = call(*prefix, sys.executable, "-c", code, **environment)
    assert done.returncode == 0, done.stderr
    if name == "safe path":
        assert call(sys.executable, ROOT / "02_PrepareData.py", "--out", "/proc/x", **environment).returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_stop_a_script(tmp_path, closed):
    command = " ".join(f'"{part}"' for part in [*DRAW, tmp_path / "new"])
    done = call("bash", "-c", f"{command} {closed}")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
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
    done = call(*DRAW, tmp_path / "new", PYTHONPATH=str(tmp_path))
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
    for name in ("sync_all", "sync", "write_json"):
        monkeypatch.setattr(prepare, name, lambda *_, name=name: steps.append(name))
    for part in (*prepare.SPLITS, "grids"):
        (tmp_path / "new" / part).mkdir(parents=True)
    prepare.swap_in(tmp_path / "new", tmp_path / "old", tmp_path, {})
    assert steps == ["sync_all", "sync", "sync", "write_json"]


def test_a_disk_that_cannot_hold_a_file_is_reported(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "x", lambda name: Path(name).write_text("x"))
    assert not list(tmp_path.iterdir())


# --- own intermediate files, and the cures in messages ------------------------------------------------

BROKEN = {
    "artifacts/training.json": "training.json is not what 03_Training.py writes",
    "artifacts/sudoku_digitnet.onnx": "is not an ONNX file that ONNX Runtime can load",
    "data/grids/val.csv": "val.csv is not what 02_PrepareData.py writes",
    "data/prepared.json": "is only half prepared",
}


@pytest.mark.parametrize("content", ["", "cut", "foreign"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_our_own_is_reported_with_a_command_that_remakes_it(chain, name, content):
    path = chain.folder / name
    whole = path.read_bytes()
    path.write_bytes({"": b"", "cut": whole[: len(whole) // 2 + 5], "foreign": b"[1]"}[content])
    if (name, content) == ("data/prepared.json", "foreign"):
        pytest.skip("what prepared.json says is not used")
    result = chain.make("evaluate")
    assert result.code == 2 and BROKEN[name] in result.err and "Traceback" not in result.err
    cure = re.search(r"run `rm (.*?) && make (.*?)`", result.err)
    assert cure and f"OUT={chain.out}" in cure[2] and cure[2].split()[-1] in ("train", "export", "data")
    removed, target = cure[1], cure[2].split()[-1]
    assert Path(removed).exists()
    Path(removed).unlink()
    planned = chain.make("-n", target)  # the target does something
    script = {"train": "03_Training.py", "export": "--export-only", "data": "02_PrepareData.py"}[target]
    assert planned.code == 0 and script in planned.out
    if target == "data":
        assert chain.make("data").code == 0 and read_pages(chain.data / "grids" / "val.csv")


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


def test_judging_a_hard_puzzle_ends():
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........".replace(".", "0")
    assert not any(map(judge_puzzle, PUZZLES))
    assert "is not solved in" in judge_puzzle(hard) and "no solution" in judge_puzzle("55" + "0" * 79)
    assert "more than one solution" in judge_puzzle("0" * 81)


def test_only_the_puzzles_that_are_used_are_checked(tmp_path):
    bad = ["55" + f"{i:079d}"[::-1].replace("5", "0") for i in range(1, 400)]
    (tmp_path / "my.txt").write_text("\n".join(bad))
    done = call(*DRAW, tmp_path / "new", "--puzzles", tmp_path / "my.txt")
    assert done.returncode == 1 and b"contradict" in done.stderr and b"/2 [" in done.stderr


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
    with alone_in(tmp_path):
        done = call(*DRAW, tmp_path)
    assert done.returncode == 1 and b"another run is writing to" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".new.1"]
    assert call(*DRAW, tmp_path).returncode == 0 and not (tmp_path / ".new.1").exists()


def test_killed_workers_and_missing_shared_memory_are_reported(tmp_path, monkeypatch, capsys):
    prepare = importlib.import_module("02_PrepareData")
    with alone_in(tmp_path) as lock, pytest.raises(UserError, match="was killed"), prepare.open_pool(2, lock) as pool:
        list(pool.map(os._exit, [9]))

    def refuse(*_):
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(prepare, "ProcessPoolExecutor", refuse)
    with alone_in(tmp_path) as lock, prepare.open_pool(2, lock) as pool:
        assert list(pool.map(abs, [-1, 2], chunksize=4)) == [1, 2]
    assert "no shared memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/a", {"a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("3:cpu:/docker/7", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("0::/", {}, sys.maxsize),
    ],
)
def test_the_containers_limit_counts(tmp_path, group, files, cores):
    for name, content in ({"../../proc/self/cgroup": group} | files).items():
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


@pytest.mark.parametrize("name", ["SEED", "DATA", "OUT", "MODEL", "PROFILE", "PYTHON", "MIN_ACCURACY"])
def test_an_empty_setting_leaves_its_default(name):
    plan = [run("make", "-n", *options, "data", "check-real") for options in ([], [f"{name}="])]
    assert plan[0] == plan[1] and plan[0].code == 0


def test_a_virtual_environment_without_its_python_is_reported(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3.99")
    done = call("make", "-C", tmp_path, ".venv/.installed")
    assert done.returncode == 2 and b"mv .venv .venv.old" in done.stderr
    (tmp_path / ".venv" / ".installed").touch()
    done = call("make", "-C", tmp_path, "-n", ".venv/.installed")  # make's own: built anew
    assert done.returncode == 0 and b"-m venv --clear .venv" in done.stdout


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
