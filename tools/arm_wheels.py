"""Which wheels an aarch64 machine gets for a requirements file, whether any is made for CUDA, and unpacking them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from doctor_packages import GPU_NAME
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from digitnet_cli import UserError

# Wheel tags for glibc 2.28 and older on aarch64 (Raspberry Pi OS bookworm has 2.36).
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
# Made for a GPU, by what a package's metadata say of it.
GPU_TEXT = re.compile(r"\b(cuda|nvidia)\b", re.IGNORECASE)
# Shared libraries of CUDA, as a wheel would carry them.
GPU_FILE = re.compile(r"lib(cuda|cudart|cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|torch_cuda)[^/]*\.so")


def read_requirements(path: Path, pins: list[Requirement]) -> list[Requirement]:
    """The lines of a requirements file, comments and options dropped, with `pins` in the place of lines for the same
    package or after them. Raises UserError for a line that is no requirement.
    """
    lines = [line.partition(" #")[0].strip() for line in path.read_text().splitlines()]
    try:
        wanted = [*(Requirement(line) for line in lines if line and line[0] not in "#-"), *pins]
    except ValueError as error:
        raise UserError(f"{path} has a line that is no requirement: {' '.join(str(error).split())}") from None
    return list({canonicalize_name(requirement.name): requirement for requirement in wanted}.values())


def pip_target(python: str) -> list[str]:
    """pip's options for wheels of CPython `python` ("3.11") on aarch64, without dependencies.

    Dependencies are followed by `resolve`: pip itself would evaluate markers such as
    platform_machine == "x86_64" with the machine it runs on, and so list x86-64's CUDA packages.
    """
    platforms = [option for tag in TAGS for option in ("--platform", f"{tag}_aarch64")]
    abis = [option for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for option in ("--abi", abi)]
    return ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms, *abis]


def pip_install(python: str, requirements: list[str], *options: str) -> subprocess.CompletedProcess:
    """Runs this interpreter's pip for wheels of `python` on aarch64; never raises, its output is in the result."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    return subprocess.run([*command, *pip_target(python), *options, *requirements], capture_output=True, text=True)


def pip_errors(done: subprocess.CompletedProcess) -> str:
    """What pip ended with, without its warnings."""
    return " ".join(line for line in done.stderr.splitlines() if not line.startswith("WARNING")) or done.stderr


def environment(python: str) -> dict[str, str]:
    """PEP 508 markers of 64-bit Linux on Arm with CPython `python`."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def resolve(requirements: list[Requirement], python: str, work: Path) -> dict[str, dict]:
    """Follows dependencies to the end; canonical name -> metadata of the chosen wheel, from pip's report.

    Takes the newest wheel that all requirements known so far allow, and at the end checks every
    requirement against what was taken. Raises UserError if pip finds no wheel or two requirements collide.
    """
    wanted: dict[str, list[Requirement]] = {}
    chosen: dict[str, dict] = {}
    todo = requirements
    while todo:
        for requirement in todo:
            wanted.setdefault(canonicalize_name(requirement.name), []).append(requirement)
        names = sorted({canonicalize_name(r.name) for r in todo} - chosen.keys())
        for name in filter(GPU_NAME.match, names):  # a finding already: not followed further
            chosen[name] = {"name": name, "version": str(wanted[name][0].specifier), "requires_dist": []}
        names = [name for name in names if name not in chosen]
        todo = []
        if not names:
            break
        lines = [f"{name}{','.join(filter(None, (str(r.specifier) for r in wanted[name])))}" for name in names]
        report = work / f"pip-report-{os.getpid()}.json"
        done = pip_install(python, lines, "--dry-run", "--ignore-installed", "--target=.", f"--report={report}")
        if done.returncode:
            raise UserError(f"no wheels for Python {python} on aarch64: {pip_errors(done)}")
        items = json.loads(report.read_text())["install"]
        report.unlink()
        for item in items:
            data = item["metadata"] | {"wheel": item["download_info"]["url"].rsplit("/", 1)[-1]}
            chosen[canonicalize_name(data["name"])] = data
            extras = {"", *(extra for r in wanted[canonicalize_name(data["name"])] for extra in r.extras)}
            markers = [environment(python) | {"extra": extra} for extra in extras]
            needs = map(Requirement, data.get("requires_dist", []))
            todo += [r for r in needs if not r.marker or any(map(r.marker.evaluate, markers))]
    for name, asked in wanted.items():
        for requirement in asked:
            version = chosen[name]["version"]
            if "wheel" in chosen[name] and not requirement.specifier.contains(version, prereleases=True):
                raise UserError(f"{requirement} collides with {name} {version}")
    return chosen


def gpu_reasons(chosen: dict[str, dict]) -> list[str]:
    """Packages of a resolved set that are made for an NVIDIA GPU, each with what says so; empty if none."""
    reasons = []
    for name, data in sorted(chosen.items()):
        told = [data.get("summary", ""), *data.get("keywords", []), *data.get("classifier", [])]
        said = [text for text in told if GPU_TEXT.search(text)]
        if GPU_NAME.match(name):
            reasons.append(f"{name} {data['version']}: by its name")
        elif said:
            reasons.append(f"{name} {data['version']}: {said[0]}")
    return reasons


def gpu_files(folder: Path) -> list[str]:
    """CUDA libraries among the files of the unpacked wheels, from their RECORDs."""
    records = folder.glob("*.dist-info/RECORD")
    files = [line.split(",")[0] for record in records for line in record.read_text().splitlines()]
    return sorted(file for file in files if GPU_FILE.search(file))


def unpack_wheels(requirements: list[Requirement], python: str, folder: Path) -> None:
    """Resolves the requirements and unpacks their wheels into `folder`, which is then fit for PYTHONPATH.

    What an earlier call unpacked there stays if it is the same. Raises UserError as `resolve`, if pip fails, and if
    there is CUDA in the wheels.
    """
    chosen = resolve(requirements, python, folder.parent)
    pins = sorted(f"{name}=={data['version']}" for name, data in chosen.items())
    listing = folder.with_name(f"{folder.name}.txt")
    if not listing.exists() or listing.read_text() != "\n".join(pins):
        listing.unlink(missing_ok=True)  # it is written last: then the folder is whole
        shutil.rmtree(folder, ignore_errors=True)
        done = pip_install(python, pins, f"--target={folder}")
        if done.returncode:
            raise UserError(f"pip could not unpack the wheels: {pip_errors(done)}")
        listing.write_text("\n".join(pins))
    reasons = gpu_reasons(chosen) + gpu_files(folder)
    if reasons:
        raise UserError(f"CUDA in the wheels for Python {python}: {'; '.join(reasons)}")
    size = sum(file.lstat().st_size for file in folder.rglob("*")) / 1e6
    print(f"Python {python}: {len(pins)} wheels, {size:.0f} MB unpacked, no CUDA")
