"""Can this machine run the chain? One line a check (ok, warn, fail) and, where it is not ok, what to do.

Needs nothing but Python's standard library, and no newer syntax than Python 3.6's, so that an old Python is told
that it is old. Installs and changes nothing. Exit code 1 if a check fails. Usually run by `make doctor`.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))  # python3 -I leaves the script's own folder out
from doctor_machine import (
    check_architecture,
    check_disk,
    check_fast_math,
    check_memory,
    check_processor,
    check_system,
    check_temporary,
    check_threads,
)
from doctor_onnx import check_onnx
from doctor_packages import (
    check_cuda,
    check_make,
    check_packages,
    check_python,
    check_venv,
    installed_packages,
    read_pins,
)


def read(path: str) -> str:
    """A file's text, or nothing."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def c_library() -> str:
    """Name and version of the C library, such as "glibc 2.36"; nothing where it does not tell, as musl."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return ""


def make_version() -> str:
    """What `make --version` prints, or nothing."""
    try:
        return subprocess.check_output(["make", "--version"]).decode(errors="replace")
    except (OSError, subprocess.CalledProcessError):
        return ""


def report(checks: list) -> int:
    """Prints the checks, (name, (status, seen, cure)) each; returns the exit code."""
    for name, (status, seen, cure) in checks:
        print(f"{status:<5} {name:<13} {seen}")
        if cure:
            print(f"      {'':<13} -> {cure}")
    count = [status for _, (status, _, _) in checks].count
    print(f"{count('ok')} ok, {count('warn')} to know, {count('fail')} in the way")
    return 1 if count("fail") else 0


def main() -> int:
    """Gathers what the checks judge, from this machine; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), help="the exported file")
    parser.add_argument("--own", action="store_true", help="this Python is to run the scripts; make installs nothing")
    args = parser.parse_args()

    machine, installed = platform.machine(), installed_packages()
    expected = args.own or "torch" in installed
    if not expected:  # the system's Python; what it has besides will not be used
        installed = {}
    pins = read_pins(read(str(ROOT / "requirements.txt")))
    meminfo, environment = read("/proc/meminfo"), dict(os.environ)
    total = re.search(r"^MemTotal:\s+(\d+)", meminfo, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    temporary = os.environ.get("TMPDIR", "/tmp")
    there = all(name in installed for name in pins)
    versions = {**pins, **{name: version.partition("+")[0] for name, version in installed.items()}}
    modules = [util.find_spec(name) is not None for name in ("venv", "ensurepip")]
    return report(
        [
            ("architecture", check_architecture(machine, 64 if sys.maxsize > 2**32 else 32)),
            ("system", check_system(platform.system(), c_library())),
            ("processor", check_processor(machine, read("/proc/cpuinfo"), versions)),
            ("memory", check_memory(meminfo)),
            ("disk", check_disk(shutil.disk_usage(str(ROOT)).free, machine, there)),
            ("temporary", check_temporary(read("/proc/mounts"), temporary, int(total.group(1)) * 1024 if total else 0)),
            ("Python", check_python(tuple(sys.version_info))),
            ("venv", check_venv(*modules, needed=not there)),
            ("make", check_make(make_version())),
            ("packages", check_packages(pins, installed, expected)),
            ("CUDA", check_cuda(machine, installed)),
            ("threads", check_threads(cores, environment)),
            ("fast math", check_fast_math(environment)),
            ("ONNX file", check_onnx(args.onnx)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
