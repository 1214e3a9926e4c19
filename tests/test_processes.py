# SPDX-License-Identifier: Apache-2.0
"""Two runs in one folder, workers that are killed or lose their parent, and files that outlast a power cut."""

import contextlib
import errno
import importlib
import multiprocessing
import os
import subprocess
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import DRAW, PIPES, PYTHON, ROOT, WITHOUT_MAKE, call

from digitnet_cli import UserError, first_line, place_and_cure
from digitnet_machine import alone_in, open_pool, write_file


@pytest.mark.parametrize("name", ["02_PrepareData.py", "03_Training.py"])
def test_a_second_run_in_a_folder_is_refused_and_the_first_loses_nothing(built, tmp_path, name):
    options = {"02_PrepareData.py": DRAW[1:-1], "03_Training.py": ["--data", built.data, "--epochs", 1, "--threads", 1]}
    (tmp_path / ".new.1").mkdir()
    with alone_in(tmp_path):
        done = call(name, *options[name], "--out", tmp_path)
    assert done.code == 1
    assert done.err == f"{name}: another run is writing to {tmp_path}: wait until it ends, or name another\n"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".new.1"}


def test_training_is_alone_until_its_last_file_is_written(built, tmp_path, monkeypatch):
    real, tried = Path.unlink, []

    def unlink(path, missing_ok=False):
        if path.name == ".digitnet_state.pth":
            with pytest.raises(UserError, match="another run is writing to"):
                alone_in(tmp_path)
            tried.append((tmp_path / "digitnet_best.pth").exists())
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    options = ("--data", built.data, "--out", tmp_path, "--epochs", 1, "--threads", 1, "--train-only")
    assert call("03_Training.py", *options).code == 0 and tried == [True]


def marked(mark):
    """Return the ids of the processes that have `mark` among their variables."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            found += [int(path.parent.name)] * (mark.encode() in path.read_bytes().split(b"\0"))
    return found


def test_workers_end_with_their_parent_and_the_data_stay(tmp_path, snapshot):
    call(*DRAW, tmp_path / "data").ok()
    before, mark = snapshot(tmp_path / "data"), f"MARK={tmp_path}"
    draw = [PYTHON, ROOT / "02_PrepareData.py", "--train", "60", "--workers", "2", "--out", tmp_path / "data"]
    environment = WITHOUT_MAKE | {"MARK": str(tmp_path)}
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
    call(*DRAW, tmp_path / "data").ok()
    assert snapshot(tmp_path / "data").keys() == before.keys()


def test_a_killed_worker_is_reported(tmp_path):
    with alone_in(tmp_path), pytest.raises(UserError, match="was killed"), open_pool(2) as pool:
        list(pool.map(os._exit, [9]))


def start(thread, real=threading.Thread.start):
    """Start a thread, where a process may have three, its children included."""
    if threading.active_count() + len(multiprocessing.active_children()) > 3:
        raise RuntimeError("can't start new thread")
    real(thread)


@pytest.mark.parametrize(
    ("name", "error"),
    {
        "concurrent.futures.ProcessPoolExecutor": OSError(errno.ENOENT, "No such file or directory"),
        "multiprocessing.context.BaseContext.Lock": NotImplementedError("lacks multiprocessing.synchronize"),
        "threading.Thread.start": RuntimeError("can't start new thread"),
        "os.fork": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    }.items(),
)
def test_where_no_processes_can_be_started_one_works_and_none_is_left(monkeypatch, capsys, name, error):
    monkeypatch.setattr(name, start if name == "threading.Thread.start" else Mock(side_effect=error))
    with open_pool(2) as pool:
        assert list(pool.map(abs, [-1, 2], chunksize=4)) == [1, 2]
    assert f"cannot start 2 processes ({first_line(error)}): using one" in capsys.readouterr().out
    end = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


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
    write_file(tmp_path / "a" / "b" / "x.txt", b"x")
    temporary = f".x.{os.getpid()}.txt"
    assert steps == [("fsync", temporary), ("replace", ""), ("fsync", "b"), ("fsync", "a"), ("fsync", tmp_path.name)]


def test_cells_are_on_the_disk_before_the_folder_counts_as_whole(tmp_path, monkeypatch):
    prepare = importlib.import_module("02_PrepareData")
    steps = []
    for name in ("os.sync", "sync", "write_json"):
        monkeypatch.setattr(f"02_PrepareData.{name}", lambda *_, name=name: steps.append(name))
    for part in prepare.PARTS:
        (tmp_path / "new" / part).mkdir(parents=True)
    prepare.swap_in(tmp_path / "new", tmp_path / "old", tmp_path, {})
    assert steps == ["os.sync", "sync", "sync", "write_json"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EINVAL])
def test_a_disk_that_fails_is_reported_and_one_that_never_syncs_is_used(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(code, os.strerror(code))))
    fails = code in (errno.EIO, errno.ENOSPC)
    with pytest.raises(OSError, match=os.strerror(code)) if fails else contextlib.nullcontext():
        write_file(tmp_path / "x", b"x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if fails else ["x"])


def test_a_systems_error_gets_its_own_cure():
    for code, cure in ((errno.EIO, "the disk is failing"), (errno.ENOSPC, "remove files"), (errno.EACCES, "check the")):
        assert place_and_cure(OSError(code, "", "new/x")).startswith(f"new/x: {cure}")
