# SPDX-License-Identifier: Apache-2.0
"""make doctor: each check sees another machine's files, variables or Python, good and bad."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
from conftest import ROOT, run

import digitnet_machine

sys.path.insert(0, str(ROOT / "tools"))
import doctor

INF = float("inf")
UNLIMITED = {"cpus": INF, "memory": INF, "swap": INF}
FAST_MATH = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")
PI4, PI5 = "processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\n", "Features\t: fp asimd crc32 atomics cpuid asimddp\n"
X86, OLD_X86 = "flags\t\t: fpu ssse3 cx16 sse4_1 sse4_2 popcnt avx2\n", "flags\t\t: fpu ssse3 cx16\n"


def expect(check: doctor.Check, status: str, words: str) -> None:
    """Assert a check's status and part of its text, and that it has a cure unless it is ok."""
    assert check.status == status and words in f"{check.seen} -> {check.cure}", check
    assert bool(check.cure) == (check.status != "ok"), check


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be another machine: files below / by name, and the architecture."""
    for name in (*FAST_MATH, "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "SYSTEM", tmp_path / "root")

    def pretend(architecture: str = "aarch64", files: Mapping[str, str] = MappingProxyType({})) -> None:
        monkeypatch.setattr(doctor.platform, "machine", lambda: architecture)
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text and f"{text}\n")

    pretend()
    return pretend


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "versions", "status", "words"),
    [
        ("aarch64", PI4, {"torch": "2.9.1", "onnxruntime": "1.32.0"}, "ok", "Raspberry Pi 4"),
        ("aarch64", PI4, {"torch": "2.6.0", "onnxruntime": "1.21.0"}, "fail", "torch 2.6.0, onnxruntime 1.21.0 ends"),
        ("aarch64", PI5, {"torch": "2.10.0"}, "ok", "ARMv8.1"),
        ("aarch64", "Features\t: fp\n", {}, "fail", "no asimd"),
        ("aarch64", "", {}, "warn", "Illegal instruction"),
        ("x86_64", X86, {"torch": "2.10.0"}, "ok", "x86-64-v2"),
        ("x86_64", OLD_X86, {}, "fail", "no popcnt, sse4_1, sse4_2"),
    ],
)
def test_processor_must_have_the_instructions_of_the_wheels(machine, architecture, cpuinfo, versions, status, words):
    machine(architecture, {"proc/cpuinfo": cpuinfo})
    expect(doctor.check_processor(versions), status, words)


@pytest.mark.parametrize(
    ("changes", "name", "status", "words"),
    [
        ({}, "architecture", "ok", "aarch64, 64-bit"),
        ({"maxsize": 2**31 - 1}, "architecture", "fail", "64-bit Raspberry Pi OS"),
        ({"machine": "riscv64"}, "architecture", "fail", "no other"),
        ({}, "system", "ok", "Linux, glibc 2.36"),
        ({"libc": ("glibc", "2.27")}, "system", "fail", "2.28 or newer"),
        ({"libc": ("", "")}, "system", "fail", "not musl"),
        ({"system": "Darwin"}, "system", "fail", "container"),
        ({}, "make", "ok", "GNU Make 4.3"),
        ({"make": "GNU Make 4.2.1"}, "make", "fail", "4.3 or newer"),
        ({"make": "bmake 20200710"}, "make", "fail", "4.3 or newer"),
        ({"make": ""}, "make", "fail", "missing"),
        ({}, "cores", "ok", "2"),
        ({"cpus": 0.5}, "cores", "ok", "1"),
        ({"DNNL_DEFAULT_FPMATH_MODE": "strict"}, "fast math", "ok", "none set"),
        ({"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, "fast math", "warn", "unset DNNL_DEFAULT_FPMATH_MODE:"),
        (dict.fromkeys(FAST_MATH, "BF16"), "fast math", "warn", f"unset {' '.join(FAST_MATH)}:"),
        ({}, "variables", "ok", "none set"),
        ({"PYTHONPATH": "/opt/ros"}, "variables", "warn", "PYTHONPATH=/opt/ros -> unset PYTHONPATH:"),
        ({"PYTHONHOME": "/usr"}, "variables", "warn", "unset PYTHONHOME:"),
    ],
)
def test_system_and_settings_are_judged(machine, monkeypatch, changes, name, status, words):
    given = {"machine": "aarch64", "maxsize": 2**63 - 1, "libc": ("glibc", "2.36"), "system": "Linux", "cpus": INF}
    given |= {"make": "GNU Make 4.3"} | changes
    monkeypatch.setattr(doctor.platform, "machine", lambda: given["machine"])
    monkeypatch.setattr(doctor.platform, "system", lambda: given["system"])
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: given["libc"])
    monkeypatch.setattr(doctor.sys, "maxsize", given["maxsize"])
    monkeypatch.setattr(digitnet_machine.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(digitnet_machine, "container_limits", lambda _: {"cpus": given["cpus"]})
    monkeypatch.setattr(doctor, "run", lambda *_: ([given["make"], "Built for it"] if given["make"] else [], ""))
    for variable in changes.keys() - {"machine", "maxsize", "libc", "system", "cpus", "make"}:
        monkeypatch.setenv(variable, changes[variable])
    expect(dict(doctor.check_system())[name], status, words)


@pytest.mark.parametrize(
    ("cgroup", "files", "limits"),
    [
        ("", {}, {}),
        ("0::/", {"memory.max": "250"}, {"memory": 250}),
        ("0::/a/b", {"a/memory.max": "9", "a/b/memory.max": "max"}, {"memory": 9}),  # the parent's holds
        ("0::/not/seen/here", {"memory.max": "7", "memory.swap.max": "0"}, {"memory": 7, "swap": 0}),
        ("4:memory:/x\n0::/", {"memory/x/memory.limit_in_bytes": "8"}, {"memory": 8}),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, {"cpus": 2}),
        ("3:cpu:/x", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, {"cpus": 0.5}),
    ],
)
def test_container_limits_of_both_versions_are_read(machine, tmp_path, cgroup, files, limits):
    machine(files={"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": files[name] for name in files}})
    assert digitnet_machine.container_limits(tmp_path / "root") == UNLIMITED | limits


@pytest.mark.parametrize(
    ("total", "free", "swap", "limits", "status", "words"),
    [
        (8, 7, 0.1, {}, "ok", "8.0 GB and"),
        (25, 24, 0, {"memory": 2.5e9}, "ok", "2.5 GB (limit of the container; the machine has 25.0 GB)"),
        (25, 24, 0, {"memory": 0.25e9}, "fail", "1 GB or more"),
        (25, 24, 4, {"memory": 1.2e9, "swap": 0}, "warn", "add swap"),
        (25, 24, 4, {"memory": 1.2e9}, "ok", "4.0 GB swap"),
        (0.95, 0.7, 0.1, {}, "warn", "add swap"),  # a Raspberry Pi with 1 GB as it comes
        (0.95, 0.7, 2.1, {}, "ok", "2.1 GB swap"),
        (4, 0.6, 0.1, {}, "warn", "close other programs"),
        (0.45, 0.3, 2, {}, "fail", "1 GB or more"),
    ],
)
def test_memory_is_the_smaller_of_machine_and_container(machine, monkeypatch, total, free, swap, limits, status, words):
    monkeypatch.setattr(doctor, "container_limits", lambda _: UNLIMITED | limits)
    sizes = {"MemTotal": total, "MemFree": 0, "MemAvailable": free, "SwapTotal": swap, "SwapFree": swap}
    lines = [f"{name}:  {int(size * 1e9 / 1024)} kB" for name, size in sizes.items()]
    machine(files={"proc/meminfo": "\n".join(lines)})
    expect(dict(doctor.check_room(True))["memory"], status, words)


@pytest.mark.parametrize(
    ("architecture", "free", "installed", "status", "words"),
    [
        ("aarch64", 2e9, False, "ok", "1.5 GB needed"),
        ("aarch64", 1e9, False, "fail", "free some space"),
        ("x86_64", 11.7e9, False, "fail", "TORCH_INDEX"),
        ("x86_64", 12.1e9, False, "ok", "12.0 GB needed"),
        ("x86_64", 0.2e9, True, "fail", "free some space"),
        ("x86_64", 12.1e9, False, "fail", "99,999 file slots (inodes) are free, 100,000 needed"),
    ],
)
def test_disk_must_hold_what_is_still_to_come(machine, monkeypatch, architecture, free, installed, status, words):
    machine(architecture)
    slots = 99_999 if "slots" in words else 100_000
    disk = SimpleNamespace(f_frsize=1, f_bavail=free, f_files=10**6, f_favail=slots)
    monkeypatch.setattr(doctor.os, "statvfs", lambda _: disk)
    expect(dict(doctor.check_room(installed))["disk"], status, words)


PINS = {"torch": "2.9.1", "font": "3.2"}
GOOD = [["torch", "2.9.1+cpu"], ["Font", "3.002"]]
KIND = "CPython 3.11, 64-bit"


def python_checks(tmp_path: Path, kind: str, packages: list, end: str = "", there: bool = True) -> dict:
    """Return the checks of a Python of this kind that has these packages, and runs `end` at the import of torch."""
    python = tmp_path / "python"
    packages = f"echo '{json.dumps(packages)}'; echo 'import torch'; {end or 'exit 0'}"
    python.write_text(f"#!/bin/sh\n[ $# = 2 ] && exec echo '{kind}'\n{packages}\n")
    python.chmod(0o755)
    return dict(doctor.check_python(str(python), PINS, there, "INSTALL"))


@pytest.mark.parametrize(
    ("kind", "packages", "end", "name", "status", "words"),
    [
        (KIND, GOOD, "", "Python", "ok", "3.11"),
        ("CPython 3.9, 64-bit", GOOD, "", "Python", "fail", "3.11 to 3.14"),
        ("CPython 3.14, 64-bit, free-threaded", GOOD, "", "Python", "fail", "3.11 to 3.14"),
        (KIND, GOOD, "", "packages", "ok", "all 2 at the pinned versions"),
        (KIND, [], "", "packages", "fail", "missing: torch, font -> INSTALL"),
        (KIND, [["torch", "2.8.0"], *GOOD], "", "packages", "warn", "torch 2.8.0 (pinned: 2.9.1)"),
        (KIND, [["font", "3.02.1"], GOOD[0]], "", "packages", "warn", "font 3.2.1 (pinned: 3.2)"),
        (KIND, GOOD, "kill -ILL $$", "packages", "fail", "cannot import torch: killed by SIGILL -> INSTALL"),
        (KIND, GOOD, "echo 'ImportError: why' >&2; echo; exit 1", "packages", "fail", "torch: ImportError: why"),
        (KIND, [["tritonclient", "2"], *GOOD], "", "CUDA", "ok", "none"),
        (KIND, [["nvidia_cudnn-cu13", "9"], ["cupy-cuda13x", "1"], *GOOD], "", "CUDA", "warn", "2 packages"),
    ],
)
def test_python_and_packages_are_judged(machine, tmp_path, kind, packages, end, name, status, words):
    expect(python_checks(tmp_path, kind, packages, end)[name], status, words)


def test_packages_for_gpus_are_no_fault_where_pypi_brings_them(machine, tmp_path):
    machine("x86_64")
    expect(python_checks(tmp_path, KIND, [*GOOD, ["triton", "3.5.1"]])["CUDA"], "ok", "TORCH_INDEX")


def test_before_installation_only_a_python_that_fits_is_needed(machine, tmp_path):
    expect(python_checks(tmp_path, KIND, [], "exit 1", there=False)["packages"], "ok", "not installed yet: `make`")
    (check,) = dict(doctor.check_python("", PINS, False, "INSTALL")).values()
    expect(check, "fail", "none fits -> no 64-bit CPython 3.11 to 3.14 with venv")


def test_a_python_that_does_not_start_is_one_failure(machine, tmp_path):
    (tmp_path / "python").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "python").chmod(0o755)
    (check,) = dict(doctor.check_python(str(tmp_path / "python"), PINS, True, "INSTALL")).values()
    expect(check, "fail", "does not start, Exec format error")


def test_it_runs_before_anything_is_installed(tmp_path):
    """-S: no installed package can be imported, as on a new machine; -I: nor what lies beside the script."""
    result = run(sys.executable, "-I", "-S", ROOT / "tools/doctor.py", "--venv", tmp_path / "none", cwd=tmp_path)
    assert "Traceback" not in result.err and "not installed yet" in result.out
    statuses = re.findall(r"^(ok|warn|fail) ", result.out, re.MULTILINE)
    counts = [statuses.count(status) for status in ("ok", "warn", "fail")]
    assert [int(number) for number in re.findall(r"\d+", result.out.splitlines()[-1])] == counts
    assert len(statuses) == 12 and result.code == (counts[2] > 0)


def test_make_doctor_imports_with_the_environments_python(tmp_path):
    """Two reports from real machines: a .venv whose Python is gone, and ROS with another numpy in PYTHONPATH."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to("/usr/bin/python3.99")
    result = run("make", "-C", ROOT, "doctor", f"VENV={tmp_path}/venv", "PROFILE=photo")
    assert result.code and f"does not start, No such file or directory ({tmp_path}/venv/bin/python)" in result.out
    assert f"-> rm -rf {tmp_path}/venv; make VENV={tmp_path}/venv\n" in result.out

    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("raise ImportError('of another Python')")
    result = run("env", f"PYTHONPATH={tmp_path}", "make", "-C", ROOT, "doctor", f"PYTHON={sys.executable}")
    assert result.code and re.search(r"cannot import \w+: ImportError: of another Python", result.out)
    assert result.out.count("-> unset PYTHONPATH") == 2
