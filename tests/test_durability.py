# SPDX-License-Identifier: Apache-2.0
"""Files outlast a power cut once a script prints that they are saved."""

import errno
import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from digitnet_cli import place_and_cure
from digitnet_machine import sync, write_file


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
    for name in ("os.sync", "sync", "write_json"):
        monkeypatch.setattr(f"02_PrepareData.{name}", lambda *_, name=name: steps.append(name))
    for part in prepare.PARTS:
        (tmp_path / "new" / part).mkdir(parents=True)
    prepare.swap_in(tmp_path / "new", tmp_path / "old", tmp_path, {})
    assert steps == ["os.sync", "sync", "sync", "write_json"]


def test_a_disk_that_cannot_hold_a_file_is_reported(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "x", lambda name: Path(name).write_text("x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EINVAL])
def test_a_file_system_that_never_syncs_is_no_failure(tmp_path, monkeypatch, code):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    write_file(tmp_path / "x", lambda name: Path(name).write_text("x"))
    sync(tmp_path)
    assert (tmp_path / "x").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "slots", "words"),
    [
        (errno.EIO, (9, 9), "the disk is failing"),
        (errno.ENOSPC, (9, 0), "no file slot (inode) is left"),
        (errno.ENOSPC, (9, 1), "check the path, its permissions and the disk"),
        (errno.ENOSPC, (0, 0), "check the path, its permissions and the disk"),  # Btrfs
    ],
)
def test_a_systems_error_gets_its_own_cure(tmp_path, monkeypatch, code, slots, words):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=slots[0], f_favail=slots[1]))
    assert f"{tmp_path}/new/x: {words}" in place_and_cure(OSError(code, "", f"{tmp_path}/new/x"))
