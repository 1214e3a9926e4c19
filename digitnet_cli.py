# SPDX-License-Identifier: Apache-2.0
"""Shared by all scripts: options, errors in one line, files written whole, JSON reports.

Standard library only, so that a script can read its options before it imports a package.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a user may type `python3 03_Training.py`)
    sys.exit(f"{sys.argv[0]}: {sys.executable} is older than Python 3.11: run `make doctor`")

import argparse
import contextlib
import ctypes
import errno
import fcntl
import getpass
import glob
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from concurrent.futures import Executor

ROOT = Path(__file__).resolve().parent
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by onnxruntime at its import; else it writes into HOME


class UserError(Exception):
    """A mistake that the user can correct: the message has cause, place and cure."""


def start_script() -> None:
    """Prepare the process of a script; call this before any package is imported."""
    sys.excepthook = report_missing_package
    with contextlib.suppress(ValueError):  # a program runs the script in a thread
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that temporary files are removed
    open_streams()
    supply_environment()


def open_streams() -> None:
    """Make stdout and stderr accept any text, even if they are closed or have another encoding."""
    while (unused := os.open(os.devnull, os.O_RDWR)) < 3:  # else the next opened file would get the output of C code
        pass
    os.close(unused)
    null = Path(os.devnull)
    sys.stdout, sys.stderr = (stream or null.open("w") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in IDLE, not in a notebook
            stream.reconfigure(errors="replace", line_buffering=True)  # a line is seen at once, in a pipe too


def supply_environment() -> None:
    """Provide what packages expect of every process: a user's name, a home, the environment's own packages."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd; torch asks for the name
        os.environ["USER"] = os.environ["LOGNAME"] = str(os.getuid())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = tempfile.gettempdir()
    if sys.prefix != sys.base_prefix:  # a virtual environment's packages come before those of PYTHONPATH
        foreign = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
        sys.path.sort(key=lambda path: path in foreign - {str(ROOT)})


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if a package cannot be imported, and other exceptions as usual; replaces sys.excepthook."""
    if not isinstance(error, ImportError):
        return sys.__excepthook__(kind, error, trace)
    missing = isinstance(error, ModuleNotFoundError)
    problem = f"has no package {error.name}" if missing else f"cannot load a package ({first_line(error)})"
    print(f"{os.path.basename(sys.argv[0])}: {sys.executable} {problem}: {install_packages()}", file=sys.stderr)


def install_packages() -> str:
    """Return what to run to install the packages, for a message; pip works in virtual environments alone."""
    make = "make" if Path.cwd() == ROOT else f"make -C {shlex.quote(str(ROOT))}"
    cure = f"run `{make}`, which installs it into .venv, then use .venv/bin/python"
    if sys.prefix != sys.base_prefix:
        requirements = shlex.quote(os.path.relpath(ROOT / "requirements.txt"))
        cure = f"run `{shlex.quote(sys.executable)} -m pip install -r {requirements}`"
    return f"unset PYTHONPATH, or {cure}" if "PYTHONPATH" in os.environ else cure


def run_script(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> NoReturn:
    """Run a script's main and exit. A user's mistake gives one line on stderr and exit code 1, no traceback."""
    script = os.path.basename(sys.argv[0])
    try:
        main(args)
        sys.exit(0)
    except UserError as error:
        sys.exit(f"{script}: {error}")
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does: no error
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # Python still writes what is left
        sys.exit(141)
    except OSError as error:
        cure = f"{error.filename}: check the path, its permissions and the disk"
        if not error.filename:  # not the user's path
            cure = "is the disk full, or a limit reached (memory, processes, open files)?"
        sys.exit(f"{script}: {error.strerror or error}: {cure}")
    except MemoryError:
        sys.exit(f"{script}: memory is full: close other programs, or give the machine or container more")
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted", file=sys.stderr)
        sys.exit(130)


def remake(path: Path | str, names: Iterable[str], target: str, script: str) -> str:
    """Return the command that makes `path` anew, for a message: make with `target` if it is make's, else `script`.

    A file with none of `names` was given by mistake, so the command must not remove it.
    """
    path, here = Path(path), Path.cwd()
    if path.name not in names:
        return f"give {' or '.join(names)} instead"
    folder = os.path.relpath((path.absolute() if os.path.lexists(path) else ROOT / path).parent, ROOT)
    settings = {"data": "", "artifacts": "", "data/photo": "PROFILE=photo", "artifacts/photo": "PROFILE=photo"}
    if "MAKELEVEL" in os.environ:  # make runs this: its settings name the file
        settings[folder] = os.environ.get("MAKEFLAGS", "").partition("-- ")[2]
    steps = [f"rm {'-r ' * path.is_dir()}{shlex.quote(str(path))}"] if os.path.lexists(path) else []
    if folder in settings:
        steps += [f"cd {shlex.quote(str(ROOT))}"] * (here != ROOT)
        steps.append(" ".join(filter(None, ("make", settings[folder], target))))
    else:
        steps.append(f"{shlex.quote(sys.executable)} {shlex.quote(os.path.relpath(ROOT))}/{script}")
    return f"run `{' && '.join(steps)}`"


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that reports wrong usage in one line (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        """Print one line that points to --help, and exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows `description` unchanged, and every option with its default."""

    class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str | None:
            none = action.default is None or action.default is False  # there is no default to show
            return action.help if none else super()._get_help_string(action)

    return OneLineParser(description=description, formatter_class=Help, allow_abbrev=False)


def number(kind: type, what: str, valid: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return an argparse type that reads a `kind` for which `valid` holds; `what` describes it in the error."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if valid(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return read


positive_int = number(int, f"a whole number from 1 to {2**31 - 1}", lambda n: 1 <= n < 2**31)
non_negative_int = number(int, f"a whole number from 0 to {2**31 - 1}", lambda n: 0 <= n < 2**31)
positive_float = number(float, "a number above 0", lambda x: 0 < x < float("inf"))
fraction = number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)


def read(path: Path) -> str:
    """Return a system file's text, or "" if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def available_cpus() -> int:
    """Return the cores that this process may use: by its CPU affinity and container, shared with torchrun's others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = math.ceil(min(cores, container_cpus(Path("/"))))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def container_cpus(system: Path) -> float:
    """Return the cores that this process's control groups (version 1 or 2) allow, or inf; `system` holds proc and sys.

    tools/doctor.py has the same rule, in a form that runs on old Pythons.
    """
    limit = math.inf
    for line in read(system / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        folder = system / "sys/fs/cgroup" / controllers / group.lstrip("/")
        for place in (folder, *folder.parents):  # a container may not see its own folder; parents limit it as well
            times = read(place / "cpu.max") or read(place / "cpu.cfs_quota_us") + read(place / "cpu.cfs_period_us")
            for quota, period in re.findall(r"^(\d+)\s+(\d+)", times):  # others are no limit
                limit = min(limit, int(quota) / int(period))
    return limit


def set_up_worker(parent: int, lock: int | None) -> None:
    """Prepare a process of the pool. `parent` is the main process; `lock` is its descriptor of alone_in."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the parent, however that ends
        if os.getppid() != parent:  # it has already ended
            os._exit(1)
    if lock is not None:
        os.close(lock)  # the parent's, which a worker must not hold longer


@contextlib.contextmanager
def open_pool(workers: int, cure: str = "", lock: int | None = None) -> Iterator["Executor"]:
    """Start a pool of processes, or a thread for one worker. `lock` is the descriptor of alone_in, if it is held.

    Raises UserError if a process is killed; its message ends with `cure`, if there is one.
    """
    import multiprocessing
    from concurrent import futures

    pool: Executor = futures.ThreadPoolExecutor(1)  # needs no shared memory
    if workers > 1:
        try:  # forked by this process, so that they end with it
            context = multiprocessing.get_context("fork")
            pool = futures.ProcessPoolExecutor(workers, context, set_up_worker, (os.getpid(), lock))
        except (ImportError, OSError) as error:
            print(f"no shared memory (/dev/shm) for {workers} processes ({first_line(error)}): continues in one")
    try:
        yield pool
    except futures.BrokenExecutor:
        problem = f"one of {workers} processes was killed, probably because memory is full"
        raise UserError(f"{problem}: {', '.join(filter(None, ['close other programs', cure]))}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a step of PyTorch frees for the next step; do nothing without glibc.

    glibc may otherwise return large blocks to the system, which clears them page by page when they are needed again.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt's parameters in malloc.h, in bytes; 32 MiB is the second's limit
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 512 << 20)


def sync(path: Path | str, whole_disk: bool = False) -> None:
    """Sync a file's content, or a folder's list of names, to disk, so that it survives a power cut.

    `whole_disk`: sync all of the file system of `path`, which is faster for many small files.
    """
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            if not whole_disk:
                os.fsync(opened)
            elif getattr(ctypes.CDLL(None, use_errno=True), "syncfs", lambda _: os.sync())(opened):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):  # not all file systems do it for folders
            raise


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Lock `folder` against other runs until this one ends, however it ends; yield the lock's descriptor.

    Raises UserError if another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"another run is writing to {folder}: wait until it ends, or name another") from None
    except OSError:  # not all file systems have locks
        pass
    try:
        yield lock
    finally:
        os.close(lock)


def write_file(path: Path | str, write: Callable[[str], object]) -> None:
    """Call write(temporary name in the same folder), then rename: `path` is complete or unchanged.

    The file is synced to disk before this returns, so it survives a power cut.
    """
    path = Path(path)
    folders = [path.parent]
    while not folders[-1].exists():
        folders.append(folders[-1].parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        pid = leftover.name.removesuffix(path.suffix).rpartition(".")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            leftover.unlink(missing_ok=True)  # of a process that was killed
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(str(temporary))
        sync(temporary)
        os.replace(temporary, path)
        for folder in folders:
            sync(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # a full disk has no name
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_file(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def first_line(error: BaseException) -> str:
    """Return the first 200 characters of an exception's message, on one line."""
    return " ".join(str(error).split())[:200]


def sha256(path: Path | str) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def describe_run() -> dict:
    """Return date, machine, CPU cores, versions and command of this run, for the JSON reports."""
    from importlib import metadata  # here: not every script needs it, and it is slow to import

    packages = ["torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "opencv-python-headless"]
    versions = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "processor": processor_name(),
        "cpus": available_cpus(),
        "python": platform.python_version(),
        "versions": {name: versions[name] for name in packages if name in versions},
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }


def cpuinfo() -> dict[str, str]:
    """Return the last processor's entry in /proc/cpuinfo, or {} if that file is missing."""
    lines = read(Path("/proc/cpuinfo")).splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def processor_name() -> str:
    """Return the processor's name; on Arm, where /proc/cpuinfo has none, its part number."""
    info = cpuinfo()
    part = f"{info.get('Model', platform.machine())}, CPU part {info.get('CPU part', '?')}"
    return info.get("model name") or (part if info else platform.processor())


def cpu_flags() -> str:
    """Return the processor's features that change how sums are rounded: vector units, short floats; "" if unknown."""
    wanted = re.compile("sse4|avx|fma|f16c|amx|asimd|sve|sme|bf16|i8mm|fphp|atomics")
    info = cpuinfo()
    return " ".join(filter(wanted.match, (info.get("flags") or info.get("Features") or "").split()))
