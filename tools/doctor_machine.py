"""What `make doctor` says of the machine, its system and its settings."""

import re
from pathlib import Path

from doctor_status import dotted, fail, numbers, ok, warn

# What requirements.txt's pins need: glibc 2.28; numpy's x86-64 wheels want x86-64-v2.
OLDEST_GLIBC = (2, 28)
X86_FLAGS = ("cx16", "popcnt", "ssse3", "sse4_1", "sse4_2")

# Wheels for aarch64 that run ARMv8.1's atomics without asking, and so die of an illegal instruction on a Raspberry
# Pi 4: pytorch issues 132032, 146792, 174344; onnxruntime issue 23957.
NEEDS_ATOMICS = {"torch": ("2.4.0", "2.6.0", "2.10.0"), "onnxruntime": ("1.21.0",)}

# Bytes that `make` takes at its peak, which is when pip ends: until then it keeps all wheels, in .venv. With PyPI's
# torch, x86-64: 4.1 GB of wheels beside the environment of 7.7 GB, most of both for CUDA; aarch64: 0.24 beside 1.08 GB.
DISK = {"aarch64": 1.5e9, "x86_64": 12e9}
# x86-64 without CUDA: about 0.35 GB of wheels beside 1.4 GB (reckoned: that environment less its CUDA libraries).
DISK_WITHOUT_CUDA = 2e9
DISK_FOR_DATA = 0.3e9
# Bytes of memory. Peaks measured on x86-64 (make bench): 03_Training.py and 04_Parity.py 1.0 GB (2026-11-25).
MEMORY_LEAST = 0.9e9
MEMORY_FREE = 1.1e9
# With less memory than this the system itself has to make room for a step; so much it needs then with its swap.
MEMORY_ENOUGH = 1.5e9
MEMORY_AND_SWAP = 2e9

# oneDNN, with which PyTorch computes, goes by either name from float32 to bfloat16.
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


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
    total, swap, free = size["MemTotal"], size.get("SwapTotal", 0), size.get("MemAvailable", size.get("MemFree", 0))
    seen = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free, {swap / 1e9:.1f} GB swap"
    if total < MEMORY_LEAST:
        return fail(seen, "use a machine with 1 GB or more; the trained ONNX file itself runs on smaller ones")
    if total < MEMORY_ENOUGH:  # whatever is free now, a step drives the rest into the swap
        if total + swap < MEMORY_AND_SWAP:
            cure = "have 2 GB of swap, or a step may be killed; with your own pip: TMPDIR on disk, pip --no-cache-dir"
            return warn(seen, cure)
        return ok(f"{seen}: enough with the swap, if not fast")
    if free + size.get("SwapFree", 0) < MEMORY_FREE:
        return warn(seen, "close other programs (a desktop, a browser) before `make`, or it may be killed; or add swap")
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
        cure += f"; or do without CUDA, {DISK_WITHOUT_CUDA / 1e9:.0f} GB in all: make TORCH_INDEX=https://download.pytorch.org/whl/cpu"
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
    found = [name for name in FAST_MATH if environment.get(name, "STRICT").upper() != "STRICT"]
    if found:
        seen = ", ".join(f"{name}={environment[name]}" for name in found)
        return warn(seen, f"unset {' '.join(found)} before `make parity`: it rounds to 8 bits")
    return ok("off")
