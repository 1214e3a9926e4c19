# SPDX-License-Identifier: Apache-2.0
"""A Python that has its packages imported already, which saves each process that the tests start 2 to 8 seconds.

start() returns a program to call as `python script.py ...`, `python -m module ...` or `python -c code ...`. It hands
its arguments, folder, variables, cores and streams to a server that has imported the packages (PACKAGES), and the
server forks. So the script runs in a process of its own, as __main__, from its first line on; modules of this
repository are imported anew. A signal to the program reaches the script, and if the program is killed, so is the
script; limits (ulimit) do not reach it. Any other call, such as with -S, goes to the interpreter itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

VARIABLE = "WARM_PYTHON"  # names the program
PACKAGES = [
    *("numpy", "cv2", "fontTools.ttLib", "PIL.Image", "tqdm", "matplotlib.figure", "onnx", "onnxruntime"),
    *("torch", "torch._dynamo", "torch.distributed.run", "torch.onnx._internal.exporter._core", "onnxscript"),
]

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
words = sys.argv[1:]
if not words or words[0].startswith("-") and words[0] not in ("-c", "-m"):
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = {{"program": sys.argv[0], "words": words, "folder": os.getcwd(), "variables": dict(os.environ)}}
request["cores"] = list(os.sched_getaffinity(0))
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
pid = int(server.recv(32))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(server.recv(32) or 1)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def start() -> str:
    """Start the server, which ends with this process, and return the program that stands for `python`.

    A process that is started by one with a server shares that server.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    address, client = str(folder / "socket"), folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    command = [sys.executable, __file__, str(listener.fileno()), str(folder)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    pipe, _held = os.pipe()  # the server ends when `_held` is closed, as it is when this process ends
    subprocess.Popen(command, env=variables, stdin=pipe, pass_fds=[listener.fileno()], start_new_session=True)
    os.close(pipe)
    os.environ[VARIABLE] = str(client)
    return str(client)


def serve(listener: socket.socket, folder: Path) -> None:
    """Fork for each request; returns in the process that is to run it, and never in the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # closed: the tests are over
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit()
        for package in PACKAGES:
            importlib.import_module(package)
        gc.freeze()
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return accompany(client)
        client.close()


def accompany(client: socket.socket) -> None:
    """Fork once more; the child returns, with what the client asks for, and its parent reports how it ends."""
    content, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if child := os.fork():
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(child)
        with contextlib.suppress(OSError):  # the client was killed; the next line notices
            client.send(str(child).encode())
        if client in select.select([client, ended], [], [])[0]:  # it was killed
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            client.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    become(**json.loads(content))


def become(program: str, words: list[str], folder: str, variables: dict[str, str], cores: list[int]) -> None:
    """Make this process look like one that has just been started."""
    sys.executable, sys.argv = program, words
    os.sched_setaffinity(0, cores)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def run() -> None:
    """Run what sys.argv names as `python` would."""
    if sys.argv[0] == "-m":
        sys.argv.pop(0)
        sys.path[0] = os.getcwd()
        sys.modules.pop(sys.argv[0], None)  # of PACKAGES: runpy would warn that it runs a second time
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif sys.argv[0] == "-c":
        sys.path[0] = ""
        exec(compile(sys.argv.pop(1), "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def exit_code() -> int:
    """Run, and return the code of what ended it, as `python` would with what it prints."""
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
    code = exit_code()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # taking down the imported packages would take a second
