"""make doctor: every check is fed what another machine would tell, good and bad; no check is unable to fail."""

import sys
from pathlib import Path

import pytest
from conftest import ROOT, Chain, run

sys.path.insert(0, str(ROOT / "tools"))
import doctor

PI4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI5 = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
X86 = "flags\t\t: fpu sse sse2 ssse3 cx16 sse4_1 sse4_2 popcnt avx2\n"
OLD_X86 = "flags\t\t: fpu sse sse2 ssse3 cx16\n"
PINS = doctor.read_pins((ROOT / "requirements.txt").read_text())
WITHOUT_ONNXSCRIPT = {name: version for name, version in PINS.items() if name != "onnxscript"}
MOUNTS = "/dev/mmcblk0p2 / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n"


def meminfo(total: float, free: float) -> str:
    total, free = (int(gigabytes * 1e9 / 1024) for gigabytes in (total, free))
    return f"MemTotal: {total} kB\nMemFree: 9 kB\nMemAvailable: {free} kB\nSwapTotal: 102400 kB\n"


@pytest.mark.parametrize(
    ("expected", "told", "result"),
    [
        ("ok", "aarch64, 64-bit", doctor.check_architecture("aarch64", 64)),
        ("fail", "64-bit Raspberry Pi OS", doctor.check_architecture("aarch64", 32)),  # 64-bit kernel, 32-bit userland
        ("fail", "64-bit Raspberry Pi OS", doctor.check_architecture("armv7l", 32)),
        ("fail", "no wheels", doctor.check_architecture("riscv64", 64)),
        ("ok", "glibc 2.36", doctor.check_system("Linux", "glibc 2.36")),
        ("fail", "newer system", doctor.check_system("Linux", "glibc 2.27")),
        ("fail", "musl", doctor.check_system("Linux", "")),
        ("fail", "WSL", doctor.check_system("Darwin", "")),
        ("ok", "Raspberry Pi 4", doctor.check_processor("aarch64", PI4, PINS)),
        ("fail", "torch 2.10.0", doctor.check_processor("aarch64", PI4, {**PINS, "torch": "2.10.0"})),
        ("fail", "torch 2.6.0", doctor.check_processor("aarch64", PI4, {**PINS, "torch": "2.6.0"})),
        ("fail", "torch 2.4.0", doctor.check_processor("aarch64", PI4, {**PINS, "torch": "2.4.0"})),
        ("fail", "onnxruntime 1.21.0", doctor.check_processor("aarch64", PI4, {"onnxruntime": "1.21.0"})),
        ("ok", "atomics", doctor.check_processor("aarch64", PI5, {**PINS, "torch": "2.10.0"})),
        ("fail", "NEON", doctor.check_processor("aarch64", "Features\t: fp\n", PINS)),
        ("ok", "x86-64-v2", doctor.check_processor("x86_64", X86, PINS)),
        ("fail", "no popcnt, sse4_1, sse4_2", doctor.check_processor("x86_64", OLD_X86, PINS)),
        ("warn", "cpuinfo", doctor.check_processor("aarch64", "", PINS)),
        ("ok", "8.0 GB", doctor.check_memory(meminfo(8, 7))),
        ("warn", "--no-cache-dir", doctor.check_memory(meminfo(1.3, 1.2))),
        ("warn", "close other programs", doctor.check_memory(meminfo(4, 0.6))),
        ("fail", "1 GB or more", doctor.check_memory(meminfo(0.45, 0.3))),
        ("warn", "does not tell", doctor.check_memory("")),
        ("ok", "2.0 GB free", doctor.check_disk(int(2e9), "aarch64", False)),
        ("fail", "free some space", doctor.check_disk(int(1e9), "aarch64", False)),
        ("ok", "for data", doctor.check_disk(int(1e9), "aarch64", True)),
        ("fail", "TORCH_INDEX", doctor.check_disk(int(5e9), "x86_64", False)),
        ("warn", "TMPDIR", doctor.check_temporary(MOUNTS, "/tmp", int(2e9))),
        ("ok", "tmpfs", doctor.check_temporary(MOUNTS, "/tmp", int(8e9))),
        ("ok", "ext4", doctor.check_temporary(MOUNTS, "/home/pi/tmp", int(2e9))),
        ("ok", "3.11.2", doctor.check_python((3, 11, 2))),
        ("fail", "too old", doctor.check_python((3, 9, 2))),
        ("warn", "newer", doctor.check_python((3, 15, 0))),
        ("ok", "venv and pip", doctor.check_venv(True, True, needed=True)),
        ("fail", "python3-venv", doctor.check_venv(True, False, needed=True)),
        ("ok", "not needed", doctor.check_venv(True, False, needed=False)),
        ("ok", "4.3", doctor.check_make("GNU Make 4.3\nBuilt for aarch64-unknown-linux-gnu\n")),
        ("fail", "4.2.1", doctor.check_make("GNU Make 4.2.1\n")),
        ("fail", "gmake", doctor.check_make("")),
        ("ok", "not installed yet", doctor.check_packages(PINS, {}, expected=False)),
        ("fail", "missing: ", doctor.check_packages(PINS, {"pip": "23.0"}, True)),
        ("ok", "pinned versions", doctor.check_packages(PINS, {**PINS, "torch": PINS["torch"] + "+cpu"}, True)),
        ("ok", "pinned versions", doctor.check_packages({"font": "3.2"}, {"font": "3.002"}, True)),
        ("warn", "font 3.02.1 (pinned: ", doctor.check_packages({"font": "3.2"}, {"font": "3.02.1"}, True)),
        ("warn", "torch 2.8.0 (pinned: ", doctor.check_packages(PINS, {**PINS, "torch": "2.8.0"}, True)),
        (
            "fail",
            "missing: onnxscript",
            doctor.check_packages(PINS, WITHOUT_ONNXSCRIPT, True),
        ),
        ("ok", "none", doctor.check_cuda("aarch64", {"torch": "2.9.1"})),
        ("warn", "rm -rf .venv", doctor.check_cuda("aarch64", {"torch": "2.11.0", "nvidia-cudnn-cu13": "9.19.0.56"})),
        ("ok", "TORCH_INDEX", doctor.check_cuda("x86_64", {"torch": "2.9.1", "triton": "3.5.1"})),
        ("ok", "4 cores", doctor.check_threads(4, {})),
        ("ok", "64 cores", doctor.check_threads(64, {})),
        ("warn", "make THREADS=2", doctor.check_threads(2, {"OMP_NUM_THREADS": "8"})),
        ("warn", "to a number", doctor.check_threads(2, {"OMP_NUM_THREADS": "all"})),
        ("ok", "off", doctor.check_fast_math({})),
        ("warn", "unset DNNL_DEFAULT_FPMATH_MODE", doctor.check_fast_math({"DNNL_DEFAULT_FPMATH_MODE": "BF16"})),
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
    assert doctor.check_onnx(good)[:2] == ("ok", f"{good}: one file, free batch")
    path = tmp_path / "sudoku_digitnet.onnx"
    assert "not made yet" in doctor.check_onnx(path)[1]

    path.with_name("sudoku_digitnet.onnx.data").write_bytes(b"weights")
    assert doctor.check_onnx(path)[0] == "warn"  # the second file alone
    path.write_bytes(good.read_bytes())
    status, seen, cure = doctor.check_onnx(path)
    assert status == "warn" and "leftover" in seen and cure == f"rm {path}.data"

    model = onnx.load(good)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    assert doctor.check_onnx(path)[:2] == ("fail", f"{path} takes batches of 1 only")

    options = {"save_as_external_data": True, "location": "sudoku_digitnet.onnx.data", "size_threshold": 0}
    onnx.save(onnx.load(good), path, **options)
    status, seen, cure = doctor.check_onnx(path)
    assert status == "fail" and "second file" in seen and "make export" in cure

    for broken in (b"", b"not a model", good.read_bytes()[:1000]):
        path.write_bytes(broken)
        assert doctor.check_onnx(path)[0] == "fail"


def test_pins_are_read():
    assert doctor.read_pins("# a==1\nA_b.c==1.2+cpu  # why\nd>=2\n") == {"a-b-c": "1.2+cpu"}
    assert {"torch", "onnxruntime", "opencv-python-headless"} <= PINS.keys()


def test_exit_code_and_one_line_a_check(capsys: pytest.CaptureFixture):
    assert doctor.report([("a", doctor.ok("fine")), ("b", doctor.warn("hm", "do this"))]) == 0
    assert doctor.report([("a", doctor.ok("fine")), ("c", doctor.fail("broken", "do that"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line[:4].strip()][:2] == [["ok", "a"], ["warn", "b"]]
    assert "-> do that" in lines[-2] and lines[-1] == "1 ok, 0 to know, 1 in the way"


def test_it_runs_before_anything_is_installed(tmp_path: Path):
    """-I -S: no installed package can be imported, as on a new machine."""
    result = run(sys.executable, "-I", "-S", ROOT / "tools" / "doctor.py", cwd=tmp_path)
    assert "Traceback" not in result.err and "not installed yet" in result.out
    result = run("make", "-C", ROOT, "doctor", f"PYTHON={sys.executable}", f"OUT={tmp_path}")
    assert result.out.count("ok ") >= 10 and f"{tmp_path}/sudoku_digitnet.onnx: not made yet" in result.out
    result = run("make", "-C", ROOT, "doctor", f"VENV={tmp_path}/none")
    assert "Python " in result.out, "without the virtual environment, python3 answers"
    result = run(sys.executable, "-I", "-S", ROOT / "tools" / "doctor.py", "--own", cwd=tmp_path)
    assert result.code == 1 and "missing: " in result.out, "its own Python must have the packages"


def test_one_version_of_ruff():
    """The commit hooks check with the version that `make lint` uses."""
    pin = (ROOT / "requirements-dev.txt").read_text().strip()
    assert (ROOT / ".pre-commit-config.yaml").read_text().count(f"[{pin}]") == 2
