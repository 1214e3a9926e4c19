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

try:
    from importlib import metadata
except ImportError:  # before Python 3.8
    metadata = None

ROOT = Path(__file__).resolve().parent.parent

# What requirements.txt's pins need: wheels exist for Python 3.11 to 3.14 and glibc 2.28; numpy's x86-64 wheels want
# x86-64-v2. GNU Make 4.3 is the one on Raspberry Pi OS bookworm.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
OLDEST_GLIBC = (2, 28)
OLDEST_MAKE = (4, 3)
X86_FLAGS = ("cx16", "popcnt", "ssse3", "sse4_1", "sse4_2")

# Wheels for aarch64 that run ARMv8.1's atomics without asking, and so die of an illegal instruction on a Raspberry
# Pi 4: pytorch issues 132032, 146792, 174344; onnxruntime issue 23957.
NEEDS_ATOMICS = {"torch": ("2.4.0", "2.6.0", "2.10.0"), "onnxruntime": ("1.21.0",)}

# Bytes that the packages, their downloads and the drawn data take. x86-64 from PyPI: 7 GB of them are for CUDA.
DISK = {"aarch64": 1.5e9, "x86_64": 9e9}
DISK_FOR_DATA = 0.3e9
# Peaks measured on x86-64 (make bench): 03_Training.py and 04_Parity.py 1.0 GB (2026-11-25).
MEMORY_LEAST = 0.9e9
MEMORY_ENOUGH = 1.5e9
MEMORY_FREE = 1.1e9


def ok(text: str) -> tuple:
    """(status, what was seen, what to do) of a check that found nothing wrong."""
    return "ok", text, ""


def warn(text: str, cure: str) -> tuple:
    """The chain runs, but not as it should, or only just."""
    return "warn", text, cure


def fail(text: str, cure: str) -> tuple:
    """The chain cannot run, or must not be trusted."""
    return "fail", text, cure


def numbers(text: str) -> tuple:
    """'GNU Make 4.3' -> (4, 3); () if there is no version in it."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def same_version(one: str, other: str) -> bool:
    """Does '3.002' say the same as '3.2'?"""
    one, other = (re.sub(r"\d+", lambda part: str(int(part.group())), version) for version in (one, other))
    return one == other


def dotted(version: tuple) -> str:
    return ".".join(str(part) for part in version)


# --- the machine and its system ---------------------------------------------------------------


def check_architecture(machine: str, bits: int) -> tuple:
    """`machine`: as uname -m says; `bits` of a pointer: 32 under a 32-bit system, whatever the processor is."""
    seen = f"{machine}, {bits}-bit userland"
    if bits != 64:
        return fail(
            seen, "install the 64-bit Raspberry Pi OS (or another 64-bit Linux): onnxruntime has no 32-bit wheel"
        )
    if machine not in DISK:
        return fail(seen, "use Linux on aarch64 or x86_64: the pinned packages have no wheels for other processors")
    return ok(seen)


def check_system(system: str, libc: str) -> tuple:
    """`libc`: the C library's name and version, such as "glibc 2.36"; empty if it does not tell."""
    seen = f"{system}, {libc or 'unknown C library'}"
    if system != "Linux":
        return fail(seen, "use Linux; on a Mac or under Windows a 64-bit Linux container or WSL 2 will do")
    if not libc.startswith("glibc "):
        return fail(seen, "use a distribution with glibc, such as Debian or Ubuntu: the wheels do not load with musl")
    if numbers(libc) < OLDEST_GLIBC:
        return fail(seen, f"use a newer system: the wheels need glibc {dotted(OLDEST_GLIBC)} (Debian 10, Ubuntu 20.04)")
    return ok(seen)


def check_processor(machine: str, cpuinfo: str, versions: dict) -> tuple:
    """`cpuinfo`: text of /proc/cpuinfo; `versions`: package -> version that runs here, or will."""
    found = re.search(r"^(?:Features|flags)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if not found:
        return warn("/proc/cpuinfo does not tell its features", "nothing, unless `make` ends in 'Illegal instruction'")
    flags = set(found.group(1).split())
    if machine == "x86_64":
        lacking = [flag for flag in X86_FLAGS if flag not in flags]
        if lacking:
            return fail(
                f"no {', '.join(lacking)}", "use a newer processor (x86-64-v2, since about 2009): numpy needs it"
            )
        return ok("x86-64-v2, as the pinned wheels need")
    if "asimd" not in flags:
        return fail("no asimd (NEON)", "use a processor with NEON, such as a Raspberry Pi 3 or newer")
    if "atomics" in flags:
        return ok("ARMv8.1 or newer (has atomics)")
    trapping = [f"{name} {v}" for name, v in sorted(versions.items()) if v in NEEDS_ATOMICS.get(name, ())]
    if trapping:
        cure = "`make` with the pins of requirements.txt, which run here; in your own: pip install -r requirements.txt"
        return fail(f"ARMv8.0 without atomics, where {' and '.join(trapping)} dies of an illegal instruction", cure)
    return ok("ARMv8.0 without atomics, as a Raspberry Pi 4; the pinned wheels run on it")


def check_memory(meminfo: str) -> tuple:
    """`meminfo`: text of /proc/meminfo."""
    size = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    if "MemTotal" not in size:
        return warn("/proc/meminfo does not tell the memory", "see that 1 GB is free")
    total, free = size["MemTotal"], size.get("MemAvailable", size.get("MemFree", 0))
    seen = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free, {size.get('SwapTotal', 0) / 1e9:.1f} GB swap"
    if total < MEMORY_LEAST:
        return fail(seen, "use a machine with 1 GB or more; the trained ONNX file itself runs on smaller ones")
    if free < MEMORY_FREE:
        return warn(seen, "close other programs (a desktop, a browser) before `make`, or it may be killed; or add swap")
    if total < MEMORY_ENOUGH:
        cure = "have 2 GB of swap, or a step may be killed; with your own pip: TMPDIR on disk and pip --no-cache-dir"
        return warn(seen, cure)
    return ok(seen)


def check_disk(free: int, machine: str, installed: bool) -> tuple:
    """`free`: bytes free in the repository's folder; `installed`: whether the packages are there already."""
    need = DISK_FOR_DATA if installed else DISK.get(machine, DISK["aarch64"])
    seen = (
        f"{free / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed {'for data' if installed else 'for packages and data'}"
    )
    if free >= need:
        return ok(seen)
    cure = "free some space, or clone to another disk"
    if machine == "x86_64" and not installed:
        cure += "; or do without CUDA, 1.5 GB in all: make TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    return fail(seen, cure)


def check_temporary(mounts: str, folder: str, total: int) -> tuple:
    """Is the folder for temporary files in memory? `mounts`: text of /proc/mounts; `total`: bytes of memory."""
    kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines() if len(line.split()) > 2}
    parents = [folder] + [str(parent) for parent in Path(folder).parents]
    kind = next((kinds[parent] for parent in parents if parent in kinds), "unknown")
    if kind in ("tmpfs", "ramfs") and total < 4e9:
        cure = "`make` goes around it; for your own pip: mkdir -p ~/tmp; TMPDIR=~/tmp pip install --no-cache-dir ..."
        return warn(f"{folder} is in memory ({kind}): pip would fill it", cure)
    return ok(f"{folder} ({kind})")


# --- tools and packages ---------------------------------------------------------------------------


def check_python(version: tuple) -> tuple:
    """`version`: as sys.version_info begins."""
    seen = dotted(tuple(version[:3]))
    if tuple(version[:2]) < OLDEST_PYTHON:
        cure = "use a newer system (Raspberry Pi OS bookworm, Ubuntu 24.04); or with a Python 3.11 of your own: "
        cure += "python3.11 -m venv .venv; .venv/bin/pip install -r requirements.txt; make PYTHON=.venv/bin/python"
        return fail(f"{seen}, too old", cure)
    if tuple(version[:2]) > NEWEST_PYTHON:
        return warn(
            f"{seen}, newer than the pinned wheels", f"if pip finds no wheel: Python {dotted(NEWEST_PYTHON)} or older"
        )
    return ok(seen)


def check_venv(venv: bool, ensurepip: bool, needed: bool) -> tuple:
    """Can `python3 -m venv` work? Which modules are there; `needed`: the packages are still to be installed."""
    if not needed:
        return ok("not needed, the packages are there")
    if venv and ensurepip:
        return ok("venv and pip are there")
    return fail(
        "venv or pip is missing", "sudo apt install python3-venv python3-pip; or use your own Python: make VENV="
    )


def check_make(told: str) -> tuple:
    """`told`: what `make --version` prints, empty if there is none."""
    version = numbers(told)
    if "GNU Make" not in told or not version:
        return fail("GNU Make is missing", "sudo apt install make; on a BSD or Mac: gmake")
    if version < OLDEST_MAKE:
        return fail(
            f"GNU Make {dotted(version)}", f"install GNU Make {dotted(OLDEST_MAKE)} or newer (Debian 11, Ubuntu 22.04)"
        )
    return ok(f"GNU Make {dotted(version)}")


def check_packages(pins: dict, installed: dict, expected: bool) -> tuple:
    """Are the pinned versions there? canonical name -> version both; not `expected`: `make` has still to install."""
    there = {name: installed[name].partition("+")[0] for name in pins if name in installed}
    if not expected:
        return ok("not installed yet: `make` does it, in a virtual environment of its own")
    missing = sorted(set(pins) - set(there))
    other = sorted(
        f"{name} {version} (pinned: {pins[name]})"
        for name, version in there.items()
        if not same_version(version, pins[name])
    )
    if missing:
        return fail(
            f"missing: {', '.join(missing)}",
            "the Makefile's own environment: rm -rf .venv; make; yours: pip install -r requirements.txt",
        )
    if other:
        return warn(", ".join(other), "pip install -r requirements.txt; or keep them, and let `make parity` judge")
    return ok(f"all {len(pins)} at the pinned versions")


def check_cuda(machine: str, installed: dict) -> tuple:
    """Packages for NVIDIA GPUs, which a Raspberry Pi or Graviton has no use for."""
    found = sorted(name for name in installed if re.match(r"nvidia-|cuda-|triton$", name))
    if not found:
        return ok("none")
    seen = f"{len(found)} packages for NVIDIA GPUs, such as {found[0]}"
    if machine == "aarch64":
        cure = "rm -rf .venv; make (torch 2.9.1 brings none here; from 2.11.0 on PyPI's wheels bring gigabytes of them)"
        return warn(seen, cure)
    cpu = "rm -rf .venv; make TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    return ok(f"{seen}: PyPI's torch brings them on x86-64, unused; without: {cpu}")


# --- settings and files ---------------------------------------------------------------------------


def check_threads(cores: int, environment: dict) -> tuple:
    """More threads than cores cost more than they give; training takes four at most. `cores`: usable by us."""
    told = environment.get("OMP_NUM_THREADS", "")
    seen = f"{cores} cores, OMP_NUM_THREADS {told or 'not set'}"
    if told and not told.isdigit():
        return warn(seen, "unset OMP_NUM_THREADS, or set it to a number")
    if told and int(told) > cores:
        return warn(seen, f"unset OMP_NUM_THREADS: more threads than cores wait for each other (make THREADS={cores})")
    return ok(seen)


def check_fast_math(environment: dict) -> tuple:
    """bfloat16 in the place of float32, on by default in some of AWS's containers, breaks a parity of 1e-5."""
    names = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
    found = [f"{name}={environment[name]}" for name in names if environment.get(name, "STRICT").upper() != "STRICT"]
    if found:
        return warn(", ".join(found), f"unset {found[0].partition('=')[0]} before `make parity`: it rounds to 8 bits")
    return ok("off")


def fields(message: bytes) -> list:
    """The fields of a protobuf message: (number, value), value an int or bytes. Raises ValueError if it is none."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    try:
        while at < len(message):
            number, kind = divmod(varint(), 8)
            if kind == 0:
                found.append((number, varint()))
            elif kind in (1, 2, 5):
                size = {1: 8, 5: 4}.get(kind) or 0
                size = varint() if kind == 2 else size
                found.append((number, message[at : at + size]))
                at += size
            else:
                raise ValueError(f"wire type {kind}")
    except IndexError as error:
        raise ValueError("ends too early") from error
    if at != len(message):
        raise ValueError("ends too early")
    return found


def batch_of(model: bytes) -> object:
    """Batch size that an ONNX file's first input declares: a number, or the name of a free dimension, or None.

    Path by onnx.proto's field numbers: graph 7, input 11, type 2, tensor_type 1, shape 2, dim 1; dim_value 1,
    dim_param 2. Raises ValueError if `model` is not such a file.
    """
    message = model
    for number in (7, 11, 2, 1, 2, 1):
        message = next((value for found, value in fields(message) if found == number), None)
        if not isinstance(message, bytes):
            raise ValueError("no input with a shape")
    dimension = dict(fields(message))
    return dimension[1] if 1 in dimension else dimension.get(2, b"").decode() or None


def check_onnx(path: Path) -> tuple:
    """The exported file, if there is one: whole in itself, and its batch free."""
    beside = path.with_name(path.name + ".data")
    if not path.exists():
        if beside.exists():
            return warn(f"{beside} without its model", f"rm {beside}; make export")
        return ok(f"{path}: not made yet")
    model = path.read_bytes()
    try:
        batch = batch_of(model)
    except ValueError as error:
        return fail(f"{path} is no ONNX file ({error})", f"rm {path}; make export")
    if b".onnx.data" in model:
        cure = f"rm {path}; make export: it writes one file (external_data=False)"
        return fail(f"{path} keeps its weights in a second file, .onnx.data, and is nothing without it", cure)
    if isinstance(batch, int):
        return fail(f"{path} takes batches of {batch} only", f"rm {path}; make export: it leaves the batch free")
    if beside.exists():
        return warn(f"{beside}: a leftover, the model does without it", f"rm {beside}")
    return ok(f"{path}: one file, free batch")


# --- gathering --------------------------------------------------------------------------------------


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


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict:
    """Canonical name -> version of the lines name==version of a requirements file."""
    return {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.+!]+)", text, re.MULTILINE)}


def installed_packages() -> dict:
    """Canonical name -> version of what this interpreter can import."""
    found = metadata.distributions() if metadata else []
    return {canonical(dist.metadata["Name"]): dist.version for dist in found if dist.metadata["Name"]}


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
