"""What every script shares: options, errors in one line, files written whole, JSON reports.

Standard library only, so that a script can read its options before it imports a package.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (pip does not ask for it, but a reader may type `python3 03_Training.py`)
    sys.exit(f"{sys.argv[0]}: {sys.executable} is older than Python 3.11: `make doctor` says what to do")

import argparse
import contextlib
import ctypes
import glob
import hashlib
import io
import json
import os
import platform
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake that the user can mend: the message says what is wrong, where, and what to do."""


def start_script() -> None:
    """Prepare the process of a script; call this before any package is imported."""
    sys.excepthook = report_missing_package
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that temporary files are removed
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        sys.stdout.reconfigure(line_buffering=True)  # each line is seen as soon as it is known, in a pipe too


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if a package is not installed, and all other exceptions as Python does (a sys.excepthook)."""
    if not isinstance(error, ModuleNotFoundError):
        return sys.__excepthook__(kind, error, trace)
    cure = "run `make`, which installs it into .venv, then use .venv/bin/python"
    if sys.prefix != sys.base_prefix:  # a virtual environment, where pip works
        cure = f"{sys.executable} -m pip install -r requirements.txt"
    print(f"{os.path.basename(sys.argv[0])}: {sys.executable} has no package {error.name}: {cure}", file=sys.stderr)


def run_script(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> NoReturn:
    """Run a script's main and exit; the user's mistakes end in one line on stderr and exit code 1, no traceback."""
    script = os.path.basename(sys.argv[0])
    try:
        main(args)
        sys.exit(0)
    except UserError as error:
        sys.exit(f"{script}: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""  # a full disk under a library's own file has no name
        sys.exit(f"{script}: {error.strerror or error}: {place}check the path, its rights and the disk")
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted", file=sys.stderr)
        sys.exit(130)


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that answers wrong usage in one line (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows `description` as it is written and every option with its default."""

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


def available_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a step of PyTorch frees for the next step; do nothing without glibc.

    glibc may otherwise return large blocks to the system, which clears them page by page when they are needed again.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt's parameters in malloc.h, in bytes; 32 MiB is the second's limit
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 512 << 20)


def write_file(path: Path | str, write: Callable[[str], object]) -> None:
    """Call write(temporary name in the same folder), then rename: `path` is whole or as it was before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        pid = leftover.name.removesuffix(path.suffix).rpartition(".")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            leftover.unlink(missing_ok=True)  # of a process that was killed
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(str(temporary))
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # a full disk has no name
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_file(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def first_line(error: BaseException) -> str:
    """Return the beginning of a library's message, on one line."""
    return " ".join(str(error).split())[:200]


def sha256(path: Path | str) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def describe_run() -> dict:
    """Return where and when this ran, for the JSON reports: date, machine, CPU cores, versions, command."""
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
    """Return the last processor's entry in /proc/cpuinfo, empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
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
