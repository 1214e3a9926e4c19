#!/usr/bin/env python3
"""What the pinned packages are on a Raspberry Pi or Graviton, seen from an x86-64 machine with Debian's tools.

  tools/arm_check.py resolve           which wheels each Python gets on aarch64; any CUDA among them?
  tools/arm_check.py emulate           unpacks them and runs import and the Makefile's steps on emulated processors
  tools/arm_check.py emulate --cpu cortex-a72 --profile photo --suite bookworm
  tools/arm_check.py emulate --requirements requirements-inference.txt --steps golden --onnx FILE --golden FILE

`resolve` needs pip and packaging. `emulate` needs apt-get and dpkg of a Debian machine besides; everything is
unpacked into the folder --work, nothing is installed. Emulation shows whether instructions exist, not their speed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from arm_machine import ARMV8_0, CPUS, SUITES, find_qemu, output_of, unpack_python, write_python
from arm_wheels import gpu_reasons, read_requirements, resolve, unpack_wheels
from packaging.requirements import Requirement

from digitnet_cli import UserError, argument_parser, run_script

# Enough for every step to run, little enough for an emulator.
TINY = ("TRAIN=4", "VAL=2", "EPOCHS=1", "BATCH=64", "THREADS=1")
STEPS = ("import", "data", "train", "export", "parity", "evaluate")
PASS, TRAP = "pass", "ILLEGAL INSTRUCTION"


def command_resolve(args: argparse.Namespace) -> int:
    """Prints the wheels of every requirements file for every Python; 1 if one has none, or has CUDA packages."""
    failed = False
    for file in args.requirements:
        requirements = read_requirements(file, args.pin)
        for python in args.python:
            try:
                chosen = resolve(requirements, python, args.work)
            except UserError as error:
                print(f"{file.name}, Python {python}: FAIL: {error}")
                failed = True
                continue
            reasons = gpu_reasons(chosen)
            failed |= bool(reasons)
            print(f"{file.name}, Python {python}: {len(chosen)} wheels, {len(reasons)} of them for an NVIDIA GPU")
            print("  " + " ".join(f"{name}=={data['version']}" for name, data in sorted(chosen.items())))
            for reason in reasons:
                print(f"  FAIL {reason}")
    return int(failed)


def run_step(command: list, log: Path) -> str:
    """Runs a command in the repository, output to `log`; returns what to say of it in a table: PASS, TRAP or FAIL."""
    start = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run([str(x) for x in command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    lines = log.read_text(errors="replace").strip().splitlines()
    trap = any("Illegal instruction" in line for line in lines) or code in (-4, 132)
    said = PASS if code == 0 else TRAP if trap else f"FAIL, exit code {code}"
    print(f"  {log.stem}: {said} ({time.monotonic() - start:.0f} s) {lines[-1][:150] if lines else ''}", flush=True)
    return said


def copy_boards(folder: Path, count: int = 2) -> Path:
    """The first real boards of the repository, in a folder of their own: all of them would take hours."""
    real = ROOT / "data" / "real"
    lines = (real / "labels.csv").read_text().splitlines()[: 1 + count]
    (folder / "boards").mkdir(parents=True)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        shutil.copy(real / "boards" / f"{line.partition(',')[0]}.jpg", folder / "boards")
    return folder


def emulate_cpu(cpu: str, python: Path, folder: Path, args: argparse.Namespace) -> list[str]:
    """Runs the control and the steps with an emulated Python, up to the first that fails; what each came to.

    The steps leave their files and logs in `folder`, which is emptied before.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    below = os.path.relpath(folder, ROOT)  # make runs there, and a path in the repository has no blanks then
    settings = [f"PYTHON={os.path.relpath(python, ROOT)}", f"PROFILE={args.profile}", f"DATA={below}/data"]
    settings += [f"OUT={below}/out", f"REAL={os.path.relpath(copy_boards(folder / 'real'), ROOT)}", *TINY]
    # Without --report it would overwrite the report of the machine that exported the file.
    porter = ["--onnx", args.onnx, "--golden", args.golden, "--report", folder / "golden.json"]
    scripts = {
        "control": [ROOT / "tools" / "arm_control.py"],
        "import": [ROOT / "tools" / "arm_import.py"],
        "golden": [ROOT / "04_Parity.py", *porter],
    }
    told = []
    for step in ("control", *args.steps):
        command = [python, *scripts[step]] if step in scripts else ["make", *settings, step]
        told.append(run_step(command, folder / f"{step}.log"))
        if told[-1] != (TRAP if step == "control" and cpu in ARMV8_0 else PASS):
            print(f"  FAIL: see {folder / step}.log")
            break
    return told


def command_emulate(args: argparse.Namespace) -> int:
    """Runs the steps on every emulated processor and prints a table of them; 1 if one fails."""
    python = SUITES[args.suite]
    qemu = find_qemu(args.work)
    print(output_of(qemu, "--version").splitlines()[0])
    sysroot = unpack_python(args.suite, args.work)
    wheels = args.work / f"wheels-{args.requirements[0].stem}-{python}"
    unpack_wheels(read_requirements(args.requirements[0], args.pin), python, wheels)
    table = []
    for cpu in args.cpu:
        print(f"{cpu}, Python {python}, {args.profile}", flush=True)
        emulated = write_python(cpu, python, qemu, sysroot, wheels, args.work)
        table.append([cpu, *emulate_cpu(cpu, emulated, args.work / f"{cpu}-{python}-{args.profile}", args)])
    heads = ["CPU", "LSE control", *args.steps]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in table:
        control = {TRAP: "traps", PASS: "runs"}.get(row[1], row[1])
        print(f"| {' | '.join([row[0], control, *row[2:], *['not run'] * (len(heads) - len(row))])} |")
    return int(any(len(row) < len(heads) or row[-1] != PASS for row in table))


def main() -> int:
    """Reads the options; returns the exit code."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("what", choices=["resolve", "emulate"])
    add("--work", type=Path, default=ROOT / "build" / "emu", metavar="DIR", help="folder for all that is fetched")
    add(
        "--requirements",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="both of the repository if none is given; emulate takes the first",
    )
    add("--pin", type=Requirement, action="append", default=[], metavar="NAME==VERSION", help="in the place of a pin")
    add("--python", nargs="+", default=["3.11", "3.12", "3.13", "3.14"], metavar="X.Y", help="for resolve")
    add("--suite", choices=SUITES, default="bookworm", help="for emulate: bookworm has Python 3.11, trixie 3.13")
    add("--cpu", nargs="+", default=CPUS, metavar="NAME", help="as qemu-aarch64 -cpu names them")
    add("--profile", choices=["tutorial", "photo"], default="tutorial")
    add("--steps", nargs="+", default=STEPS, metavar="STEP", help="import, golden, and targets of the Makefile")
    add("--onnx", type=Path, metavar="FILE", help="the exported model, for a last step: golden")
    add("--golden", type=Path, metavar="FILE", help="the golden vectors that belong to it")
    args = parser.parse_args()
    if (args.onnx or args.golden) and "golden" not in args.steps:
        args.steps = [*args.steps, "golden"]
    if "golden" in args.steps and not (args.onnx and args.golden):
        parser.error("the step golden needs --onnx and --golden: `make golden` writes both files")
    args.onnx, args.golden = (path and path.resolve() for path in (args.onnx, args.golden))
    args.work = args.work.resolve()
    if any(letter.isspace() for letter in os.path.relpath(args.work, ROOT)):
        parser.error("--work: make takes no folder whose name has blanks")
    if not args.requirements:
        args.requirements = [ROOT / "requirements.txt", ROOT / "requirements-inference.txt"]
    args.work.mkdir(parents=True, exist_ok=True)
    return command_resolve(args) if args.what == "resolve" else command_emulate(args)


if __name__ == "__main__":
    run_script(main)
