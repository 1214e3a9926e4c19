#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check the pinned packages for a Raspberry Pi or Graviton on an x86-64 machine with Debian's tools.

  tools/arm_check.py resolve     list the wheels of each Python on aarch64; fail if one is for an NVIDIA GPU
  tools/arm_check.py emulate     run the import step and the Makefile's steps on emulated processors
  tools/arm_check.py emulate --requirements requirements-inference.txt --steps golden

`resolve` needs uv (requirements-dev.txt); `emulate` needs apt-get and dpkg, too. Everything is unpacked into the folder
--work; nothing is installed. Emulation shows that the instructions exist, not how fast they are.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = str(ROOT), str(ROOT / "tools")
from doctor import GPU_NAME

from digitnet_cli import UserError, argument_parser, run_script, start_script

# Settings. Wheels for glibc 2.28 and older, as `make doctor` requires it.
PLATFORM, PYTHONS = "aarch64-manylinux_2_28", ("3.11", "3.12", "3.13", "3.14")
SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # Debian releases with their Python, as in Raspberry Pi OS
CPUS = ("cortex-a72", "cortex-a76", "neoverse-n1")  # Raspberry Pi 4, Raspberry Pi 5, Graviton2
ARMV8_0 = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72")  # of qemu-aarch64 10.0; they lack LSE atomics
# Enough for every step to run, little enough for an emulator. No real boards: they would take hours.
TINY = ("TRAIN=4", "VAL=2", "EPOCHS=1", "BATCH=64", "THREADS=1", "REAL=")
STEPS = ("import", "data", "train", "export", "parity", "evaluate")
PASS, TRAP = "pass", "ILLEGAL INSTRUCTION"


def output_of(*command: object) -> str:
    """Run a command and return what it prints. Raises UserError with its errors if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(map(str, command[:4]))} ... failed: {' '.join(done.stderr.split())[-600:]}")
    return done.stdout


def uv_pip(command: str, python: str, args: argparse.Namespace, *options: object) -> str:
    """Run `uv pip` for CPython `python` ("3.11") on aarch64; the versions of --pin replace all others."""
    pins = args.work / "pins.txt"
    pins.write_text("".join(f"{pin}\n" for pin in args.pin))
    target = ["--python-platform", PLATFORM, "--python-version", python, "--only-binary", ":all:", "--overrides", pins]
    quiet = ["--quiet", "--no-python-downloads", "--cache-dir", args.work / "uv"]
    return output_of(sys.executable, "-m", "uv", "pip", command, *quiet, *target, *options)


def resolve(file: Path, python: str, args: argparse.Namespace) -> bool:
    """Print the wheels of a requirements file; return whether all are found and none is for an NVIDIA GPU."""
    try:
        pins = uv_pip("compile", python, args, "--no-header", "--no-annotate", file).split()
    except UserError as error:
        print(f"{file.name}, Python {python}: FAIL: {error}")
        return False
    gpu = [pin for pin in pins if GPU_NAME.match(pin.partition("=")[0])]
    print(f"{file.name}, Python {python}: {len(pins)} wheels, {len(gpu)} of them for an NVIDIA GPU")
    print(f"  {' '.join(pins)}" + (f"\n  FAIL: for an NVIDIA GPU: {' '.join(gpu)}" if gpu else ""), flush=True)
    return not gpu


def unpack_debs(folder: Path, work: Path, architecture: str, suite: str, *packages: str) -> None:
    """Unpack Debian packages with their dependencies into `folder`, unless it exists.

    apt-get downloads them from the machine's own mirror and keeps its state in `work`. Raises UserError if that fails.
    """
    if folder.exists():
        return
    state, new = work / f"apt-{suite}-{architecture}", folder.with_name(f".{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    archives = state / "var/cache/apt/archives"
    for part in (new, state / "etc/apt/preferences.d", state / "var/lib/apt/lists/partial", archives / "partial"):
        part.mkdir(parents=True, exist_ok=True)
    listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Component: main"]
    mirrors = [mirror for mirror in output_of(*listing).split() if mirror.rstrip("/").endswith("/debian")]
    if not mirrors:
        raise UserError("apt-get lists no Debian mirror: run `emulate` on a Debian machine")
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (state / "etc/apt/sources.list").write_text(f"deb [signed-by={key}] {mirrors[0]} {suite} main\n")
    (state / "status").touch()
    where = [f"-oDir={state}", f"-oDir::State::status={state}/status", "-oAPT::Sandbox::User=root"]
    what = [f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}", "--no-install-recommends"]
    apt = ["apt-get", *where, *what, "-qq", "--yes", "--download-only"]
    output_of(*apt, "update")
    output_of(*apt, "install", *packages)
    for deb in sorted(archives.glob("*.deb")):
        output_of("dpkg", "-x", deb, new)
    if not (new / "lib").exists():  # trixie's packages have everything under usr
        (new / "lib").symlink_to("usr/lib")
    new.rename(folder)


def find_qemu(work: Path) -> str:
    """Return the machine's qemu-aarch64, or else Debian's, unpacked into `work`."""
    if own := shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static"):
        return own
    unpack_debs(work / "qemu", work, output_of("dpkg", "--print-architecture").strip(), "trixie", "qemu-user")
    return str(work / "qemu/usr/bin/qemu-aarch64")


def write_python(cpu: str, python: str, qemu: str, wheels: Path, work: Path) -> Path:
    """Write a script that runs Python on the emulated processor, for the Makefile's PYTHON=; return its path."""
    file, sysroot = work / f"python-{python}-{cpu}", work / f"sysroot-{python}"
    settings = {"PYTHONPATH": wheels, "PYTHONPYCACHEPREFIX": work / f"pycache-{python}", "OMP_NUM_THREADS": 1}
    exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in settings.items())
    command = [qemu, "-cpu", cpu, "-L", str(sysroot), f"{sysroot}/usr/bin/python{python}", "-X", "faulthandler"]
    file.write_text(f'#!/bin/sh\nexport {exports}\nexec {shlex.join(command)} "$@"\n')
    file.chmod(0o755)
    return file


def run_step(command: list, log: Path) -> str:
    """Run a command in the repository with its output in `log`; return PASS, TRAP or "FAIL, exit code N"."""
    start = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run([str(x) for x in command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    lines = log.read_text(errors="replace").strip().splitlines()
    trap = any("Illegal instruction" in line for line in lines) or code in (-4, 132)
    result = PASS if code == 0 else TRAP if trap else f"FAIL, exit code {code}"
    print(f"  {log.stem}: {result} ({time.monotonic() - start:.0f} s) {lines[-1][:150] if lines else ''}", flush=True)
    return result


def emulate_cpu(cpu: str, python: Path, folder: Path, args: argparse.Namespace) -> list[str]:
    """Empty `folder`, run the control and the steps there, up to the first that fails; return their results."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    below = os.path.relpath(folder, ROOT)  # make runs there, and a path in the repository has no spaces then
    make = ["make", f"PYTHON={os.path.relpath(python, ROOT)}", f"PROFILE={args.profile}", f"DATA={below}/data"]
    make += [f"OUT={below}/out", f"REAL={below}", *TINY]  # no real boards are there: they would take hours
    commands = {
        "control": ["tools/arm_control.py"],
        "import": ["tools/arm_import.py"],
        "golden": ["04_Parity.py", "--onnx", args.onnx, "--golden", args.golden, "--report", folder / "golden.json"],
    }
    results = []
    for step in ("control", *args.steps):
        script = [python, *commands[step]] if step in commands else [*make, step]
        results.append(run_step(script, folder / f"{step}.log"))
        if results[-1] != (TRAP if step == "control" and cpu in ARMV8_0 else PASS):
            print(f"  FAIL: see {folder / step}.log")
            break
    return results


def emulate(args: argparse.Namespace) -> bool:
    """Run the steps on every emulated processor and print a table; return whether all pass."""
    python, file = SUITES[args.suite], args.requirements[0]
    wheels = args.work / f"wheels-{file.stem}-{python}"
    if not resolve(file, python, args):
        return False
    uv_pip("install", python, args, "--target", wheels, "--requirements", file)
    packages = [f"python{python}", f"libpython{python}", "libstdc++6", "libgomp1", "libgcc-s1"]
    unpack_debs(args.work / f"sysroot-{python}", args.work, "arm64", args.suite, *packages)
    qemu = find_qemu(args.work)
    print(output_of(qemu, "--version").splitlines()[0])
    heads, table = ["CPU", "LSE control", *args.steps], []
    for cpu in args.cpu:
        print(f"{cpu}, Python {python}, {args.profile}", flush=True)
        emulated = write_python(cpu, python, qemu, wheels, args.work)
        table.append([cpu, *emulate_cpu(cpu, emulated, args.work / f"{cpu}-{python}-{args.profile}", args)])
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for cpu, control, *results in table:
        row = [cpu, {TRAP: "traps", PASS: "runs"}.get(control, control), *results]
        print(f"| {' | '.join(row + ['not run'] * (len(heads) - len(row)))} |")
    return all(len(row) == len(heads) and row[-1] == PASS for row in table)


def parse_args() -> argparse.Namespace:
    """Read the command line, make its paths absolute, and create the folder --work."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    files, out = [ROOT / "requirements.txt", ROOT / "requirements-inference.txt"], ROOT / "artifacts"
    add("what", choices=["resolve", "emulate"])
    add("--work", type=Path, default=ROOT / "build/emu", metavar="DIR", help="folder for everything downloaded")
    add("--requirements", type=Path, nargs="+", default=files, metavar="FILE", help="`emulate` takes the first")
    add("--pin", action="append", default=[], metavar="NAME==VERSION", help="replaces the version of a package")
    add("--python", nargs="+", default=PYTHONS, metavar="X.Y", help="for `resolve`")
    add("--suite", choices=SUITES, default="bookworm", help="for `emulate`: bookworm has Python 3.11, trixie 3.13")
    add("--cpu", nargs="+", default=CPUS, metavar="NAME", help="names of qemu-aarch64 -cpu")
    add("--profile", choices=["tutorial", "photo"], default="tutorial")
    add("--steps", nargs="+", default=STEPS, metavar="STEP", help="import, golden, and targets of the Makefile")
    add("--onnx", type=Path, default=out / "sudoku_digitnet.onnx", metavar="FILE", help="for step golden")
    add("--golden", type=Path, default=out / "golden.npz", metavar="FILE", help="for step golden")
    args = parser.parse_args()
    args.work, args.onnx, args.golden = args.work.resolve(), args.onnx.resolve(), args.golden.resolve()
    if any(letter.isspace() for letter in os.path.relpath(args.work, ROOT)):
        parser.error("--work: make cannot use a folder with a space in its name")
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def main(args: argparse.Namespace) -> None:
    """Run the check. Raises UserError if it fails."""
    pairs = [(file, python) for file in args.requirements for python in args.python]
    if not (emulate(args) if args.what == "emulate" else all([resolve(*pair, args) for pair in pairs])):
        raise UserError(f"{args.what} failed: see above")


if __name__ == "__main__":
    start_script()
    run_script(main, parse_args())
