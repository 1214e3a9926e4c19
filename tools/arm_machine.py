"""An aarch64 machine in a folder: Debian's Python for it, and the emulator that runs it as a given processor."""

import shlex
import shutil
import subprocess
from pathlib import Path

from digitnet_cli import UserError

# Debian releases and their Python; Raspberry Pi OS has the same ones.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
# The readers' machines: Raspberry Pi 4, Raspberry Pi 5, Graviton2.
CPUS = ("cortex-a72", "cortex-a76", "neoverse-n1")
# The processors of qemu-aarch64 10.0 that are ARMv8.0, and so have none of ARMv8.1's atomics.
ARMV8_0 = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72")


def output_of(*command: object) -> str:
    """Runs a command and returns what it prints; its errors go to stderr as they are. Raises UserError if it fails."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{command[0]} ended with exit code {done.returncode}: what it said stands above")
    return done.stdout


def apt(work: Path, architecture: str, suite: str, *command: str) -> None:
    """apt-get with its state in `work`, for another architecture or release, from the machine's own mirror.

    Raises UserError if the machine has no Debian mirror, or apt-get fails.
    """
    state = work / f"apt-{suite}-{architecture}"
    if not state.exists():
        listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Component: main"]
        mirrors = [mirror for mirror in output_of(*listing).split() if mirror.rstrip("/").endswith("/debian")]
        if not mirrors:
            raise UserError("apt-get knows no Debian mirror: emulate needs a Debian machine")
        for part in ("state/lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (state / "sources.list").write_text(f"deb [signed-by={key}] {mirrors[0]} {suite} main\n")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    quiet = ["-qq", "--yes", "--download-only"]
    if not any((state / "state/lists").glob("*Packages*")):
        output_of("apt-get", *options, *quiet, "update")
    output_of("apt-get", *options, *quiet, *command)


def unpack_debs(work: Path, architecture: str, suite: str, packages: list[str], folder: Path) -> None:
    """Unpacks Debian packages and all that they depend on into `folder`; nothing is installed. Raises as `apt`."""
    if folder.exists():
        return
    apt(work, architecture, suite, "install", *packages)
    new = folder.with_name(f".{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for deb in sorted((work / f"apt-{suite}-{architecture}/cache/archives").glob("*.deb")):
        output_of("dpkg", "-x", deb, new)
    if not (new / "lib").exists():  # trixie's packages have everything under usr
        (new / "lib").symlink_to("usr/lib")
    new.rename(folder)


def find_qemu(work: Path) -> str:
    """The machine's own qemu-aarch64; else Debian's static one, unpacked into `work`. Raises as `apt`."""
    own = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if own:
        return own
    unpack_debs(work, output_of("dpkg", "--print-architecture").strip(), "trixie", ["qemu-user"], work / "qemu")
    return str(work / "qemu/usr/bin/qemu-aarch64")


def unpack_python(suite: str, work: Path) -> Path:
    """Debian's Python of the release, with the libraries of the wheels, unpacked into `work`. Raises as `apt`."""
    python = SUITES[suite]
    folder = work / f"sysroot-{python}"
    packages = [f"python{python}", f"libpython{python}", "libstdc++6", "libgomp1", "libgcc-s1"]
    unpack_debs(work, "arm64", suite, packages, folder)
    return folder


def write_python(cpu: str, python: str, qemu: str, sysroot: Path, wheels: Path, work: Path) -> Path:
    """A command that is Python on the emulated processor, for the Makefile's PYTHON=; returns its path in `work`."""
    file = work / f"python-{python}-{cpu}"
    settings = {
        "PYTHONPATH": wheels,
        "PYTHONPYCACHEPREFIX": work / f"pycache-{python}",
        "OMP_NUM_THREADS": 1,
        "MPLBACKEND": "Agg",
    }
    exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in settings.items())
    command = [qemu, "-cpu", cpu, "-L", str(sysroot), f"{sysroot}/usr/bin/python{python}", "-X", "faulthandler"]
    file.write_text(f'#!/bin/sh\nexport {exports}\nexec {shlex.join(command)} "$@"\n')
    file.chmod(0o755)
    return file
