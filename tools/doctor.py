# SPDX-License-Identifier: Apache-2.0
"""Check whether this machine can run the project: one line per check, with a cure where it is not ok.

Run by `make doctor`. Needs only the standard library; an old Python (3.7) looks for a newer one and hands over to it.
Installs and changes nothing. Exit code 1 if a check fails.
"""

import argparse
import json
import os
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

SYSTEM = Path("/")  # holds proc and sys
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from venv import MODULES, NO_PYTHON, PROBE, SUPPORTED, find_python, run

if sys.version_info < (3, 11):
    python = find_python()
    if python:
        os.execvp(python, [python, "-I", *sys.argv])
    sys.exit(f"fail  Python        {sys.executable} is {platform.python_version()}, {NO_PYTHON}")
from digitnet_cli import ROOT
from digitnet_machine import available_cpus, container_limits, read_system_file

# Settings. Wheels of the pinned packages need this glibc, the Makefile this GNU Make; tools/venv.py has the Pythons.
OLDEST_GLIBC, OLDEST_MAKE = [2, 28], [4, 3]
X86_FLAGS, ARM_FLAGS = ("cx16", "popcnt", "ssse3", "sse4_1", "sse4_2"), ("asimd",)  # numpy needs x86-64-v2 or NEON
# aarch64 wheels that need atomics of ARMv8.1: pytorch issues 132032, 146792, 174344; onnxruntime issue 23957.
NEEDS_ATOMICS = (("torch", "2.4.0"), ("torch", "2.6.0"), ("torch", "2.10.0"), ("onnxruntime", "1.21.0"))
# Bytes on disk when pip ends, wheels + packages: 4.1 + 7.7 GB on x86-64, most for CUDA; 0.24 + 1.08 GB on aarch64.
DISK, DISK_FOR_DATA, FILES = {"aarch64": 1.5e9, "x86_64": 12e9}, 0.3e9, 100_000
# Bytes of memory: 03_Training.py and 04_Parity.py peak at 1.0 GB (make bench, x86-64, 2026-11-28).
MEMORY_LEAST, MEMORY_FREE, MEMORY_AND_SWAP = 0.9e9, 1.1e9, 1.9e9
FOREIGN = "PYTHONPATH|PYTHONHOME"
GPU_NAME = re.compile(r"(nvidia-|cuda-|cupy|pytorch-triton|triton$)")  # packages for NVIDIA GPUs, canonical names
WITHOUT_CUDA = "rm -rf .venv; make TORCH_INDEX=https://download.pytorch.org/whl/cpu"

# Run by the environment's Python: lists the packages; PROBE then imports them.
LIST_PACKAGES = """
import json, sys
from importlib import metadata
sys.dont_write_bytecode = True
print(json.dumps([[d.metadata["Name"] or "", d.version] for d in metadata.distributions()]))
"""


class Check(NamedTuple):
    """Result of a check. status: ok, warn (usable with a problem) or fail. cure: what to do unless it is ok."""

    status: str
    seen: str
    cure: str = ""


def judge(seen: str, *cases: tuple) -> Check:
    """Return the first of the cases (condition, status, cure) whose condition holds, or else ok."""
    return next((Check(status, seen, cure) for condition, status, cure in cases if condition), Check("ok", seen))


def check_system() -> Iterator[tuple]:
    """Judge architecture, system, make, and variables that change what Python does."""
    machine, system, libc = platform.machine(), platform.system(), platform.libc_ver()
    bad, bits = sys.maxsize < 2**32 or machine not in DISK, 64 if sys.maxsize > 2**32 else 32
    cure = "use a 64-bit system on aarch64 or x86_64 (64-bit Raspberry Pi OS): onnxruntime has wheels for no other"
    yield "architecture", judge(f"{machine}, {bits}-bit", (bad, "fail", cure))
    bad = system != "Linux" or libc[0] != "glibc" or [int(part) for part in libc[1].split(".")] < OLDEST_GLIBC
    cure = "use Linux with glibc 2.28 or newer (Debian 10, Ubuntu 20.04), not musl; elsewhere, a container or WSL 2"
    yield "system", judge(f"{system}, {' '.join(libc)}", (bad, "fail", cure))
    make = "".join(run("make", "--version")[0][:1]) or "missing"
    bad = "GNU Make" not in make or [int(part) for part in re.findall(r"\d+", make)] < OLDEST_MAKE
    yield "make", judge(make, (bad, "fail", "install GNU Make 4.3 or newer: sudo apt install make (Debian 11)"))
    yield "cores", judge(str(available_cpus()))
    rounds, hides = "it rounds to 8 bits, and `make parity` fails", "it can hide the environment's own packages"
    for name, pattern, effect in (("fast math", r"\w+_DEFAULT_FPMATH_MODE", rounds), ("variables", FOREIGN, hides)):
        found = sorted(n for n, v in os.environ.items() if re.fullmatch(pattern, n) and v.upper() not in ("", "STRICT"))
        seen = ", ".join(f"{name}={os.environ[name]}" for name in found) or "none set"
        yield name, judge(seen, (found, "warn", f"unset {' '.join(found)}: {effect}"))


def check_room(installed: bool) -> Iterator[tuple]:
    """Judge memory and disk. installed: whether packages are installed."""
    limits = container_limits(SYSTEM)
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_system_file(SYSTEM / "proc/meminfo"), re.MULTILINE))
    names = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    machine, available, swap, free_swap = (1024.0 * int(sizes.get(name, 0)) for name in names)
    total, swap = min(machine, limits["memory"]), min(swap, limits["swap"])
    free = min(available, total) + min(free_swap, swap)
    limit = f" (limit of the container; the machine has {machine / 1e9:.1f} GB)" if total < machine else ""
    check = judge(
        f"{total / 1e9:.1f} GB{limit} and {swap / 1e9:.1f} GB swap, {free / 1e9:.1f} GB of both free; "
        f"`make test` needs {MEMORY_FREE / 1e9:.1f} GB for each of its processes",
        (total < MEMORY_LEAST, "fail", "use a machine or container with 1 GB or more; the ONNX file runs on less"),
        (total + swap < MEMORY_AND_SWAP, "warn", "add swap, to 2 GB with the memory, or a step may be killed"),
        (free < MEMORY_FREE, "warn", "close other programs or add swap, or a step may be killed"),
    )
    yield "memory", check
    disk, need = os.statvfs(ROOT), DISK_FOR_DATA if installed else DISK.get(platform.machine(), 2e9)
    left, few = disk.f_bavail * disk.f_frsize, disk.f_files and disk.f_favail < FILES  # Btrfs has no limit: 0 for both
    cure = "free some space" + f"; or install without CUDA (2 GB): {WITHOUT_CUDA}" * (need == DISK["x86_64"])
    slots = f"remove files: {disk.f_favail:,} file slots (inodes) are free, {FILES:,} needed"
    cases = (left < need, "fail", cure), (few, "fail", slots)
    yield "disk", judge(f"{left / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed", *cases)


def check_processor(versions: dict) -> Check:
    """Judge the processor. versions: package -> version that is to run here."""
    machine, cpuinfo = platform.machine(), read_system_file(SYSTEM / "proc/cpuinfo")
    flags = " ".join(re.findall(r"^(?:Features|flags)\s*:(.*)$", cpuinfo, re.MULTILINE)).split()
    missing = ", ".join(flag for flag in (X86_FLAGS if machine == "x86_64" else ARM_FLAGS) if flag not in flags)
    old = machine == "aarch64" and "atomics" not in flags
    bad = ", ".join(" ".join(pin) for pin in versions.items() if old and pin in NEEDS_ATOMICS)
    kind = "x86-64-v2" if machine == "x86_64" else "ARMv8.0, as a Raspberry Pi 4" if old else "ARMv8.1 or newer"
    return judge(
        f"no {missing}" if missing else kind,
        (not flags, "warn", "nothing, unless a step ends in 'Illegal instruction': /proc/cpuinfo lists no features"),
        (missing, "fail", "numpy needs x86-64-v2 (since about 2009), or Arm with NEON (Raspberry Pi 3 or newer)"),
        (bad, "fail", f"install the versions of requirements.txt: {bad} ends in 'Illegal instruction' here"),
    )


def check_python(python: str, pins: dict, there: bool, install: str) -> Iterator[tuple]:
    """Judge a Python and its packages. there: whether it should have packages. install: the command for it."""
    kind, error = run(python, "-c", PROBE) if python else ([], "")
    foreign = " ".join(name for name in FOREIGN.split("|") if os.environ.get(name))
    repair = f"unset {foreign}" if foreign else install
    seen = f"{kind[0] if kind else f'does not start, {error}'} ({python})" if python else "none fits"
    bad = kind and kind[0] not in SUPPORTED
    yield "Python", judge(seen, (bad or not python, "fail", NO_PYTHON), (not kind, "fail", repair))
    if not kind:
        return
    printed, error = [], ""
    if there:
        modules = [MODULES.get(name, name.replace("-", "_")) for name in pins]
        printed, error = run(python, "-c", LIST_PACKAGES + PROBE, *modules)
    yield from check_packages(printed, error, pins, there, (install, repair))


def check_packages(printed: list, error: str, pins: dict, there: bool, cures: tuple) -> Iterator[tuple]:
    """Judge the packages by what LIST_PACKAGES printed, and the processor by their versions."""
    install, repair = cures
    pairs = json.loads(printed[0])[::-1] if printed else []  # of two with one name, the first is used
    found = {re.sub(r"[-_.]+", "-", n).lower(): re.sub(r"\b0+(?=\d)", "", v.partition("+")[0]) for n, v in pairs}
    lacking = [name for name in pins if name not in found] if there else []
    missing = ", ".join(lacking[:5]) + f" and {len(lacking) - 5} more" * (len(lacking) > 5)
    other = ", ".join(f"{name} {found[name]} (pinned: {v})" for name, v in pins.items() if found.get(name, v) != v)
    step = ([""] + [line for line in printed if line.startswith("import ")])[-1]
    failed = f"cannot {step}: {error}" if error and step else ""
    fine = f"all {len(pins)} at the pinned versions, and they load" if there else "not installed yet: `make` does it"
    check = judge(
        f"missing: {missing}" if missing else failed or other or fine,
        (missing, "fail", install),
        (failed, "fail", repair),
        (other, "warn", f"{install}; or keep them if `make parity` passes"),
    )
    yield "packages", check
    yield "processor", check_processor({**pins, **found})
    gpu = sorted(filter(GPU_NAME.match, found))
    seen = f"{len(gpu)} packages for NVIDIA GPUs, not used; without them: {WITHOUT_CUDA}" if gpu else "none"
    cure = "rm -rf .venv; make (from torch 2.11.0 on, PyPI's wheels bring gigabytes of them; the pinned one does not)"
    yield "CUDA", judge(seen, (gpu and platform.machine() == "aarch64", "warn", cure))


def main() -> int:
    """Print the checks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", default=".venv", help="the environment that make fills (default: .venv)")
    parser.add_argument("--base", default="", help="the Python that makes it (default: the first that fits)")
    parser.add_argument("--python", help="a Python of your own, instead of --venv")
    args = parser.parse_args()
    python = args.python or f"{args.venv}/bin/python"
    there = bool(args.python) or os.path.lexists(python)
    own = "make without PYTHON= and VENV=; or, in an environment of your own, pip install -r requirements.txt"
    install = own if args.python else f"rm -rf {args.venv}; make" + f" VENV={args.venv}" * (args.venv != ".venv")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", read_system_file(ROOT / "requirements.txt").lower(), re.MULTILINE))
    python = python if there else find_python(args.base)
    statuses = []
    for checks in (check_system(), check_room(there), check_python(python, pins, there, install)):
        for name, (status, seen, cure) in checks:
            statuses.append(status)
            print(f"{status:<5} {name:<13} {seen}" + (f"\n{'':<19} -> {cure}" if cure else ""), flush=True)
    ok, warn, fail = (statuses.count(status) for status in ("ok", "warn", "fail"))
    print(f"{ok} ok, {warn} warning{'s' * (warn != 1)}, {fail} failure{'s' * (fail != 1)}")
    return int(fail > 0)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `head` may end first
    sys.exit(main())
