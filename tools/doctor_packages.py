"""What `make doctor` says of Python, GNU Make and the packages."""

import re

from doctor_status import dotted, fail, numbers, ok, warn

try:
    from importlib import metadata
except ImportError:  # before Python 3.8
    metadata = None

# There are wheels of requirements.txt's pins for these. GNU Make 4.3 is the one on Raspberry Pi OS bookworm.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
OLDEST_MAKE = (4, 3)
# Packages made for NVIDIA GPUs, by their canonical names.
GPU_NAME = re.compile(r"(nvidia-|cuda-|cupy|pytorch-triton|triton$)")


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
    found = sorted(name for name in installed if GPU_NAME.match(name))
    if not found:
        return ok("none")
    seen = f"{len(found)} packages for NVIDIA GPUs, such as {found[0]}"
    if machine == "aarch64":
        cure = "rm -rf .venv; make (torch 2.9.1 brings none here; from 2.11.0 on PyPI's wheels bring gigabytes of them)"
        return warn(seen, cure)
    cpu = "rm -rf .venv; make TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    return ok(f"{seen}: PyPI's torch brings them on x86-64, unused; without: {cpu}")


def canonical(name: str) -> str:
    """A package's name as pip compares it: 'A_b.c' -> 'a-b-c'."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict:
    """Canonical name -> version of the lines name==version of a requirements file."""
    return {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.+!]+)", text, re.MULTILINE)}


def installed_packages() -> dict:
    """Canonical name -> version of what this interpreter can import."""
    found = metadata.distributions() if metadata else []
    return {canonical(dist.metadata["Name"]): dist.version for dist in found if dist.metadata["Name"]}


def same_version(one: str, other: str) -> bool:
    """Does '3.002' say the same as '3.2'?"""
    one, other = (re.sub(r"\d+", lambda part: str(int(part.group())), version) for version in (one, other))
    return one == other
