# SPDX-License-Identifier: Apache-2.0
"""Files outlast a power cut once a script prints that they are saved."""

import errno
import importlib
import os
from pathlib import Path

import pytest

from digitnet_machine import write_file


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
    for part in (*prepare.SPLITS, "grids"):
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
