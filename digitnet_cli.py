"""What every script needs around its work: options, mistakes told in one line, files written whole, reports.

Scripts import this module before any package: then an old Python or a missing package is told in one line, too.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (not pip asks for it, but whoever types `python3 03_Training.py`)
    sys.exit(f"{sys.argv[0]}: {sys.executable} is older than Python 3.11: install a newer one (make doctor tells more)")

import argparse
import ctypes
import glob
import hashlib
import json
import os
import platform
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: the message says what is wrong, where, and what to do."""


def explain_uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """sys.excepthook: a package that is not installed is told in one line; all else as Python does."""
    if not isinstance(error, ModuleNotFoundError):
        return sys.__excepthook__(kind, error, trace)
    print(
        f"{os.path.basename(sys.argv[0])}: {sys.executable} has no package {error.name}: "
        "use .venv/bin/python, which `make` fills, or python3 -m pip install -r requirements.txt",
        file=sys.stderr,
    )


sys.excepthook = explain_uncaught


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's main(); the user's mistakes end in one line on stderr and exit code 1, no traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    sys.stdout.reconfigure(line_buffering=True)  # a line is seen when it is known, in a pipe too
    script = os.path.basename(sys.argv[0])
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"{script}: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""  # a full disk under a library's own file has no name
        sys.exit(f"{script}: {error.strerror or error}: {place}check the path, its rights and the disk")
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted", file=sys.stderr)
        sys.exit(130)


class OneLineParser(argparse.ArgumentParser):
    """argparse, but wrong usage is answered in one line (exit code 2)."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is written and every option with its default."""

    class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            none = action.default is None or action.default is False  # these are no defaults to show
            return action.help if none else super()._get_help_string(action)

    return OneLineParser(description=description, formatter_class=Help, allow_abbrev=False)


def whole_number(text: str, lowest: int) -> int:
    """Reads a whole number of at least `lowest`, below 2 ** 31; for argparse, which tells the user what was wrong."""
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {2**31 - 1}")
    if value < lowest:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {lowest}")
    return value


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    return whole_number(text, 1)


def natural_int(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    return whole_number(text, 0)


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def fraction(text: str) -> float:
    """argparse type: a number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Has glibc keep what a step of PyTorch frees for the next step; without glibc nothing happens.

    By itself it may hand large blocks back to the system, which clears them page by page when they are needed again.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h's names for mallopt, in bytes; 32 MiB is the second one's most
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 512 << 20)


def write_file(path: Path | str, write: Callable[[str], None]) -> None:
    """Calls write(temporary name in the same folder), then renames: `path` is whole or as it was before."""
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


def write_json(path: Path | str, content: dict) -> None:
    """`content` as indented JSON, written whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_file(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def describe_run() -> dict:
    """Where and when this ran, for the JSON reports: date, machine, CPU cores, versions, command."""
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


def cpuinfo() -> list[str]:
    """The lines of /proc/cpuinfo; none where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def processor_name() -> str:
    """What /proc/cpuinfo calls the processor; on Arm, where it has no name, its part number."""
    if not (lines := cpuinfo()):
        return platform.processor()
    names = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return names.get("model name") or f"{names.get('Model', platform.machine())}, CPU part {names.get('CPU part', '?')}"


def cpu_flags() -> str:
    """The processor's features that change how sums are made: vector units and short floats; "" where unknown."""
    flags = next((line.partition(":")[2] for line in cpuinfo() if line.startswith(("flags", "Features"))), "")
    wanted = re.compile("sse4|avx|fma|f16c|amx|asimd|sve|sme|bf16|i8mm|fphp|atomics")
    return " ".join(flag for flag in flags.split() if wanted.match(flag))
