# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment and restarted gives the same bytes, and no half-made file is used."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from conftest import PYTHON, ROOT, TORCHRUN, WITHOUT_MAKE, call, make, run, slow

from digitnet_boards import load_split
from digitnet_cli import UserError
from digitnet_training import draw_epoch

EPOCHS = 2


def options(chain, out):
    small = ("--epochs", EPOCHS, "--batch-size", 64, "--threads", 1, "--train-only")
    return ["--data", chain.data, "--out", out, *small]


def start(name, *arguments, launcher=(PYTHON,)):
    command = [*launcher, ROOT / name, *arguments]
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def family(parent):
    """Return the ids of `parent` and of the processes that it started, directly or not."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [parent]
    for process in found:
        found += children.get(process, [])
    return found


def stop_after(process, characters, number, words=b""):
    """Signal the process and those that it started when so much, and `words`, has been printed; else let it end.

    Returns its exit code and output.
    """
    seen = b""
    while (len(seen) < characters or words not in seen) and (more := os.read(process.stdout.fileno(), 64)):
        seen += more
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(pid, number)
    seen += process.stdout.read()
    return process.wait(), seen.decode(errors="replace")


def train_until(number, options):
    """Train in this process, which sends itself a signal when its second epoch begins; return the result."""
    epochs = itertools.count(1)

    def draw(*arguments):
        if next(epochs) == 2:
            os.kill(os.getpid(), number)
        return draw_epoch(*arguments)

    with mock.patch("digitnet_training.draw_epoch", draw):
        return call("03_Training.py", *options)


@pytest.fixture(scope="module")
def uninterrupted(built, tmp_path_factory):
    """The weights of an uninterrupted run, and the length of its output."""
    out = tmp_path_factory.mktemp("uninterrupted")
    result = run(PYTHON, ROOT / "03_Training.py", *options(built, out))  # bars are as many as in those to be killed
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == [".lock", "digitnet_best.pth", "training.json"]
    return (out / "digitnet_best.pth").read_bytes(), len(result.out) + len(result.err)


def test_training_killed_at_random_moments_ends_in_the_same_weights(built, uninterrupted, tmp_path, request, count):
    weights, length = uninterrupted
    rng, kills, runs, resumed = np.random.default_rng(0), 0, 0, 0
    while kills < request.config.getoption("--kills"):
        out, runs = tmp_path / f"run {runs}", runs + 1
        code = None
        while code != 0:
            if kills < request.config.getoption("--kills"):
                after = int(rng.integers(length // 4, length)) if kills else length * 3 // 4
                code, printed = stop_after(start("03_Training.py", *options(built, out)), after, signal.SIGKILL)
            else:
                code, printed, _ = call("03_Training.py", *options(built, out))
            assert code in (0, -signal.SIGKILL) and "Traceback" not in printed, printed
            kills += code != 0
            resumed += "continues after epoch" in printed
            assert "from the beginning" not in printed
        assert (out / "digitnet_best.pth").read_bytes() == weights
        assert sorted(path.name for path in out.iterdir()) == [".lock", "digitnet_best.pth", "training.json"]
    assert resumed
    count(f"training: killed {kills} times in {runs} runs, resumed {resumed} times, each ended in the same weights")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_that_is_asked_to_stop_says_how_to_continue_and_does(chain, uninterrupted, snapshot, number):
    weights, _ = uninterrupted
    before = snapshot(chain.out)
    stopped = train_until(number, options(chain, chain.out))
    assert stopped.code == 128 + number and "Traceback" not in stopped.err
    assert "The same command continues after the last whole epoch" in stopped.err
    assert {name: content for name, content in snapshot(chain.out).items() if "_state" not in name} == before
    result = call("03_Training.py", *options(chain, chain.out))
    assert result.code == 0 and "continues after epoch 1" in result.out
    assert (chain.out / "digitnet_best.pth").read_bytes() == weights


@pytest.fixture(scope="module")
def killed(built, tmp_path_factory):
    """What a run that was killed in its second epoch leaves."""
    out = tmp_path_factory.mktemp("killed")
    if not (child := os.fork()):
        try:
            train_until(signal.SIGKILL, options(built, out))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return out


@pytest.mark.parametrize("change", ["settings", "data", "state broken"])
def test_a_checkpoint_that_does_not_fit_is_reported_and_not_used(chain, uninterrupted, killed, tmp_path, change):
    weights, _ = uninterrupted
    out = shutil.copytree(killed, tmp_path / "out")
    (state,) = out.glob(".digitnet_state.pth")
    if change == "state broken":
        state.write_bytes(state.read_bytes()[:-200])
    elif change == "data":
        cell = next((chain.data / "train" / "3").iterdir())
        pixels = cv2.imread(str(cell), cv2.IMREAD_GRAYSCALE)
        cell.unlink()
        cv2.imwrite(str(cell), 255 - pixels)
    result = call("03_Training.py", *options(chain, out), *(("--seed", 1) if change == "settings" else ()))
    assert result.code == 0 and "from the beginning" in result.out
    cause = {"settings": "another seed", "data": "another train_sha256", "state broken": "cannot be read"}[change]
    assert cause in result.out
    assert result.out.count("val acc: ") == EPOCHS + 1  # and the best
    assert ((out / "digitnet_best.pth").read_bytes() == weights) == (change == "state broken")


def test_make_continues_training_after_a_kill(chain, uninterrupted):
    weights, _ = uninterrupted
    settings = [f"PYTHON={PYTHON}", f"DATA={chain.data}", f"OUT={chain.out}", f"EPOCHS={EPOCHS}"]
    command = ["make", "train", *settings, "BATCH=64", "THREADS=1", "TRAIN=3", "VAL=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=WITHOUT_MAKE)
    stop_after(process, 0, signal.SIGKILL, b"epoch 2/")
    result = make(chain.folder, "train", f"EPOCHS={EPOCHS}")
    assert result.code == 0 and f"continues after epoch 1 of {EPOCHS}" in result.out, result.err
    assert (chain.out / "digitnet_best.pth").read_bytes() == weights


@slow
def test_killed_processes_resume_to_the_same_weights(built, tmp_path):
    """All of torchrun's processes at once, as in a power cut."""
    run(*TORCHRUN, ROOT / "03_Training.py", *options(built, tmp_path / "whole")).ok()
    killed = options(built, tmp_path / "killed")
    stop_after(start("03_Training.py", *killed, launcher=TORCHRUN), 0, signal.SIGKILL, b"epoch 2/")
    assert not (tmp_path / "killed" / "digitnet_best.pth").exists()
    again = run(*TORCHRUN, ROOT / "03_Training.py", *killed)
    assert again.code == 0 and f"continues after epoch 1 of {EPOCHS}" in again.out, again.err
    results = [(tmp_path / name / "digitnet_best.pth").read_bytes() for name in ("whole", "killed")]
    assert results[0] == results[1]


# --- data --------------------------------------------------------------------------------------------


def fork_to_prepare(folder, deadly_change=0):
    """Run 02_PrepareData.py in a copy of this process; return its id. It kills itself at its n-th change of a name."""
    if child := os.fork():
        return child
    changes = itertools.count(1)

    def deadly(change):
        def act(*arguments, **options):
            if next(changes) == deadly_change:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return act

    for holder, name in ((Path, "rename"), (Path, "unlink"), (Path, "touch"), (os, "replace")):
        setattr(holder, name, deadly(getattr(holder, name)))
    try:
        call("02_PrepareData.py", *prepare(folder, 2))
    finally:
        os._exit(0)


def prepare(out, seed):
    return ["--train", "1", "--val", "1", "--workers", "1", "--seed", str(seed), "--out", str(out)]


def cells_of(folder):
    """Return the pixels of a data folder, or None if it is refused with a clear error."""
    try:
        return [load_split(folder, split).pixels.tobytes() for split in ("train", "val")]
    except UserError as error:
        assert "half prepared" in str(error) or "no data in" in str(error)
        return None


def test_preparing_data_killed_at_every_change_and_at_random_leaves_no_half_set(tmp_path, request, count):
    for seed in (3, 2):  # whose puzzles have all nine digits
        call("02_PrepareData.py", *prepare(tmp_path / f"whole{seed}", seed)).ok()
    old, new = (cells_of(tmp_path / f"whole{seed}") for seed in (3, 2))
    assert old and new and old != new
    rng, outcomes = np.random.default_rng(0), {"old": 0, "new": 0, "refused": 0}

    def judge(folder):
        found = cells_of(folder)
        outcomes["refused" if found is None else "old" if found == old else "new"] += 1
        assert found in (None, old, new)

    for change in range(1, 11):
        folder = shutil.copytree(tmp_path / "whole3", tmp_path / f"change{change}")
        _, status = os.waitpid(fork_to_prepare(folder, change), 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        judge(folder)
    for kill in range(request.config.getoption("--kills")):
        folder = shutil.copytree(tmp_path / "whole3", tmp_path / f"random{kill}")
        child = fork_to_prepare(folder)
        time.sleep(rng.uniform(0, 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        judge(folder)
    assert outcomes["old"] and outcomes["refused"]
    assert call("02_PrepareData.py", *prepare(folder, 2)).code == 0 and cells_of(folder) == new
    assert not list(folder.glob(".new.*")) and not list(folder.glob(".old.*"))
    count(f"preparing data: killed {sum(outcomes.values())} times, then found {outcomes}")
