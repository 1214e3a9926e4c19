# SPDX-License-Identifier: Apache-2.0
"""Options, errors in one line, and cures: shared by all scripts. Standard library only.

A script imports this module before any package, because that prepares the process for them (prepare_process).
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a user may type `python3 03_Training.py`)
    sys.exit(f"{sys.argv[0]}: {sys.executable} is older than Python 3.11: run `make doctor`")

import os

# Our folder is searched last: a reader's own torch.py or queue.py in it must not stand for the package or the module.
sys.path.sort(key=lambda path: os.path.realpath(path) == os.path.dirname(os.path.realpath(__file__)))

import argparse
import atexit
import contextlib
import errno
import gc
import io
import itertools
import shlex
import signal
import traceback
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent


class UserError(Exception):
    """A mistake that the user can correct: the message has cause, place and cure."""


def prepare_process() -> None:
    """Provide what packages expect of every process when they are imported, and report those that are missing."""
    sys.excepthook = report_missing_package
    gc.set_threshold(100_000)  # torch makes a million objects; looking through them after every 700 takes half a second
    atexit.register(gc.freeze)  # so does the last look, at exit
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by onnxruntime at its import; else it writes into HOME
    os.environ.setdefault("LOGNAME", str(os.getuid()))  # torch asks for the user's name, which a container may lack
    if sys.prefix != sys.base_prefix:  # a virtual environment's packages come before those of PYTHONPATH
        foreign = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
        sys.path.sort(key=lambda path: path in foreign)
    # A closed fd 1 or 2 would be reused for the next file, and C code would write into that.
    while (unused := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(unused)
    sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in IDLE, not in a notebook
            stream.reconfigure(errors="replace", line_buffering=True)  # a line is seen at once, in a pipe too


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line if a package cannot be imported, and other exceptions as usual; replaces sys.excepthook."""
    if isinstance(error, KeyboardInterrupt):  # Ctrl-C during imports; also OpenBLAS, where it can start no thread
        return print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
    if not isinstance(error, ImportError):
        return sys.__excepthook__(kind, error, trace)
    missing = isinstance(error, ModuleNotFoundError)
    problem = f"has no package {error.name}" if missing else f"cannot load a package ({first_line(error)})"
    print(f"{os.path.basename(sys.argv[0])}: {sys.executable} {problem}: {install_packages()}", file=sys.stderr)


def make_command() -> str:
    """Return how to call this project's make from the current folder, for a message."""
    return "make" if Path.cwd() == ROOT else f"make -C {shlex.quote(str(ROOT))}"


def install_packages() -> str:
    """Return what to run to install the packages, for a message; pip works in virtual environments alone."""
    cure = f"run `{make_command()}`, which installs it into .venv, then use .venv/bin/python"
    if sys.prefix != sys.base_prefix:
        requirements, python = shlex.quote(os.path.relpath(ROOT / "requirements.txt")), shlex.quote(sys.executable)
        pip = "" if util.find_spec("pip") else f"{python} -m ensurepip && "  # uv makes environments without pip
        cure = f"run `{pip}{python} -m pip install -r {requirements}`"
    return f"unset PYTHONPATH, or {cure}" if "PYTHONPATH" in os.environ else cure


def run_script(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> NoReturn:
    """Run a script's main and exit. A failure gives one line on stderr and exit code 1; a traceback with --debug."""
    script, debug = os.path.basename(sys.argv[0]), vars(args).pop("debug", False)
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that temporary files are removed
    if debug:
        sys.exit(main(args))
    try:
        sys.exit(main(args))
    except UserError as error:
        sys.exit(f"{script}: {error}")
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does: no error
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # Python still writes what is left
        sys.exit(141)
    except OSError as error:
        sys.exit(f"{script}: {error.strerror or error}: {place_and_cure(error)}")
    except MemoryError:
        sys.exit(f"{script}: memory is full: close other programs, or give the machine or container more")
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # of a package, which has its own classes
        frames = traceback.extract_tb(error.__traceback__)
        last = next(frame for frame in reversed(frames) if "/lib/python" not in frame.filename)  # in code of ours
        step = f"{last.name} ({os.path.basename(last.filename)}, line {last.lineno})"
        no_thread = any(words in str(error) for words in ("new thread", "pthread_create"))
        cure = "allow more processes (ulimit -u, pids.max)" if no_thread else "add --debug for the traceback"
        sys.exit(f"{script}: {type(error).__name__} in {step}: {first_line(error)}: {cure}")


def place_and_cure(error: OSError) -> str:
    """Return the path of a system's error, if it has one, and its cure, for a message."""
    path, cure = str(error.filename or ""), "check the path, its permissions and the disk"
    if not path:  # not the user's path
        cure = "is the disk full, or a limit reached (memory, processes, open files)?"
    if error.errno == errno.EIO:
        cure = "the disk is failing: copy what is on it, and use another"
    if error.errno == errno.ENOSPC:
        cure = "remove files, or use another disk: space or file slots are used up (`df -h`, `df -i`)"
    return dangling_link(path) or ": ".join(filter(None, (path, cure)))


def dangling_link(path: Path | str) -> str:
    """Return the cure if `path` or a folder above it is a link to nothing, else ""."""
    links = [place for place in (Path(path), *Path(path).parents) if place.is_symlink() and not place.exists()]
    return f"{links[0]} is a link to nothing: mount its disk, or remove the link" if links else ""


def keep_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Raise UserError if an output is one of the inputs, or a folder above it; None stands for no file."""
    for output, given in itertools.product(filter(None, outputs), filter(None, inputs)):
        for place in (given, *given.resolve().parents):
            if place.exists() and output.exists() and output.samefile(place):
                raise UserError(f"{output} would replace {given}, which is read: name another file to write")


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that reports wrong usage in one line (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        """Print one line that points to --help, and exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows `description` unchanged, and every option with its default."""

    class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str | None:
            return action.help if isinstance(action.default, bool | None) else super()._get_help_string(action)

    parser = OneLineParser(description=description, formatter_class=Help, allow_abbrev=False)
    # Suppressed: it is no setting, and reports and checkpoints hold all settings.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a failure's traceback")
    return parser


def number(kind: type, what: str, valid: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return an argparse type that reads a `kind` for which `valid` holds; `what` describes it in the error."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if valid(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return read


positive_int = number(int, f"a whole number from 1 to {2**31 - 1}", lambda n: 1 <= n < 2**31)
seed = number(int, f"a whole number from 0 to {2**31 - 1}", lambda n: 0 <= n < 2**31)
cores = number(int, "a whole number from 1 to 1024", lambda n: 1 <= n <= 1024)  # of processes or threads
positive_float = number(float, "a number above 0", lambda x: 0 < x < float("inf"))
fraction = number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)


def first_line(error: BaseException) -> str:
    """Return the first 200 characters of an exception's message, on one line."""
    return " ".join(str(error).split())[:200]


prepare_process()
