# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: run the scripts as a user would, offline, on tiny data in temporary folders."""

import contextlib
import gc
import io
import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

# Before PyTorch is imported, and for every process that the tests start: two with two threads each would slow each
# other thirtyfold on two cores. What asks for more threads gets them.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import pytest
from filelock import FileLock  # torch brings it

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and `make test &` ignore it, also for what they start
PYTHON = sys.executable
# `make test` runs the tests: what it hands down would make their own `make` print "Entering directory".
WITHOUT_MAKE = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
DRAW = ["02_PrepareData.py", "--train", "1", "--val", "1", "--workers", "1", "--out"]
READ = [sys.executable, ROOT / "06_ReadBoard.py", ROOT / "docs" / "pictures" / "newspaper.png"]
PRETRAINED = ROOT / "pretrained" / "sudoku_digitnet_photo.onnx"
PIPES = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
PARITY = {"golden.npz", "parity.json", "parity.txt"}
EVALUATION = {"evaluation.json", "evaluation.txt", "misread_photos.png"}
EVALUATION |= {"confusion_matrix.png", "learning_curve.png", "misread_cells.png"}
ARTIFACTS = {"digitnet_best.pth", "sudoku_digitnet.onnx", "summary.txt", "training.json"} | PARITY | EVALUATION
TORCHRUN = (PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


slow = pytest.mark.skipif("not config.getoption('--slow')", reason="runs with --slow (make test-all)")
ROOT_USER = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def ok(self) -> "Result":
        """Return it; the command must have succeeded."""
        assert self.code == 0, self.err
        return self


def run(*command: object, cwd: Path = ROOT, **environment: str | None) -> Result:
    """Run a command to its end, whatever its exit code; a variable of the environment that is None is removed.

    Raises subprocess.TimeoutExpired after 280 s.
    """
    words = [str(part) for part in command]
    env = {name: value for name, value in (WITHOUT_MAKE | environment).items() if value is not None}
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=env, timeout=280)
    return Result(done.returncode, done.stdout, done.stderr)


def call(name: str, *options: object, cwd: Path = ROOT) -> Result:
    """Run one of the repository's scripts to its end in this process, which has its packages imported already.

    What a script changes in its process is put back afterwards.
    """
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    argv = [str(ROOT / name), *map(str, options)]
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.multiple(sys, argv=argv, path=[str(Path(argv[0]).parent), *sys.path], excepthook=sys.excepthook),
        mock.patch.dict(os.environ),
    ):
        code = 0
        gc.freeze()  # the script's workers are forked: they would wait for threads of a session that they collect
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else bool(end.code)
            err.write(f"{end.code}\n" if isinstance(end.code, str) else "")
        finally:
            gc.unfreeze()
            signal.signal(signal.SIGTERM, handler)
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(1)  # as OMP_NUM_THREADS says
    return Result(code, out.getvalue(), err.getvalue())


def copy_product(folder):
    """Copy the Makefile and the programs that it runs into another folder."""
    for path in [*ROOT.glob("*.py"), ROOT / "Makefile"]:
        shutil.copy(path, folder)
    for name in ("pages", "reading"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


class Chain(NamedTuple):
    """A folder in which `make` ran on little data."""

    folder: Path
    data: Path
    out: Path
    result: Result


def make(folder: Path, *arguments: str) -> Result:
    """Run `make` with data, results and real boards in a folder, little of each, and this interpreter."""
    settings = [f"DATA={folder}/data", f"OUT={folder}/artifacts", f"REAL={folder}/real", "TRAIN=3", "VAL=2"]
    defaults = ["EPOCHS=1", "BATCH=64", "THREADS=1", f"PYTHON={PYTHON}"]
    given = {argument.partition("=")[0] for argument in arguments}
    return run("make", *settings, *(d for d in defaults if d.partition("=")[0] not in given), *arguments)


def train_small(folder: Path, drawing: Sequence[object], training: Sequence[object]) -> Result:
    """Prepare data and train and export in this process, with these options; return what the training printed."""
    call("02_PrepareData.py", "--out", folder / "data", *drawing).ok()
    options = ("--data", folder / "data", "--out", folder / "artifacts", "--threads", 1, *training)
    return call("03_Training.py", *options).ok()


def draw_boards(folder: Path, number: int) -> None:
    """Draw boards in photos of newspapers, whole and straightened, with labels and corners: they replace real ones."""
    from digitnet_boards import BOARD_SIDE, CORNER_COLUMNS, rectify
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
def session():
    """The pretrained network."""
    from digitnet_onnx import open_session

    return open_session(PRETRAINED)


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
    """The whole chain, built once, as a reader would. Tests that change files take `chain`, a copy."""

    def build(folder: Path) -> Result:
        draw_boards(folder / "real", 2)
        (folder / "home").mkdir()  # stays empty, see test_environment.py
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(WITHOUT_MAKE, "HOME", str(folder / "home"))
            patch.delitem(WITHOUT_MAKE, "CI", raising=False)
            return make(folder)

    return once("chain", build)


@pytest.fixture(scope="session")
def trained(once: Callable[..., Chain], request: pytest.FixtureRequest) -> Chain:
    """Data, weights and ONNX file of a small training, long enough to read pages. Read only."""
    train, val, epochs = (80, 10, 7) if request.config.getoption("--slow") else (20, 5, 6)

    def build(folder: Path) -> Result:
        return train_small(folder, ("--train", train, "--val", val), ("--epochs", epochs, "--batch-size", 64))

    return once("trained", build)


@pytest.fixture
def exported(built: Chain, tmp_path: Path) -> Chain:
    """The built chain with a copy of its artifacts that a test may break."""
    return built._replace(out=Path(shutil.copytree(built.out, tmp_path / "artifacts")))


@pytest.fixture
def chain(built: Chain, tmp_path: Path) -> Chain:
    """A copy of the built chain that a test may break; file times are kept.

    Its thousands of pictures are links to the built chain's: remove one before you write another in its place.
    """
    folder = tmp_path / "chain"

    def link(source: str, target: str) -> None:
        (os.link if source.endswith(".png") else shutil.copy2)(source, target)

    shutil.copytree(built.folder, folder, copy_function=link)
    for name in (".settings", ".evaluation"):  # they name the folders of the data, so the copy's are other settings
        stamp = folder / "artifacts" / name
        time = stamp.stat().st_mtime_ns
        stamp.write_text(stamp.read_text().replace(str(built.folder), str(folder)))
        os.utime(stamp, ns=(time, time))
    return Chain(folder, folder / "data", folder / "artifacts", built.result)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Take a line such as "mutants: 150 made, none accepted" that is shown after the tests."""
    return lambda line: record_property("count", line)


@pytest.fixture
def case(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Take the kind of a case, such as "bad input in make"; how many of each kind passed is shown after the tests."""
    return lambda kind: record_property("case", kind)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    for line in sorted(value for name, value in properties if name == "count"):
        terminalreporter.write_line(line)
    for kind, cases in sorted(Counter(value for name, value in properties if name == "case").items()):
        terminalreporter.write_line(f"{kind}: {cases} cases, each in one line")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return as many processes as cores, but no more than fit into free memory, at 1.1 GB each."""
    from digitnet_machine import available_cpus, container_limits, read_system_file

    kilobytes = re.search(r"MemAvailable:\s+(\d+)", read_system_file(Path("/proc/meminfo")))
    free = min(1024 * int(kilobytes[1]) if kilobytes else math.inf, container_limits(Path("/"))["memory"])
    return int(max(1, min(available_cpus(), free // 1.1e9)))


def pytest_configure(config: pytest.Config) -> None:
    """Give each of pytest's processes a core, so that what it starts asks for one thread, not for the others' cores."""
    if name := getattr(config, "workerinput", {}).get("workerid"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, [cores[int(name.removeprefix("gw")) % len(cores)]])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one of pytest's processes build the chains while the others run what needs none."""
    items.sort(key=lambda item: [name not in item.fixturenames for name in ("trained", "built")])


@pytest.fixture
def few_newspapers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 04_Parity.py in this process draw two boards where it draws 24, which take seconds."""
    monkeypatch.setattr("digitnet_parity.NEWSPAPER_BOARDS", 2)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Return every file under a folder with its bytes, to show that nothing was lost; locks are no files."""

    def read(folder: Path) -> dict[str, bytes]:
        found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name != ".lock"}

    return read


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="processes killed at a random moment, of each kind")
    parser.addoption("--slow", action="store_true", help="run the commands of the README that take minutes, too")
