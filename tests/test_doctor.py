"""make doctor: every check is fed what another machine would tell, good and bad; no check is unable to fail."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Chain, run

sys.path.insert(0, str(ROOT / "tools"))
from doctor import report
from doctor_machine import (
    FAST_MATH,
    check_architecture,
    check_disk,
    check_fast_math,
    check_memory,
    check_processor,
    check_system,
    check_temporary,
    check_threads,
)
from doctor_onnx import check_onnx
from doctor_packages import check_cuda, check_make, check_packages, check_python, check_venv, read_pins
from doctor_status import fail, ok, warn

PI4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI5 = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
X86 = "flags\t\t: fpu sse sse2 ssse3 cx16 sse4_1 sse4_2 popcnt avx2\n"
OLD_X86 = "flags\t\t: fpu sse sse2 ssse3 cx16\n"
PINS = read_pins((ROOT / "requirements.txt").read_text())
WITHOUT_ONNXSCRIPT = {name: version for name, version in PINS.items() if name != "onnxscript"}
MOUNTS = "/dev/mmcblk0p2 / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"


def meminfo(total: float, free: float, swap: float = 0.1) -> str:
    """/proc/meminfo of a machine with so many gigabytes; the swap is empty yet."""
    total, free, swap = (int(gigabytes * 1e9 / 1024) for gigabytes in (total, free, swap))
    lines = {"MemTotal": total, "MemFree": 9, "MemAvailable": free, "SwapTotal": swap, "SwapFree": swap}
    return "".join(f"{name}: {kib} kB\n" for name, kib in lines.items())


@pytest.mark.parametrize(
    ("expected", "told", "result"),
    [
        ("ok", "aarch64, 64-bit", check_architecture("aarch64", 64)),
        ("fail", "64-bit Raspberry Pi OS", check_architecture("aarch64", 32)),  # 64-bit kernel, 32-bit userland
        ("fail", "64-bit Raspberry Pi OS", check_architecture("armv7l", 32)),
        ("fail", "no wheels", check_architecture("riscv64", 64)),
        ("ok", "glibc 2.36", check_system("Linux", "glibc 2.36")),
        ("fail", "newer system", check_system("Linux", "glibc 2.27")),
        ("fail", "musl", check_system("Linux", "")),
        ("fail", "WSL", check_system("Darwin", "")),
        ("ok", "Raspberry Pi 4", check_processor("aarch64", PI4, PINS)),
        ("fail", "torch 2.10.0", check_processor("aarch64", PI4, {**PINS, "torch": "2.10.0"})),
        ("fail", "torch 2.6.0", check_processor("aarch64", PI4, {**PINS, "torch": "2.6.0"})),
        ("fail", "torch 2.4.0", check_processor("aarch64", PI4, {**PINS, "torch": "2.4.0"})),
        ("fail", "onnxruntime 1.21.0", check_processor("aarch64", PI4, {"onnxruntime": "1.21.0"})),
        ("ok", "atomics", check_processor("aarch64", PI5, {**PINS, "torch": "2.10.0"})),
        ("fail", "NEON", check_processor("aarch64", "Features\t: fp\n", PINS)),
        ("ok", "x86-64-v2", check_processor("x86_64", X86, PINS)),
        ("fail", "no popcnt, sse4_1, sse4_2", check_processor("x86_64", OLD_X86, PINS)),
        ("warn", "cpuinfo", check_processor("aarch64", "", PINS)),
        ("ok", "8.0 GB", check_memory(meminfo(8, 7))),
        ("warn", "--no-cache-dir", check_memory(meminfo(1.3, 1.2))),
        ("warn", "have 2 GB of swap", check_memory(meminfo(0.95, 0.7))),  # a Raspberry Pi with 1 GB as it comes
        ("warn", "have 2 GB of swap", check_memory(meminfo(0.95, 0.7, swap=0.8))),
        ("ok", "enough with the swap", check_memory(meminfo(0.95, 0.7, swap=2.1))),
        ("ok", "enough with the swap", check_memory(meminfo(1.3, 0.2, swap=1.1))),
        ("warn", "close other programs", check_memory(meminfo(4, 0.6))),
        ("warn", "close other programs", check_memory(meminfo(1.6, 0.6, swap=0.4))),
        ("ok", "0.6 GB of it free", check_memory(meminfo(4, 0.6, swap=2))),
        ("fail", "1 GB or more", check_memory(meminfo(0.45, 0.3))),
        ("fail", "1 GB or more", check_memory(meminfo(0.45, 0.3, swap=2))),
        ("warn", "does not tell", check_memory("")),
        ("ok", "2.0 GB free", check_disk(int(2e9), "aarch64", False)),
        ("fail", "free some space", check_disk(int(1e9), "aarch64", False)),
        ("ok", "for data", check_disk(int(1e9), "aarch64", True)),
        ("fail", "TORCH_INDEX", check_disk(int(5e9), "x86_64", False)),
        ("fail", "12.0 GB needed", check_disk(int(11.7e9), "x86_64", False)),  # less than wheels and packages take
        ("ok", "12.0 GB needed", check_disk(int(12.1e9), "x86_64", False)),
        ("fail", "1.5 GB needed", check_disk(int(1.4e9), "riscv64", False)),
        ("warn", "TMPDIR", check_temporary(MOUNTS, "/tmp", int(2e9))),
        ("ok", "tmpfs", check_temporary(MOUNTS, "/tmp", int(8e9))),
        ("ok", "ext4", check_temporary(MOUNTS, "/home/pi/tmp", int(2e9))),
        ("ok", "3.11.2", check_python((3, 11, 2))),
        ("fail", "too old", check_python((3, 9, 2))),
        ("warn", "newer", check_python((3, 15, 0))),
        ("ok", "venv and pip", check_venv(True, True, needed=True)),
        ("fail", "python3-venv", check_venv(True, False, needed=True)),
        ("ok", "not needed", check_venv(True, False, needed=False)),
        ("ok", "4.3", check_make("GNU Make 4.3\nBuilt for aarch64-unknown-linux-gnu\n")),
        ("fail", "4.2.1", check_make("GNU Make 4.2.1\n")),
        ("fail", "gmake", check_make("")),
        ("ok", "not installed yet", check_packages(PINS, {}, expected=False)),
        ("fail", "missing: ", check_packages(PINS, {"pip": "23.0"}, True)),
        ("ok", "pinned versions", check_packages(PINS, {**PINS, "torch": PINS["torch"] + "+cpu"}, True)),
        ("ok", "pinned versions", check_packages({"font": "3.2"}, {"font": "3.002"}, True)),
        ("warn", "font 3.02.1 (pinned: ", check_packages({"font": "3.2"}, {"font": "3.02.1"}, True)),
        ("warn", "torch 2.8.0 (pinned: ", check_packages(PINS, {**PINS, "torch": "2.8.0"}, True)),
        ("fail", "missing: onnxscript", check_packages(PINS, WITHOUT_ONNXSCRIPT, True)),
        ("ok", "none", check_cuda("aarch64", {"torch": "2.9.1"})),
        ("ok", "none", check_cuda("aarch64", {"tritonclient": "2.0", "barracuda-tools": "1.0"})),
        ("warn", "rm -rf .venv", check_cuda("aarch64", {"torch": "2.11.0", "nvidia-cudnn-cu13": "9.19.0.56"})),
        ("warn", "such as cupy-cuda13x", check_cuda("aarch64", {"cupy-cuda13x": "14.0"})),
        ("ok", "TORCH_INDEX", check_cuda("x86_64", {"torch": "2.9.1", "triton": "3.5.1"})),
        ("ok", "4 cores", check_threads(4, {})),
        ("ok", "64 cores", check_threads(64, {})),
        ("warn", "make THREADS=2", check_threads(2, {"OMP_NUM_THREADS": "8"})),
        ("warn", "to a number", check_threads(2, {"OMP_NUM_THREADS": "all"})),
        ("ok", "off", check_fast_math({})),
        ("ok", "off", check_fast_math({"DNNL_DEFAULT_FPMATH_MODE": "strict", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"})),
        ("warn", "unset DNNL_DEFAULT_FPMATH_MODE before", check_fast_math({"DNNL_DEFAULT_FPMATH_MODE": "BF16"})),
        ("warn", f"unset {' '.join(FAST_MATH)} before", check_fast_math(dict.fromkeys(FAST_MATH, "BF16"))),
    ],
)
def test_each_check(expected: str, told: str, result: tuple):
    status, seen, cure = result
    assert status == expected
    assert told in f"{seen} -> {cure}"
    assert bool(cure) == (status != "ok"), "what is not ok says what to do, and nothing else does"


def test_an_exported_file_is_judged(built: Chain, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    good = built.out / "sudoku_digitnet.onnx"
    assert check_onnx(good)[:2] == ("ok", f"{good}: one file, free batch")
    path = tmp_path / "sudoku_digitnet.onnx"
    assert "not made yet" in check_onnx(path)[1]

    path.with_name("sudoku_digitnet.onnx.data").write_bytes(b"weights")
    assert check_onnx(path)[0] == "warn"  # the second file alone
    path.write_bytes(good.read_bytes())
    status, seen, cure = check_onnx(path)
    assert status == "warn" and "leftover" in seen and cure == f"rm {path}.data"

    model = onnx.load(good)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    assert check_onnx(path)[:2] == ("fail", f"{path} takes batches of 1 only")

    for broken in (b"", b"not a model", *(good.read_bytes()[:size] for size in range(1, 9000, 997))):
        path.write_bytes(broken)
        assert check_onnx(path)[0] == "fail", len(broken)


@pytest.mark.parametrize("location", ["sudoku_digitnet.onnx.data", "weights.bin"])
def test_weights_in_a_second_file_are_found_whatever_its_name(built: Chain, tmp_path: Path, location: str):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "sudoku_digitnet.onnx"
    options = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(onnx.load(built.out / "sudoku_digitnet.onnx"), path, **options)
    status, seen, cure = check_onnx(path)
    assert status == "fail" and f"a second file, {location}, and" in seen and "make export" in cure


def test_a_name_in_the_model_is_no_second_file(built: Chain, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(built.out / "sudoku_digitnet.onnx")
    model.doc_string = "was once sudoku_digitnet.onnx.data"
    onnx.save(model, tmp_path / "sudoku_digitnet.onnx")
    assert check_onnx(tmp_path / "sudoku_digitnet.onnx")[0] == "ok"


def test_what_is_no_file_is_told(tmp_path: Path):
    assert check_onnx(tmp_path)[:2] == ("fail", f"{tmp_path} is not a file")
    result = run(sys.executable, ROOT / "tools" / "doctor.py", "--onnx", tmp_path)
    assert result.code == 1 and "Traceback" not in result.err and f"{tmp_path} is not a file" in result.out
    (tmp_path / "memory.onnx").symlink_to("/proc/self/mem")  # a file that root cannot read either
    assert "cannot be read (Input/output error)" in check_onnx(tmp_path / "memory.onnx")[1]


def test_pins_are_read():
    assert read_pins("# a==1\nA_b.c==1.2+cpu  # why\nd>=2\n") == {"a-b-c": "1.2+cpu"}
    assert {"torch", "onnxruntime", "opencv-python-headless"} <= PINS.keys()


def test_exit_code_and_one_line_a_check(capsys: pytest.CaptureFixture):
    assert report([("a", ok("fine")), ("b", warn("hm", "do this"))]) == 0
    assert report([("a", ok("fine")), ("c", fail("broken", "do that"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line[:4].strip()][:2] == [["ok", "a"], ["warn", "b"]]
    assert "-> do that" in lines[-2] and lines[-1] == "1 ok, 0 to know, 1 in the way"


def test_it_runs_before_anything_is_installed(tmp_path: Path):
    """-S: no installed package can be imported, as on a new machine; -I: nor what lies beside the script."""
    result = run(sys.executable, "-I", "-S", ROOT / "tools" / "doctor.py", cwd=tmp_path)
    assert "Traceback" not in result.err and "not installed yet" in result.out
    result = run("make", "-C", ROOT, "doctor", f"PYTHON={sys.executable}", f"OUT={tmp_path}")
    assert result.out.count("ok ") >= 10 and f"{tmp_path}/sudoku_digitnet.onnx: not made yet" in result.out
    result = run("make", "-C", ROOT, "doctor", f"VENV={tmp_path}/none")
    assert "Python " in result.out, "without the virtual environment, python3 answers"
    result = run(sys.executable, "-I", "-S", ROOT / "tools" / "doctor.py", "--own", cwd=tmp_path)
    assert result.code == 1 and "missing: " in result.out, "its own Python must have the packages"


def test_parity_blames_the_variables_that_doctor_warns_of():
    assert runpy.run_path(str(ROOT / "04_Parity.py"))["FAST_MATH"] == FAST_MATH
