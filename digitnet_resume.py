"""Interrupted training goes on: the state of a run on disk, and signals that wait until a step is done.

A resumed run ends in the same weights, byte for byte, as one that was never interrupted: all that a step depends on
is in the state, and the state is used only by the same scripts with the same settings on the same cells.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

from digitnet_cli import sha256, write_file

import torch

SOURCES = (  # what the weights hang on
    "03_Training.py", "digitnet_data.py", "digitnet_learner.py", "digitnet_model.py", "digitnet_processes.py",
    "digitnet_resume.py", "digitnet_sampling.py", "digitnet_scores.py",
)  # fmt: skip


def fingerprint(settings: dict, data: dict[str, str]) -> dict[str, str]:
    """What must be the same for a run to go on: settings, digests of the cells, scripts, PyTorch."""
    folder = Path(__file__).resolve().parent
    same = {name: json.dumps(value, default=str) for name, value in settings.items()}
    return same | data | {name: sha256(folder / name) for name in SOURCES} | {"PyTorch": str(torch.__version__)}


def save_weights(state: dict, path: Path) -> None:
    """torch.save, whole or not at all, with the same bytes for the same state."""
    buffer = io.BytesIO()  # torch.save would write the temporary file's name into the file
    torch.save(state, buffer)
    write_file(path, lambda name: Path(name).write_bytes(buffer.getvalue()))


def read_state(path: Path, run: dict[str, str]) -> dict | None:
    """The state of the interrupted run at `path`, or None, told in one line, if there is none to go on from.

    Code in the file is never run. `run` is this run's `fingerprint`.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["run"]
    except Exception as error:  # pickle's, zip's and torch's errors have no common base class
        reason = str(error).partition("\n")[0][:120]
        print(f"{path} cannot be read, training starts anew ({reason})")
        return None
    if changed := [name for name in run.keys() | theirs.keys() if run.get(name) != theirs.get(name)]:
        print(f"{path} is of an interrupted run with other {', '.join(sorted(changed))}: training starts anew")
        return None
    return state


class Signals:
    """Ctrl-C and SIGTERM wait for the step that is under way; a second one does not."""

    def __init__(self) -> None:
        self.seen = 0  # the signal's number
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(self, number: int, _) -> None:
        self.restore()
        self.seen = number

    def restore(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def leave(self, where: str, path: Path) -> None:
        """Ends the process as the signal asked, with one line saying how to go on."""
        print(f"\n03_Training.py: interrupted {where}; the same command goes on from there ({path})", file=sys.stderr)
        sys.exit(128 + self.seen)
