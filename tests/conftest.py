# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: run the scripts as a user would, offline, on tiny data in temporary folders."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
from filelock import FileLock  # torch brings it

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# `make test` runs the tests: what it hands down would make their own `make` print "Entering directory".
WITHOUT_MAKE = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(*command: object, cwd: Path = ROOT) -> Result:
    """Run a command to its end, whatever its exit code; raises subprocess.TimeoutExpired after 280 s."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=WITHOUT_MAKE, timeout=280
    )
    return Result(done.returncode, done.stdout, done.stderr)


def script(name: str, *options: object, cwd: Path = ROOT) -> Result:
    """Run one of the repository's scripts with this interpreter."""
    return run(sys.executable, ROOT / name, *options, cwd=cwd)


class Chain(NamedTuple):
    """A folder in which `make` ran on little data."""

    folder: Path
    data: Path
    out: Path
    result: Result

    def make(self, *arguments: str) -> Result:
        """`make` with the chain's folders and this interpreter."""
        return make(self.folder, *arguments)


def make(folder: Path, *arguments: str) -> Result:
    settings = [f"DATA={folder}/data", f"OUT={folder}/artifacts", f"PYTHON={sys.executable}", "TRAIN=6", "VAL=3"]
    settings.append(f"REAL={folder}/real")
    defaults = ["EPOCHS=1", "BATCH=64", "THREADS=1"]
    given = {argument.partition("=")[0] for argument in arguments}
    return run("make", *settings, *(d for d in defaults if d.partition("=")[0] not in given), *arguments)


def draw_boards(folder: Path, number: int) -> None:
    """Draw boards in photos of newspapers, whole and straightened, with labels and corners: they replace real ones."""
    from digitnet_data import BOARD_SIDE, CORNER_COLUMNS, rectify
    from pages.camera import draw_photos

    labels, photos = ["board,givens"], [",".join(["photo", "givens", *CORNER_COLUMNS, "turn", "kind"])]
    for kind in ("boards", "photos"):
        (folder / kind).mkdir(parents=True)
    for i, (givens, photo) in enumerate(draw_photos(number), 1):
        cv2.imwrite(str(folder / "boards" / f"image{i}.jpg"), rectify(photo.view, photo.corners, BOARD_SIDE))
        cv2.imwrite(str(folder / "photos" / f"image{i}.jpg"), photo.view)
        labels.append(f"image{i},{givens}")
        photos.append(",".join(map(str, [f"image{i}", givens, *photo.corners.ravel(), 0, "newspaper; drawn"])))
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "photos" / "photos.csv").write_text("\n".join(photos) + "\n")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., Chain]:
    """Call once(name, build) to have build(folder) run in a single one of pytest's processes, for all of them."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent

    def get(name: str, build: Callable[[Path], Result]) -> Chain:
        folder, done = root / name, root / f"{name}.json"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                done.write_text(json.dumps(build(folder)))
        return Chain(folder, folder / "data", folder / "artifacts", Result(*json.loads(done.read_text())))

    return get


@pytest.fixture(scope="session")
def built(once: Callable[..., Chain]) -> Chain:
    """The whole chain, built once. Tests that change files take `chain`, a copy."""

    def build(folder: Path) -> Result:
        draw_boards(folder / "real", 2)
        (folder / "home").mkdir()  # stays empty, see test_field.py
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(WITHOUT_MAKE, "HOME", str(folder / "home"))
            patch.delitem(WITHOUT_MAKE, "CI", raising=False)
            return make(folder)

    return once("chain", build)


@pytest.fixture(scope="session")
def trained(once: Callable[..., Chain]) -> Chain:
    """Data, weights and ONNX file of a small training, long enough to read pages. Read only."""
    chain = once("trained", lambda folder: make(folder, "export", "TRAIN=80", "VAL=10", "EPOCHS=7"))
    assert chain.result.code == 0, chain.result.err
    return chain


@pytest.fixture
def chain(built: Chain, tmp_path: Path) -> Chain:
    """A copy of the built chain that a test may break; file times are kept."""
    shutil.copytree(built.folder, tmp_path / "chain", copy_function=shutil.copy2)
    folder = tmp_path / "chain"
    stamp = folder / "artifacts" / ".settings"  # it names the folder of the data, so the copy's is another setting
    time = stamp.stat().st_mtime_ns
    stamp.write_text(stamp.read_text().replace(str(built.folder), str(folder)))
    os.utime(stamp, ns=(time, time))
    return Chain(folder, folder / "data", folder / "artifacts", built.result)


COUNTS: list[str] = []  # what long lists of cases came to; printed at the end


@pytest.fixture
def count() -> Callable[[str], None]:
    """Take a line such as "mutants: 150 made, none accepted" that is shown after the tests."""
    return COUNTS.append


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["counts"] = COUNTS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    COUNTS.extend(getattr(node, "workeroutput", {}).get("counts", []))


def pytest_terminal_summary(terminalreporter) -> None:
    for line in COUNTS:
        terminalreporter.write_line(line)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Return every file under a folder with its bytes, to show that nothing was lost."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="processes killed at a random moment, of each kind")
    parser.addoption("--slow", action="store_true", help="run the commands of the README that take minutes, too")
