# SPDX-License-Identifier: Apache-2.0
"""tools/arm_check.py: its decisions about wheels and processors, without a network or an emulator.

docs/machines.md has what `resolve` and `emulate` themselves came to.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT / "tools"))
import arm_check

from digitnet_cli import UserError

OLD, NEW = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72"), ("cortex-a55", "cortex-a76", "neoverse-n1", "max")
ENDS = {"pass": "exit 0", "ILLEGAL INSTRUCTION": "kill -ILL $$", "FAIL, exit code 3": "exit 3"}


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    files = {"onnx": tmp_path / "model.onnx", "golden": tmp_path / "golden.npz"}
    return argparse.Namespace(work=tmp_path, pin=[], profile="tutorial", steps=["import", "golden"], **files)


@pytest.fixture
def index(tmp_path: Path, args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Has uv look at wheels in a folder only; writes a wheel with its dependencies, and returns the folder."""
    pytest.importorskip("uv")
    for name, value in {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(name, value)

    def add(name: str, version: str, *requires: str, tag: str = "py3-none-any") -> Path:
        import zipfile

        stem = f"{name.replace('-', '_')}-{version}"
        (tmp_path / "index").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / f"index/{stem}-{tag}.whl", "w") as wheel:
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            wheel.writestr(
                f"{stem}.dist-info/METADATA", "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires), ""])
            )
            wheel.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
        return tmp_path / "index"

    return add


def resolved(args: argparse.Namespace, *lines: str) -> bool:
    (args.work / "requirements.txt").write_text("\n".join(lines))
    return arm_check.resolve(args.work / "requirements.txt", "3.11", args)


def test_wheels_are_those_of_an_arm_machine_not_of_this_one(index, args, capsys):
    index("torch", "2.9.1", 'triton; platform_machine == "x86_64"', "sympy", tag="cp311-cp311-manylinux_2_28_aarch64")
    index("torch", "2.9.2", tag="cp311-cp311-manylinux_2_28_x86_64")
    index("torch", "2.9.3", tag="cp311-cp311-manylinux_2_39_aarch64")
    index("sympy", "1.14")
    index("triton", "3.5")
    assert resolved(args, "torch")
    assert "2 wheels, 0 of them for an NVIDIA GPU\n  sympy==1.14 torch==2.9.1" in capsys.readouterr().out


def test_an_arm_wheel_that_brings_gpu_packages_fails_and_is_named(index, args, capsys):
    names = ["nvidia-cublas", "cuda-toolkit", "cupy-cuda13x", "triton", "pytorch-triton"]
    for name in [*names, "tritonclient", "barracuda"]:
        index(name, "1.0")
    index("torch", "2.11.0", *names, "tritonclient", "barracuda")
    index("torch", "2.9.1")
    assert resolved(args, "torch==2.9.1")
    args.pin = ["torch==2.11.0"]
    assert not resolved(args, "torch==2.9.1"), "--pin takes the place of the line"
    last = capsys.readouterr().out.splitlines()[-1]
    assert sorted(last.split(":")[-1].split()) == sorted(f"{name}==1.0" for name in names)


@pytest.mark.parametrize("line", ["nothing", "strict", "torch = 2"])
def test_an_unresolvable_pin_fails_in_one_line(index, args, capsys, line):
    index("sympy", "1.14")
    index("strict", "1.0", "sympy>=2")
    assert not resolved(args, line)
    out = capsys.readouterr().out
    assert out.startswith("requirements.txt, Python 3.11: FAIL: ") and out.count("\n") == 1


def test_an_emulated_python_is_quoted_for_the_shell(tmp_path):
    work = tmp_path / "it's $HOME; a `folder`"
    work.mkdir()
    qemu = work / "qemu"
    qemu.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
    qemu.chmod(0o755)
    python = arm_check.write_python("cortex-a72", "3.11", str(qemu), work / "wheels", work)
    result = run(python, "-c", "print(1, 2)")
    sysroot = work / "sysroot-3.11"
    emulator = ["-cpu", "cortex-a72", "-L", str(sysroot), f"{sysroot}/usr/bin/python3.11", "-X", "faulthandler"]
    assert result.out.splitlines() == [str(work / "wheels"), *emulator, "-c", "print(1, 2)"], result.err


@pytest.mark.parametrize("result", ENDS)
def test_a_step_reports_how_it_ended(tmp_path, result):
    assert arm_check.run_step(["sh", "-c", ENDS[result]], tmp_path / "step.log") == result


def emulate(args: argparse.Namespace, cpu: str, trap: bool) -> list[str]:
    """Run emulate_cpu with a Python that only logs its arguments, and traps at the control."""
    python = args.work / "python"
    trapping = "*arm_control.py) kill -ILL $$;;" if trap else ""
    python.write_text(f'#!/bin/sh\necho "$@" >> {args.work}/calls\ncase $1 in {trapping} *) exit 0;; esac\n')
    python.chmod(0o755)
    return arm_check.emulate_cpu(cpu, python, args.work / "folder", args)


@pytest.mark.parametrize("cpu", [*OLD, *NEW])
def test_the_control_must_trap_on_armv8_0_and_run_on_the_others(args, cpu):
    old = cpu in OLD
    assert emulate(args, cpu, trap=old) == ["ILLEGAL INSTRUCTION" if old else "pass", "pass", "pass"]
    assert emulate(args, cpu, trap=not old) == ["pass" if old else "ILLEGAL INSTRUCTION"], "nothing is run then"


def test_the_golden_step_does_not_overwrite_the_exporters_report(args):
    emulate(args, "neoverse-n1", trap=False)
    golden = (args.work / "calls").read_text().splitlines()[-1]
    files = f"--onnx {args.onnx} --golden {args.golden}"
    assert golden == f"04_Parity.py {files} --report {args.work}/folder/golden.json"


def test_a_failed_command_raises_with_its_errors():
    assert arm_check.output_of("echo", "fine") == "fine\n"
    with pytest.raises(UserError, match=r"^ls -d /nowhere .*No such file"):
        arm_check.output_of("ls", "-d", "/nowhere")


def test_a_work_folder_that_make_cannot_take_is_refused(tmp_path):
    result = run(sys.executable, ROOT / "tools/arm_check.py", "emulate", "--work", "a folder", cwd=tmp_path)
    assert result.code == 2 and "--work: make cannot use a folder" in result.err and result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
