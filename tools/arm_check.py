#!/usr/bin/env python3
"""What the pinned packages are on a Raspberry Pi or Graviton, seen from an x86-64 machine with Debian's tools.

  tools/arm_check.py resolve           which wheels Python 3.11, 3.12, 3.13 get on aarch64; any CUDA among them?
  tools/arm_check.py emulate           unpacks them and runs import and the Makefile's steps on emulated processors
  tools/arm_check.py emulate --cpu cortex-a72 --profile photo --suite bookworm

`resolve` needs pip and packaging. `emulate` needs apt-get and dpkg of a Debian machine besides; everything is
unpacked into the folder --work, nothing is installed. Emulation shows whether instructions exist, not their speed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# The readers' machines: Raspberry Pi 4 (ARMv8.0), Raspberry Pi 5, Graviton2.
CPUS = ("cortex-a72", "cortex-a76", "neoverse-n1")
# Debian releases and their Python; Raspberry Pi OS has the same ones.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
# Wheel tags for glibc 2.28 and older on aarch64 (Raspberry Pi OS bookworm has 2.36).
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
# Made for a GPU, by name or by what a package's metadata say of it.
GPU_NAME = re.compile(r"^(nvidia-|cuda-|cupy|triton$|pytorch-triton)")
GPU_TEXT = re.compile(r"\b(cuda|nvidia)\b", re.IGNORECASE)
# Shared libraries of CUDA, as a wheel would carry them.
GPU_FILE = re.compile(r"lib(cuda|cudart|cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|torch_cuda)[^/]*\.so")
# Enough for every step to run, little enough for an emulator.
TINY = ("TRAIN=4", "VAL=2", "EPOCHS=1", "BATCH=64", "THREADS=1")


# --- which wheels ---------------------------------------------------------------------------------


def read_requirements(path: Path, pins: list[str]) -> list[Requirement]:
    """The lines of a requirements file, comments dropped, with `pins` in the place of lines for the same package."""
    lines = [line.partition(" #")[0].strip() for line in path.read_text().splitlines()]
    found = {canonicalize_name(r.name): r for r in map(Requirement, (x for x in lines if x and x[0] not in "#-"))}
    found.update({canonicalize_name(r.name): r for r in map(Requirement, pins)})
    return list(found.values())


def pip_target(python: str) -> list[str]:
    """pip's options for wheels of CPython `python` on aarch64, without dependencies.

    Dependencies are followed by `resolve`: pip itself would evaluate markers such as
    platform_machine == "x86_64" with the machine it runs on, and so list x86-64's CUDA packages.
    """
    platforms = [option for tag in TAGS for option in ("--platform", f"{tag}_aarch64")]
    abis = [option for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for option in ("--abi", abi)]
    return ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms, *abis]


def pip_install(python: str, requirements: list[str], *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    return subprocess.run([*command, *pip_target(python), *options, *requirements], capture_output=True, text=True)


def pip_errors(done: subprocess.CompletedProcess) -> str:
    """What pip ended with, without its warnings."""
    return " ".join(line for line in done.stderr.splitlines() if not line.startswith("WARNING")) or done.stderr


def environment(python: str) -> dict[str, str]:
    """PEP 508 markers of 64-bit Linux on Arm."""
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
    requirement against what was taken. Raises RuntimeError if pip finds no wheel or two requirements collide.
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
            raise RuntimeError(f"no wheels for Python {python} on aarch64: {pip_errors(done)}")
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
            if "wheel" in chosen[name] and not requirement.specifier.contains(
                chosen[name]["version"], prereleases=True
            ):
                raise RuntimeError(f"{requirement} collides with {name} {chosen[name]['version']}")
    return chosen


def gpu_reasons(chosen: dict[str, dict]) -> list[str]:
    """Packages of a resolved set that are made for an NVIDIA GPU, each with what says so; empty if none."""
    reasons = []
    for name, data in sorted(chosen.items()):
        told = [data.get("summary", ""), *data.get("keywords", []), *data.get("classifier", [])]
        said = [text for text in told if GPU_TEXT.search(text)]
        if GPU_NAME.search(name):
            reasons.append(f"{name} {data['version']}: by its name")
        elif said:
            reasons.append(f"{name} {data['version']}: {said[0]}")
    return reasons


def gpu_files(folder: Path) -> list[str]:
    """CUDA libraries among the files of the unpacked wheels, from their RECORDs."""
    records = folder.glob("*.dist-info/RECORD")
    return [
        line.split(",")[0] for record in records for line in record.read_text().splitlines() if GPU_FILE.search(line)
    ]


def command_resolve(args: argparse.Namespace) -> int:
    failed = False
    for file in args.requirements:
        for python in args.python:
            try:
                chosen = resolve(read_requirements(file, args.pin), python, args.work)
            except RuntimeError as error:
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


# --- an aarch64 machine in a folder -----------------------------------------------------------------


def apt(work: Path, architecture: str, suite: str, *command: str) -> None:
    """apt-get with its state in `work`, for another architecture or release, from the machine's own mirror."""
    state = work / f"apt-{suite}-{architecture}"
    if not state.exists():
        for part in ("state/lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Component: main"]
        mirrors = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
        mirror = next(mirror for mirror in mirrors if mirror.rstrip("/").endswith("/debian"))
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (state / "sources.list").write_text(f"deb [signed-by={key}] {mirror} {suite} main\n")
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
        subprocess.run(["apt-get", *options, *quiet, "update"], check=True)
    subprocess.run(["apt-get", *options, *quiet, *command], check=True, stdout=subprocess.DEVNULL)


def unpack_debs(work: Path, architecture: str, suite: str, packages: list[str], folder: Path) -> None:
    """Unpacks Debian packages and all that they depend on into `folder`; nothing is installed."""
    if folder.exists():
        return
    apt(work, architecture, suite, "install", *packages)
    new = folder.with_name(f".{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for deb in sorted((work / f"apt-{suite}-{architecture}/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", deb, new], check=True)
    if not (new / "lib").exists():  # trixie's packages have everything under usr
        (new / "lib").symlink_to("usr/lib")
    new.rename(folder)


def find_qemu(work: Path) -> str:
    """The machine's own qemu-aarch64; else Debian's static one, unpacked into `work`."""
    own = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if own:
        return own
    host = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    unpack_debs(work, host, "trixie", ["qemu-user"], work / "qemu")
    return str(work / "qemu/usr/bin/qemu-aarch64")


def unpack_wheels(python: str, args: argparse.Namespace) -> Path:
    """Resolves the first requirements file and unpacks its wheels; returns the folder for PYTHONPATH."""
    chosen = resolve(read_requirements(args.requirements[0], args.pin), python, args.work)
    pins = sorted(f"{name}=={data['version']}" for name, data in chosen.items())
    folder, listing = args.work / f"wheels-{python}", args.work / f"wheels-{python}.txt"
    if not listing.exists() or listing.read_text() != "\n".join(pins):
        shutil.rmtree(folder, ignore_errors=True)
        done = pip_install(python, pins, f"--target={folder}")
        if done.returncode:
            raise RuntimeError(f"pip could not unpack the wheels: {pip_errors(done)}")
        listing.write_text("\n".join(pins))
    reasons = gpu_reasons(chosen) + gpu_files(folder)
    if reasons:
        raise RuntimeError(f"CUDA in the wheels for Python {python}: {'; '.join(reasons)}")
    size = sum(file.lstat().st_size for file in folder.rglob("*")) / 1e6
    print(f"Python {python}: {len(pins)} wheels, {size:.0f} MB unpacked, no CUDA")
    return folder


def write_python(cpu: str, python: str, qemu: str, wheels: Path, work: Path) -> Path:
    """A command that is Python on the emulated processor, for the Makefile's PYTHON=."""
    sysroot = work / f"sysroot-{python}"
    file = work / f"python-{python}-{cpu}"
    file.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={wheels} PYTHONPYCACHEPREFIX={work}/pycache-{python} OMP_NUM_THREADS=1 MPLBACKEND=Agg\n"
        f'exec {qemu} -cpu {cpu} -L {sysroot} {sysroot}/usr/bin/python{python} -X faulthandler "$@"\n'
    )
    file.chmod(0o755)
    return file


# One instruction of ARMv8.1 (LSE ldaddal), which a Raspberry Pi 4 has not: it must trap there, else nothing is shown.
CONTROL = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write((0xB8E10002).to_bytes(4, "little") + (0xD65F03C0).to_bytes(4, "little"))
cell = ctypes.create_string_buffer(16)
ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))(
    ctypes.addressof(cell), 1)
"""

# Every package is loaded, and OpenCV and matplotlib do what the scripts and the later chapters ask of them.
IMPORT = """
import platform, numpy as np, cv2, torch, torchvision, onnx, onnxruntime, onnxscript, PIL, tqdm
assert platform.machine() == "aarch64" and torch.version.cuda is None, (platform.machine(), torch.version.cuda)
rng = np.random.default_rng(0)
page = rng.integers(0, 256, (450, 450), np.uint8)
colour = cv2.cvtColor(page, cv2.COLOR_GRAY2BGR)
for kind in (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA):
    for image in (page, colour, page.astype(np.float32)):
        cv2.resize(image, (28, 28), interpolation=kind); cv2.resize(image, (613, 577), interpolation=kind)
square = np.float32([[0, 0], [449, 0], [449, 449], [0, 449]])
bent = square + rng.normal(0, 9, (4, 2)).astype(np.float32)
grid = np.stack(np.meshgrid(np.arange(450), np.arange(450)), -1).astype(np.float32) + 0.3
for image in (page, colour, page.astype(np.float32)):
    cv2.warpPerspective(image, cv2.getPerspectiveTransform(square, bent), (450, 450), borderMode=cv2.BORDER_REPLICATE)
    cv2.warpAffine(image, np.float32([[1, 0.1, 2], [0, 0.9, 1]]), (450, 450))
    cv2.remap(image, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR)
    cv2.GaussianBlur(image, (5, 5), 1.1); cv2.GaussianBlur(image, (0, 0), 3.0); cv2.blur(image, (3, 3))
    cv2.filter2D(image, -1, np.ones((5, 5), np.float32) / 25); cv2.Sobel(image, cv2.CV_32F, 1, 0)
    cv2.addWeighted(image, 0.5, image, 0.5, 3); cv2.absdiff(image, image); cv2.multiply(image, image)
    cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX); cv2.meanStdDev(image); cv2.flip(image, 1)
cv2.medianBlur(page, 5); cv2.equalizeHist(page); cv2.createCLAHE(2.0, (8, 8)).apply(page); cv2.LUT(page, page[0][:256])
ink = cv2.adaptiveThreshold(page, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 31, 5)
cv2.threshold(page, 0, 255, cv2.THRESH_OTSU); cv2.Canny(page, 50, 150)
ink = cv2.dilate(cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)), None); cv2.erode(ink, None)
outline = max(cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0], key=cv2.contourArea)
cv2.approxPolyDP(outline, 0.02 * cv2.arcLength(outline, True), True); cv2.connectedComponentsWithStats(ink)
cv2.putText(page, "5", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 0, 2, cv2.LINE_AA)
cv2.line(page, (0, 0), (99, 50), 0, 3)
cv2.HoughLinesP(ink, 1, 0.02, 80); cv2.dft(page.astype(np.float32)); cv2.cvtColor(colour, cv2.COLOR_BGR2LAB)
for kind in (".png", ".jpg", ".webp"):
    assert cv2.imdecode(cv2.imencode(kind, colour)[1], cv2.IMREAD_GRAYSCALE).shape == page.shape
said = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}"
try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    print(said)
else:
    from matplotlib import __version__, font_manager, ft2font
    from PIL import Image, ImageDraw, ImageFont
    figure, axes = plt.subplots(1, 2); axes[0].plot([0, 1], [1, 0], label="$x^2$"); axes[0].legend()
    axes[1].imshow(page, cmap="gray"); figure.savefig("/dev/null", format="png", dpi=70)
    fonts = font_manager.findSystemFonts(__import__("os").environ["PYTHONPATH"])
    for font in fonts:
        face = ft2font.FT2Font(font); face.set_size(24, 72); face.set_text("1234567890"); face.draw_glyphs_to_bitmap()
        ImageDraw.Draw(Image.new("L", (99, 32))).text((0, 0), "1234567890", 255, ImageFont.truetype(font, 24))
    print(f"{said}, matplotlib {__version__}, {len(fonts)} font files drawn")
"""


def run_step(command: list, log: Path) -> tuple[bool, str]:
    """Runs a command, output to `log`; returns whether it went well and what to say in a table."""
    start = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run([str(x) for x in command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    lines = log.read_text(errors="replace").strip().splitlines()
    trap = any("Illegal instruction" in line for line in lines) or code in (-4, 132)
    said = "pass" if code == 0 else "ILLEGAL INSTRUCTION" if trap else f"FAIL, exit code {code}"
    print(f"  {log.stem}: {said} ({time.monotonic() - start:.0f} s) {lines[-1][:150] if lines else ''}", flush=True)
    return code == 0, said


def copy_boards(folder: Path, count: int = 2) -> Path:
    """The first real boards of the repository, in a folder of their own: all of them would take hours."""
    real = ROOT / "data" / "real"
    lines = (real / "labels.csv").read_text().splitlines()[: 1 + count]
    (folder / "boards").mkdir(parents=True)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        shutil.copy(real / "boards" / f"{line.partition(',')[0]}.jpg", folder / "boards")
    return folder


def command_emulate(args: argparse.Namespace) -> int:
    python = SUITES[args.suite]
    qemu = find_qemu(args.work)
    print(subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0])
    system = [f"python{python}", f"libpython{python}", "libstdc++6", "libgomp1", "libgcc-s1"]
    unpack_debs(args.work, "arm64", args.suite, system, args.work / f"sysroot-{python}")
    wheels = unpack_wheels(python, args)
    failed = False
    rows = []
    for cpu in args.cpu:
        print(f"{cpu}, Python {python}, {args.profile}", flush=True)
        folder = args.work / f"{cpu}-{python}-{args.profile}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        emulated = write_python(cpu, python, qemu, wheels, args.work)
        trapped = not run_step([emulated, "-c", CONTROL], folder / "control.log")[0]
        if trapped != (cpu == "cortex-a72"):
            print("  FAIL: ldaddal must trap on an ARMv8.0 processor and run on the others")
            failed = True
        row = ["traps" if trapped else "runs"]
        settings = [f"PYTHON={emulated}", f"PROFILE={args.profile}", f"REAL={copy_boards(folder / 'real')}"]
        settings += [f"DATA={folder}/data", f"OUT={folder}/out", *TINY]
        for step in args.steps:
            command = [emulated, "-c", IMPORT] if step == "import" else ["make", *settings, step]
            fine, said = run_step(command, folder / f"{step}.log")
            row.append(said)
            failed |= not fine
            if not fine:
                break
        rows.append([cpu, *row, *["not run"] * (len(args.steps) + 1 - len(row))])
    heads = ["CPU", "LSE control", *args.steps]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["resolve", "emulate"])
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/emu"), metavar="DIR", help="folder for all that is fetched"
    )
    parser.add_argument("--requirements", type=Path, nargs="+", metavar="FILE", help="default: both of the repository")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME==VERSION", help="in the place of a pin")
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"], metavar="X.Y", help="for resolve")
    parser.add_argument("--suite", choices=SUITES, default="bookworm", help="for emulate: bookworm 3.11, trixie 3.13")
    parser.add_argument("--cpu", nargs="+", default=CPUS, metavar="NAME", help="as qemu-aarch64 -cpu names them")
    parser.add_argument("--profile", choices=["tutorial", "photo"], default="tutorial")
    steps = ["import", "data", "train", "export", "parity", "evaluate"]
    parser.add_argument("--steps", nargs="+", default=steps, metavar="STEP", help="import, and targets of the Makefile")
    args = parser.parse_args()
    if not args.requirements:
        args.requirements = [ROOT / "requirements.txt", *ROOT.glob("requirements-inference.txt")]
    args.work.mkdir(parents=True, exist_ok=True)
    return command_resolve(args) if args.what == "resolve" else command_emulate(args)


if __name__ == "__main__":
    sys.exit(main())
