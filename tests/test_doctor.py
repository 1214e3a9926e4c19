"""make doctor: each check is given another machine's files, variables or Python, good and bad."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT / "tools"))
import doctor

INF = float("inf")
UNLIMITED = {"memory": INF, "swap": INF, "cpus": INF}
PI4, PI5 = "processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\n", "Features\t: fp asimd crc32 atomics cpuid asimddp\n"
X86, OLD_X86 = "flags\t\t: fpu ssse3 cx16 sse4_1 sse4_2 popcnt avx2\n", "flags\t\t: fpu ssse3 cx16\n"
MOUNTS = "/dev/mmcblk0p2 / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"


def judged(checks: dict | doctor.Check, name: str = "") -> tuple[str, str]:
    """Status and text of a check; asserts that what is not ok has a cure, and nothing else."""
    status, seen, cure = checks[name] if isinstance(checks, dict) else checks
    assert bool(cure) == (status != "ok"), (seen, cure)
    return status, f"{seen} -> {cure}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends another machine: files below / by name, and the architecture."""
    for name in ("TMPDIR", "OMP_NUM_THREADS", *doctor.FAST_MATH, *doctor.FOREIGN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "SYSTEM", tmp_path / "root")

    def pretend(architecture: str = "aarch64", **files: str) -> None:
        monkeypatch.setattr(doctor.platform, "machine", lambda: architecture)
        for name, text in files.items():
            path = tmp_path / "root/proc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    pretend()
    return pretend


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "versions", "status", "words"),
    [
        ("aarch64", PI4, {"torch": "2.9.1", "onnxruntime": "1.32.0"}, "ok", "Raspberry Pi 4"),
        ("aarch64", PI4, {"torch": "2.10.0"}, "fail", "torch 2.10.0"),
        ("aarch64", PI4, {"torch": "2.6.0", "onnxruntime": "1.21.0"}, "fail", "torch 2.6.0, onnxruntime 1.21.0 ends"),
        ("aarch64", PI5, {"torch": "2.10.0"}, "ok", "ARMv8.1"),
        ("aarch64", "Features\t: fp\n", {}, "fail", "no asimd"),
        ("aarch64", "", {}, "warn", "Illegal instruction"),
        ("x86_64", X86, {"torch": "2.10.0"}, "ok", "x86-64-v2"),
        ("x86_64", OLD_X86, {}, "fail", "no popcnt, sse4_1, sse4_2"),
    ],
)
def test_processor_must_have_the_instructions_of_the_wheels(machine, architecture, cpuinfo, versions, status, words):
    machine(architecture, cpuinfo=cpuinfo)
    found, text = judged(doctor.check_processor(versions))
    assert found == status and words in text


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
        ({}, "threads", "ok", "2 cores"),
        ({"cpus": 1.5}, "threads", "ok", "1.5 cores"),
        ({"OMP_NUM_THREADS": "2"}, "threads", "ok", "OMP_NUM_THREADS 2"),
        ({"OMP_NUM_THREADS": "2", "cpus": 1.5}, "threads", "warn", "unset OMP_NUM_THREADS"),
        ({"DNNL_DEFAULT_FPMATH_MODE": "strict"}, "fast math", "ok", "not set"),
        ({"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, "fast math", "warn", "unset DNNL_DEFAULT_FPMATH_MODE:"),
        (dict.fromkeys(doctor.FAST_MATH, "BF16"), "fast math", "warn", f"unset {' '.join(doctor.FAST_MATH)}:"),
        ({}, "variables", "ok", "not set"),
        ({"PYTHONPATH": "/opt/ros"}, "variables", "warn", "PYTHONPATH=/opt/ros -> unset PYTHONPATH:"),
        ({"PYTHONHOME": "/usr"}, "variables", "warn", "unset PYTHONHOME:"),
    ],
)
def test_system_and_settings(machine, monkeypatch, changes, name, status, words):
    given = {"machine": "aarch64", "maxsize": 2**63 - 1, "libc": ("glibc", "2.36"), "system": "Linux", "cpus": INF}
    given |= {"make": "GNU Make 4.3"} | changes
    monkeypatch.setattr(doctor.platform, "machine", lambda: given["machine"])
    monkeypatch.setattr(doctor.platform, "system", lambda: given["system"])
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: given["libc"])
    monkeypatch.setattr(doctor.sys, "maxsize", given["maxsize"])
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(doctor, "run", lambda *_: ([given["make"], "Built for it"] if given["make"] else [], ""))
    for variable in changes.keys() - {"machine", "maxsize", "libc", "system", "cpus", "make"}:
        monkeypatch.setenv(variable, changes[variable])
    found, text = judged(dict(doctor.check_system(given["cpus"])), name)
    assert found == status and words in text


# --- memory, disk, containers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, UNLIMITED),
        ({"proc/self/cgroup": "0::/\n", "memory.max": "max\n", "cpu.max": "max 100000\n"}, UNLIMITED),
        (
            {"proc/self/cgroup": "0::/\n", "memory.max": "250\n", "cpu.max": "50000 100000\n"},
            {"memory": 250, "cpus": 0.5},
        ),
        (
            {"proc/self/cgroup": "0::/a/b\n", "a/memory.max": "9\n", "a/b/memory.max": "max\n"},
            {"memory": 9},
        ),  # a parent's
        (
            {"proc/self/cgroup": "0::/host/only\n", "memory.max": "7\n", "memory.swap.max": "0\n"},
            {"memory": 7, "swap": 0},
        ),
        ({"proc/self/cgroup": "4:memory:/x\n0::/\n", "memory/x/memory.limit_in_bytes": "8\n"}, {"memory": 8}),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            {"cpus": 3},
        ),
        (
            {"proc/self/cgroup": "1:cpu:/\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            UNLIMITED,
        ),
    ],
)
def test_container_limits_of_both_versions_are_read(machine, tmp_path, files, limits):
    for name, text in files.items():
        path = tmp_path / "root" / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert doctor.container_limits() == UNLIMITED | limits


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
        (4, 0.6, 2, {}, "ok", "2.6 GB of both free"),
        (0.45, 0.3, 2, {}, "fail", "1 GB or more"),
    ],
)
def test_memory_is_the_smaller_of_machine_and_container(machine, total, free, swap, limits, status, words):
    sizes = {"MemTotal": total, "MemFree": 0, "MemAvailable": free, "SwapTotal": swap, "SwapFree": swap}
    machine(meminfo="".join(f"{name}:  {int(size * 1e9 / 1024)} kB\n" for name, size in sizes.items()))
    found, text = judged(dict(doctor.check_room(UNLIMITED | limits, True)), "memory")
    assert found == status and words in text


@pytest.mark.parametrize(
    ("architecture", "free", "installed", "status", "words"),
    [
        ("aarch64", 2e9, False, "ok", "1.5 GB needed"),
        ("aarch64", 1e9, False, "fail", "free some space"),
        ("aarch64", 1e9, True, "ok", "0.3 GB needed"),
        ("x86_64", 11.7e9, False, "fail", "TORCH_INDEX"),
        ("x86_64", 12.1e9, False, "ok", "12.0 GB needed"),
        ("x86_64", 0.2e9, True, "fail", "free some space"),
    ],
)
def test_disk_must_hold_what_is_still_to_come(machine, monkeypatch, architecture, free, installed, status, words):
    machine(architecture)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    found, text = judged(dict(doctor.check_room(UNLIMITED, installed)), "disk")
    assert found == status and words in text


@pytest.mark.parametrize(
    ("folder", "gigabytes", "status", "words"),
    [
        ("/tmp", 2, "warn", "TMPDIR"),
        ("/tmp/x", 2, "warn", "TMPDIR"),
        ("/tmp", 8, "ok", "tmpfs"),
        ("/home", 2, "ok", "ext4"),
    ],
)
def test_a_temporary_folder_in_little_memory_is_warned_of(machine, monkeypatch, folder, gigabytes, status, words):
    machine(mounts=MOUNTS, meminfo=f"MemTotal: {gigabytes * 10**9 // 1024} kB\n")
    monkeypatch.setenv("TMPDIR", folder)
    found, text = judged(dict(doctor.check_room(UNLIMITED, True)), "temporary")
    assert found == status and words in text


# --- Python and its packages ------------------------------------------------------------------------------

PINS = {"torch": "2.9.1", "font": "3.2"}
GOOD = [["torch", "2.9.1+cpu"], ["Font", "3.002"]]


def python_checks(tmp_path: Path, lines: list[str], end: str = "exit 0", there: bool = True) -> dict[str, doctor.Check]:
    """Checks of a Python that prints these lines and then ends so."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"{end}\n")
    python.chmod(0o755)
    return dict(doctor.check_python(str(python), PINS, there, tmp_path / "none.onnx", "INSTALL", "make"))


@pytest.mark.parametrize(
    ("version", "packages", "end", "name", "status", "words"),
    [
        ([3, 11, 2], GOOD, "exit 0", "Python", "ok", "3.11.2"),
        ([3, 9, 2], GOOD, "exit 0", "Python", "fail", "install Python 3.11"),
        ([3, 15, 0], GOOD, "exit 0", "Python", "warn", "3.14 or older"),
        ([3, 11, 2], GOOD, "exit 0", "packages", "ok", "all 2 at the pinned versions"),
        ([3, 11, 2], [], "exit 0", "packages", "fail", "missing: torch, font -> INSTALL"),
        ([3, 11, 2], [["torch", "2.8.0"], *GOOD], "exit 0", "packages", "warn", "torch 2.8.0 (pinned: 2.9.1)"),
        ([3, 11, 2], [["font", "3.02.1"], GOOD[0]], "exit 0", "packages", "warn", "font 3.2.1 (pinned: 3.2)"),
        ([3, 11, 2], GOOD, "kill -ILL $$", "packages", "fail", "cannot import torch: killed by SIGILL -> INSTALL"),
        ([3, 11, 2], GOOD, "echo 'ImportError: why' >&2; echo; exit 1", "packages", "fail", "torch: ImportError: why"),
        ([3, 11, 2], GOOD, "exit 3", "packages", "fail", "cannot import torch: exit code 3"),
        ([3, 11, 2], GOOD, "exit 0", "CUDA", "ok", "none"),
        ([3, 11, 2], [["tritonclient", "2"], *GOOD], "exit 0", "CUDA", "ok", "none"),
        (
            [3, 11, 2],
            [["nvidia_cudnn-cu13", "9"], ["cupy-cuda13x", "1"], *GOOD],
            "exit 0",
            "CUDA",
            "warn",
            "2 packages",
        ),
    ],
)
def test_python_and_packages(machine, tmp_path, version, packages, end, name, status, words):
    lines = [json.dumps(version), json.dumps(packages), "import torch"]
    found, text = judged(python_checks(tmp_path, lines, end), name)
    assert found == status and words in text


def test_packages_for_gpus_are_no_fault_where_pypi_brings_them(machine, tmp_path):
    machine("x86_64")
    checks = python_checks(tmp_path, ["[3, 11, 2]", json.dumps([*GOOD, ["triton", "3.5.1"]])])
    assert judged(checks, "CUDA")[0] == "ok" and "TORCH_INDEX" in checks["CUDA"].seen


def test_a_foreign_variable_is_the_first_suspect(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/opt/ros")
    checks = python_checks(tmp_path, ["[3, 11, 2]", json.dumps(GOOD), "import torch"], "exit 1")
    assert checks["packages"].cure == "unset PYTHONPATH"


def test_before_installation_only_venv_and_pip_are_needed(machine, tmp_path):
    ready = python_checks(tmp_path, ["[3, 11, 2]", "[]", "import venv", "import ensurepip"], there=False)
    assert judged(ready, "packages") == ("ok", "not installed yet: `make` does it -> ")
    bare = python_checks(tmp_path, ["[3, 11, 2]", "[]", "import venv", "import ensurepip"], "exit 1", there=False)
    assert judged(bare, "packages")[0] == "fail" and "cannot import ensurepip" in bare["packages"].seen


def test_a_python_that_does_not_start_is_one_failure(machine, tmp_path):
    checks = python_checks(tmp_path, [], "echo 'Fatal Python error: x' >&2; kill -SEGV $$")
    assert judged(checks, "Python")[0] == "fail" and "killed by SIGSEGV" in checks["Python"].seen
    (tmp_path / "python").write_bytes(b"\x7fELF of another machine")
    (check,) = dict(doctor.check_python(str(tmp_path / "python"), PINS, True, tmp_path, "INSTALL", "make")).values()
    assert check.status == "fail" and "Exec format error" in check.seen and check.cure == "INSTALL"


# --- the exported file, and the whole command --------------------------------------------------------------


@pytest.fixture
def model():
    """A small ONNX model that keeps the contract."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((784, 10), 0.5, np.float32), "weights")
    nodes = [helper.make_node("Flatten", ["input"], ["x"]), helper.make_node("MatMul", ["x", "weights"], ["logits"])]
    first = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])
    last = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "graph", [first], [last], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def onnx_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The check of a file by this Python, without the import of every package, which takes seconds."""
    monkeypatch.setattr(doctor, "MODULES", ("numpy", "onnxruntime"))
    checks = dict(doctor.check_python(sys.executable, {}, True, path, "INSTALL", "make PROFILE=photo"))
    return judged(checks, "ONNX file")


@pytest.mark.parametrize("reader", ["onnx", "onnxruntime"])
def test_a_frozen_batch_is_found(machine, monkeypatch, tmp_path, model, reader):
    path = tmp_path / "model.onnx"
    if reader == "onnxruntime":  # where onnx is not installed
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['onnx'] = None")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert onnx_check(path, monkeypatch)[1].startswith(f"{path}: not made yet")
    path.write_bytes(model.SerializeToString())
    assert onnx_check(path, monkeypatch) == ("ok", f"{path}: keeps its contract -> ")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path.write_bytes(model.SerializeToString())
    status, text = onnx_check(path, monkeypatch)
    assert status == "fail" and f"-> rm '{path}'; make PROFILE=photo export" in text


def test_what_is_no_whole_model_is_refused(machine, monkeypatch, tmp_path, model):
    import onnx

    path = tmp_path / "model.onnx"
    for broken in (b"", b"not a model", model.SerializeToString()[:-99]):
        path.write_bytes(broken)
        assert onnx_check(path, monkeypatch)[0] == "fail", len(broken)
    onnx.save(model, path, save_as_external_data=True, location="other.bin", size_threshold=0)
    assert "weights lie in another file" in onnx_check(path, monkeypatch)[1]
    status, text = onnx_check(tmp_path, monkeypatch)
    assert status == "fail" and "rm" not in text.split()


def test_a_second_file_beside_a_whole_model_is_a_leftover(machine, monkeypatch, tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "model.onnx.data").touch()
    status, text = onnx_check(path, monkeypatch)
    assert status == "warn" and f"-> rm '{path}.data'" in text


def test_it_runs_before_anything_is_installed(tmp_path):
    """-S: no installed package can be imported, as on a new machine; -I: nor what lies beside the script."""
    result = run(sys.executable, "-I", "-S", ROOT / "tools/doctor.py", "--venv", tmp_path / "none", cwd=tmp_path)
    assert "Traceback" not in result.err and "not installed yet" in result.out
    statuses = re.findall(r"^(ok|warn|fail) ", result.out, re.MULTILINE)
    counts = [statuses.count(status) for status in ("ok", "warn", "fail")]
    assert [int(number) for number in re.findall(r"\d+", result.out.splitlines()[-1])] == counts
    assert len(statuses) == 14 and result.code == (counts[2] > 0)


def test_make_doctor_imports_with_the_environments_python(tmp_path):
    """Two reports from real machines: a .venv whose Python is gone, and ROS with another numpy in PYTHONPATH."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to("/usr/bin/python3.99")
    result = run("make", "-C", ROOT, "doctor", f"VENV={tmp_path}/venv", "PROFILE=photo")
    assert result.code and f"does not start, No such file or directory ({tmp_path}/venv/bin/python)" in result.out
    cure = re.findall(f"-> rm -rf {tmp_path}/venv; (make .*)", result.out)
    assert [sorted(line.split()) for line in cure] == [sorted(["make", "PROFILE=photo", f"VENV={tmp_path}/venv"])]

    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("raise ImportError('of another Python')")
    result = run("env", f"PYTHONPATH={tmp_path}", "make", "-C", ROOT, "doctor", f"PYTHON={sys.executable}")
    assert result.code and "cannot import numpy: ImportError: of another Python" in result.out
    assert result.out.count("-> unset PYTHONPATH") == 2


def test_parity_blames_the_variables_that_doctor_warns_of():
    named = re.findall(r"\w+_DEFAULT_FPMATH_MODE", "".join(path.read_text() for path in ROOT.glob("*.py")))
    assert set(named) == set(doctor.FAST_MATH)
