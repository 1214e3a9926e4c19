# SPDX-License-Identifier: Apache-2.0
"""Fill a virtual environment for make: venv.py STAMP REQUIREMENTS PYTHON3 [OPTIONS OF PIP]; PYTHON3 may be "".

Needs the standard library and the syntax of Python 3.7 only, as it may run on an older Python than it looks for.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SUPPORTED = {f"CPython 3.{minor}, 64-bit": f"python3.{minor}" for minor in (14, 13, 12, 11)}  # the pins have wheels
NO_PYTHON = "no 64-bit CPython 3.11 to 3.14 with venv is found (Debian: python3-venv): name one with PYTHON3=..."
ELSEWHERE = "name a folder on another disk: VENV=$HOME/sudoku-venv"
CURES = f"check disk, network and pip's settings (`{{}} -m pip config list`); if that disk is noexec, {ELSEWHERE}"
MODULES = {"fonttools": "fontTools", "opencv-python-headless": "cv2", "pillow": "PIL", "pytest-xdist": "xdist"}
PROBE = """import platform as p, sys, sysconfig
kind = "%s %d.%d, %d-bit" % (p.python_implementation(), *sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32)
print(kind + ", free-threaded" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")), flush=True)
for name in sys.argv[1:]: print("import", name, flush=True), __import__(name)"""


def run(*command: object) -> tuple:
    """Run a command; return the lines that it prints, and the reason if it fails, else ""."""
    env, pipe = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "MPLCONFIGDIR": os.devnull}, subprocess.PIPE
    try:
        process = subprocess.Popen(list(map(str, command)), env=env, stdout=pipe, stderr=pipe, errors="replace")
    except OSError as error:
        return [], error.strerror
    printed, errors = (text.splitlines() for text in process.communicate())
    code, causes = process.returncode, [line for line in errors if re.search(r"Error: \S", line)]
    reason = (causes[:1] or errors[-1:] or [f"exit code {code}"])[0]  # the first is the cause, the last may be advice
    return printed, f"killed by {signal.Signals(-code).name}" if code < 0 else reason if code else ""


def find_python(wanted: str = "") -> str:
    """Return the first Python that is supported and makes environments, `wanted` or else the usual names; or ""."""
    for name in [wanted] if wanted else ["python3", *SUPPORTED.values()]:
        printed, error = run(name, "-Ic", PROBE, "venv", "ensurepip")
        if not error and printed and printed[0] in SUPPORTED:
            return name
    return ""


def install(folder: Path, requirements: Path, wanted: str, options: list) -> None:
    """Make the environment anew if its Python is gone or another, fill it, import it; exit with one line if not."""
    python, stamp = f"{folder}/bin/python", folder / ".installed"
    moved = stamp.exists() and stamp.read_text().strip() != os.path.realpath(python)
    if moved or not (folder / "pyvenv.cfg").exists() or not find_python(python):
        if folder.is_symlink() or (any(folder.glob("*")) and not stamp.exists()):  # venv empties what a link leads to
            sys.exit(f"make: {folder} is not make's, or its Python does not fit: move it away, or name another: VENV=")
        base = find_python(wanted) or sys.exit(f"make: {NO_PYTHON}")
        reason = run(base, "-Im", "venv", "--clear", "--without-pip", folder)[1]
        if reason:
            shutil.rmtree(str(folder), ignore_errors=True)  # half an environment would look like someone else's
            sys.exit(f"make: cannot make {folder} ({reason}): disk full, or without symbolic links? Then {ELSEWHERE}")
    reason = run(python, "-Im", "pip", "--version")[1] and run(python, "-Im", "ensurepip", "--default-pip")[1]
    pip = [python, "-Im", "pip", "install", "--no-cache-dir", "--no-compile", "--disable-pip-version-check", *options]
    env = {**os.environ, "TMPDIR": str(folder.resolve())}  # /tmp may be in memory, and fill a small Raspberry Pi
    if not reason and subprocess.call([*pip, "-r", str(requirements)], env=env):
        reason = "see above"
    modules = [MODULES.get(x, x.replace("-", "_")) for x in re.findall(r"(?m)^([\w-]+)==", requirements.read_text())]
    reason = reason or run(python, "-Ic", PROBE, *modules)[1]
    if reason:
        sys.exit(f"make: {requirements} is not installed in {folder} ({reason}): {CURES.format(python)}")


def main(stamp: Path, requirements: Path, wanted: str, *options: str) -> None:
    """Install, unless another process does it meanwhile; write the stamp when all is on the disk."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    before = stamp.exists() and stamp.stat().st_mtime_ns
    with contextlib.suppress(OSError):  # not all file systems have locks
        fcntl.flock(os.open(str(stamp.parent.parent), os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends
    if before == (stamp.exists() and stamp.stat().st_mtime_ns):
        install(stamp.parent, requirements, wanted, list(options))
        os.sync()
        stamp.write_text(os.path.realpath(f"{stamp.parent}/bin/python") + "\n")
        os.sync()


if __name__ == "__main__":
    try:
        print(__doc__) if len(sys.argv) < 4 else main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f"make: {str(error) or 'interrupted'}")
