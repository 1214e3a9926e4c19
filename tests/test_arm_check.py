"""tools/arm_check.py: what it decides about wheels and processors, with neither a network nor an emulator.

`resolve` and `emulate` themselves fetch a gigabyte; docs/machines.md has what they came to.
"""

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT / "tools"))
import arm_check
import arm_wheels
from arm_machine import output_of, write_python
from arm_wheels import environment, gpu_files, gpu_reasons, pip_target, read_requirements, resolve, unpack_wheels
from packaging.requirements import Requirement

from digitnet_cli import UserError

TEXT = """# a comment, then an option
-r other.txt
--extra-index-url https://example.org/simple

torch==2.9.1
Font_Pkg.Arimo==1.341  # why
tool[extra]>=2 ; python_version >= "3.12"
"""


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(TEXT)
    return path


def test_requirements_are_read_without_comments_and_options(requirements: Path):
    found = read_requirements(requirements, [])
    assert [str(r) for r in found] == [
        "torch==2.9.1",
        "Font_Pkg.Arimo==1.341",
        'tool[extra]>=2; python_version >= "3.12"',
    ]


def test_pins_take_the_place_of_lines_whatever_the_spelling(requirements: Path):
    pins = [Requirement(pin) for pin in ("torch==2.11.0", "font-pkg-arimo==1.0", "new==3")]
    found = [str(r) for r in read_requirements(requirements, pins)]
    assert found[:2] == ["torch==2.11.0", "font-pkg-arimo==1.0"] and found[3:] == ["new==3"]


def test_a_line_that_is_no_requirement_is_told(requirements: Path):
    requirements.write_text("torch = 2.9.1\n")
    with pytest.raises(UserError, match=r"requirements\.txt has a line .* torch = 2"):
        read_requirements(requirements, [])


def test_pip_is_asked_for_wheels_of_another_machine():
    options = pip_target("3.13")
    assert "--no-deps" in options and "--only-binary=:all:" in options and "--python-version=3.13" in options
    pairs = list(pairwise(options))
    assert [value for name, value in pairs if name == "--abi"] == ["cp313", "abi3", "none"]
    platforms = [value for name, value in pairs if name == "--platform"]
    assert "manylinux_2_28_aarch64" in platforms and "manylinux2014_aarch64" in platforms
    assert all(name.endswith("_aarch64") for name in platforms)
    newest = max(int(name.split("_")[2]) for name in platforms if name.startswith("manylinux_2_"))
    assert newest <= 28, "make doctor promises that glibc 2.28 is enough"


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ('platform_machine == "aarch64"', True),
        ('platform_machine == "x86_64" and platform_system == "Linux"', False),
        ('sys_platform == "linux" and implementation_name == "cpython"', True),
        ('os_name == "nt"', False),
        ('python_version >= "3.12"', False),
        ('python_full_version < "3.12" and python_version == "3.11"', True),
        ('extra == "dev"', False),
    ],
)
def test_markers_are_those_of_an_arm_machine_not_of_this_one(marker: str, holds: bool):
    assert Requirement(f"x; {marker}").marker.evaluate(environment("3.11") | {"extra": ""}) is holds


# --- following dependencies, with a pip that knows these wheels ---------------------------------------

INDEX = {
    "torch": (
        "2.11.0",
        ['cuda-toolkit==13.0; platform_system == "Linux"', "triton; platform_machine == 'x86_64'", "sympy"],
    ),
    "sympy": ("1.14", ["mpmath<2", "pytest; extra == 'dev'"]),
    "mpmath": ("1.3", []),
    "strict": ("1.0", ["mpmath>=2"]),
    "cudart": ("1.0", []),
}


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In pip's place: writes a report, or unpacks a file for each wheel; the list has what was asked for."""
    asked = []

    def pip_install(python: str, lines: list[str], *options: str) -> subprocess.CompletedProcess:
        asked.append(lines)
        names = [Requirement(line).name for line in lines]
        if unknown := [name for name in names if name not in INDEX]:
            return subprocess.CompletedProcess([], 1, "", f"WARNING: old pip\nERROR: no wheel of {unknown[0]}\n")
        found = [{"name": name, "version": INDEX[name][0], "requires_dist": INDEX[name][1]} for name in names]
        items = [{"metadata": data, "download_info": {"url": f"https://x/{data['name']}.whl"}} for data in found]
        given = dict(option.split("=", 1) for option in options if "=" in option)
        if "--report" not in given:
            for name in names:
                record = Path(given["--target"]) / f"{name}.dist-info" / "RECORD"
                record.parent.mkdir(parents=True)
                record.write_text(f"{name}/lib{name}.so,,\n")
            return subprocess.CompletedProcess([], 0, "", "")
        Path(given["--report"]).write_text(json.dumps({"install": items}))
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(arm_wheels, "pip_install", pip_install)
    return asked


def test_dependencies_are_followed_to_the_end(pip: list, tmp_path: Path):
    chosen = resolve([Requirement("sympy")], "3.11", tmp_path)
    assert {name: data["version"] for name, data in chosen.items()} == {"sympy": "1.14", "mpmath": "1.3"}
    assert pip == [["sympy"], ["mpmath<2"]] and not list(tmp_path.iterdir())


def test_an_arm_wheel_that_brings_cuda_is_found(pip: list, tmp_path: Path):
    reasons = gpu_reasons(resolve([Requirement("torch==2.11.0")], "3.11", tmp_path))
    assert reasons == ["cuda-toolkit ==13.0: by its name"], "and no triton, which only x86-64 gets"


def test_no_wheel_and_a_collision_are_told(pip: list, tmp_path: Path):
    with pytest.raises(UserError, match=r"^no wheels for Python 3\.11 on aarch64: ERROR: no wheel of nothing$"):
        resolve([Requirement("nothing")], "3.11", tmp_path)
    with pytest.raises(UserError, match=r"mpmath>=2 collides with mpmath 1\.3"):
        resolve([Requirement("strict"), Requirement("mpmath<2")], "3.11", tmp_path)


def test_wheels_are_unpacked_once(pip: list, tmp_path: Path):
    folder = tmp_path / "wheels"
    for _ in range(2):
        unpack_wheels([Requirement("sympy")], "3.11", folder)
    assert pip.count(["mpmath==1.3", "sympy==1.14"]) == 1 and len(pip) == 5
    unpack_wheels([Requirement("mpmath")], "3.11", folder)
    assert [path.name for path in folder.iterdir()] == ["mpmath.dist-info"], "another set takes the folder's place"


def test_wheels_with_cuda_in_them_are_refused(pip: list, tmp_path: Path):
    with pytest.raises(UserError, match=r"CUDA in the wheels for Python 3\.11: cudart/libcudart\.so"):
        unpack_wheels([Requirement("cudart")], "3.11", tmp_path / "wheels")


# --- CUDA --------------------------------------------------------------------------------------------


def wheel(**metadata: object) -> dict:
    return {"version": "1.0", "summary": "Fast arrays", "classifier": ["Programming Language :: Python"], **metadata}


def test_gpu_packages_are_told_by_name_or_by_what_they_say():
    names = ("nvidia-cublas-cu12", "cuda-bindings", "cupy-cuda13x", "triton", "pytorch-triton")
    for name in names:
        assert gpu_reasons({name: wheel()}) == [f"{name} 1.0: by its name"]
    said = {
        "a": wheel(summary="Arrays on CUDA"),
        "b": wheel(keywords=["array", "nvidia"]),
        "c": wheel(classifier=["Environment :: GPU :: NVIDIA CUDA :: 13"]),
    }
    told = ["a 1.0: Arrays on CUDA", "b 1.0: nvidia", "c 1.0: Environment :: GPU :: NVIDIA CUDA :: 13"]
    assert gpu_reasons(said) == told


def test_other_packages_are_no_gpu_packages():
    others = ("torch", "tritonclient", "barracuda", "onnxruntime", "numpy")
    assert gpu_reasons({name: wheel(summary="A barracuda's arrays") for name in others}) == []
    assert gpu_reasons({"bare": {"version": "1.0"}}) == []


def test_cuda_libraries_are_found_in_the_wheels_records(tmp_path: Path):
    def record(name: str, *files: str) -> None:
        path = tmp_path / f"{name}.dist-info" / "RECORD"
        path.parent.mkdir()
        path.write_text("".join(f"{file},sha256=abc,123\n" for file in files))

    record("numpy-2.4.6", "numpy/libs/libscipy_openblas64_.so", "numpy/cuda.py")
    record("torch-2.9.1", "torch/lib/libtorch_cpu.so", "torch/cuda/__init__.py", "torch/lib/libc10.so")
    assert gpu_files(tmp_path) == []
    record("torch-2.11.0", "torch/lib/libtorch_cuda.so", "torch/lib/libcudart-1a2b.so.13", "torch/lib/libtorch.so")
    assert gpu_files(tmp_path) == ["torch/lib/libcudart-1a2b.so.13", "torch/lib/libtorch_cuda.so"]


# --- emulated processors ---------------------------------------------------------------------------------


def test_an_emulated_python_is_quoted_for_the_shell(tmp_path: Path):
    work = tmp_path / "it's $HOME; a `folder`"
    sysroot = work / "sysroot"
    (sysroot / "usr/bin").mkdir(parents=True)
    qemu = work / "qemu"
    qemu.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
    qemu.chmod(0o755)
    python = write_python("cortex-a72", "3.11", str(qemu), sysroot, work / "wheels", work)
    result = run(python, "-c", "print(1, 2)")
    emulator = ["-cpu", "cortex-a72", "-L", str(sysroot), f"{sysroot}/usr/bin/python3.11", "-X", "faulthandler"]
    assert result.out.splitlines() == [str(work / "wheels"), *emulator, "-c", "print(1, 2)"], result.err


STEP = {"pass": "exit 0", "ILLEGAL INSTRUCTION": "kill -ILL $$", "FAIL, exit code 3": "exit 3"}


@pytest.mark.parametrize("said", STEP)
def test_a_step_says_how_it_ended(tmp_path: Path, said: str):
    assert arm_check.run_step(["sh", "-c", STEP[said]], tmp_path / "step.log") == said


def arguments(tmp_path: Path) -> argparse.Namespace:
    files = {"onnx": tmp_path / "model.onnx", "golden": tmp_path / "golden.npz"}
    return argparse.Namespace(profile="tutorial", steps=["import", "golden"], **files)


def emulate(tmp_path: Path, cpu: str, trap: bool) -> list[str]:
    """emulate_cpu with a Python that does nothing but write down its arguments, and trap at the control."""
    python = tmp_path / "python"
    trapping = "*arm_control.py) kill -ILL $$;;" if trap else ""
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase $1 in {trapping} *) exit 0;; esac\n')
    python.chmod(0o755)
    return arm_check.emulate_cpu(cpu, python, tmp_path / "folder", arguments(tmp_path))


OLD, NEW = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72"), ("cortex-a55", "cortex-a76", "neoverse-n1", "max")


@pytest.mark.parametrize("cpu", [*OLD, *NEW])
def test_the_control_must_trap_on_armv8_0_and_run_on_the_others(tmp_path: Path, cpu: str):
    old = cpu in OLD
    assert emulate(tmp_path, cpu, trap=old) == ["ILLEGAL INSTRUCTION" if old else "pass", "pass", "pass"]
    assert emulate(tmp_path, cpu, trap=not old) == ["pass" if old else "ILLEGAL INSTRUCTION"], "nothing is run then"


def test_golden_is_the_porters_check_and_leaves_the_exporters_report(tmp_path: Path):
    emulate(tmp_path, "neoverse-n1", trap=False)
    control, imports, golden = (tmp_path / "calls").read_text().splitlines()
    assert control == str(ROOT / "tools" / "arm_control.py") and imports == str(ROOT / "tools" / "arm_import.py")
    files = f"--onnx {tmp_path}/model.onnx --golden {tmp_path}/golden.npz"
    assert golden == f"{ROOT}/04_Parity.py {files} --report {tmp_path}/folder/golden.json"


def test_a_failed_command_is_told():
    assert output_of("echo", "fine") == "fine\n"
    with pytest.raises(UserError, match=r"^false ended with exit code 1"):
        output_of("false")


# --- the tools as commands ----------------------------------------------------------------------------

SCRIPTS = [path.name for path in sorted((ROOT / "tools").glob("*.py")) if "\nif __name__" in path.read_text()]
# doctor.py needs no package; arm_import.py is run by arm_check.py, which has fetched the packages for it.
NEED_PACKAGES = [name for name in SCRIPTS if name not in ("doctor.py", "arm_import.py")]


@pytest.mark.parametrize("name", NEED_PACKAGES)
def test_a_python_without_the_packages_is_told_in_one_line(name: str):
    result = run(sys.executable, "-S", ROOT / "tools" / name)  # -S: no site-packages
    assert result.code == 1
    assert result.err.startswith(f"{name}: {sys.executable} has no package ") and result.err.count("\n") == 1
    assert "use .venv/bin/python" in result.err


def test_the_tools_are_known():
    assert {"arm_check.py", "quantize.py"} == set(NEED_PACKAGES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "golden"], "the step golden needs --onnx and --golden"),
        (["--onnx", "model.onnx"], "the step golden needs --onnx and --golden"),
        (["--work", "a folder"], "--work: make takes no folder whose name has blanks"),
        (["--pin", "torch=2"], "--pin: invalid Requirement value: 'torch=2'"),
    ],
)
def test_wrong_usage_is_told_in_one_line(tmp_path: Path, options: list[str], words: str):
    result = run(sys.executable, ROOT / "tools" / "arm_check.py", "emulate", *options, cwd=tmp_path)
    assert result.code == 2 and words in result.err and result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
