"""Golden vectors: inputs with the logits that PyTorch gave for them, for the check on a machine without PyTorch.

Needs numpy and onnxruntime. The file is a .npz that holds arrays alone, no code:
  inputs   float32 [N, 1, 28, 28]: normalized cells
  logits   float32 [N, 10]: PyTorch's answers
  onnx_sha256, versions   what they were made from and with
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from digitnet_cli import UserError, sha256, write_file
from digitnet_data import CELL_SIZE, NUM_CLASSES
from digitnet_onnx import in_short, run_logits, signature_failures

import numpy as np
import onnxruntime

BATCHES = (1, 2, 3, 81, 119, 512)  # cells in a run; 81 is a board, 119 an odd number with odd remainders


class Limits(NamedTuple):
    """How far two sets of logits may be apart."""

    mae: float  # mean absolute difference
    max_abs: float  # largest absolute difference

    def failures(self, difference: dict[str, float]) -> str:
        """Which limits the `difference` is above, or "" if it keeps them; what is no number keeps none."""
        told = (("MAE", difference["mae"], self.mae), ("largest difference", difference["max_abs"], self.max_abs))
        return " and ".join(f"{name} {value:.2e} is above {most:g}" for name, value, most in told if not value <= most)


def difference(expected: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Mean and largest absolute difference; ValueError if the shapes differ."""
    if logits.shape != expected.shape:
        raise ValueError(f"logits have shape {list(logits.shape)}, not {list(expected.shape)}")
    apart = np.abs(np.asarray(expected, np.float64) - logits)
    return {"mae": float(apart.mean()), "max_abs": float(apart.max())}


def write_golden(path: Path, inputs: np.ndarray, logits: np.ndarray, onnx_file: Path, versions: dict) -> None:
    """Writes the golden vectors for `onnx_file`, whole or not at all."""
    arrays = {"inputs": inputs, "logits": logits}
    arrays |= {"onnx_sha256": np.array(sha256(onnx_file)), "versions": np.array(json.dumps(versions))}
    write_file(path, lambda name: np.savez_compressed(name, **arrays))


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a golden file; code in it is never run. Raises UserError if it is missing or not one."""
    if not path.is_file():
        raise UserError(f"no golden vectors {path}: make them with `make golden` where PyTorch is installed")
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in ("inputs", "logits", "onnx_sha256", "versions")}
        n = len(golden["inputs"])
        for name, shape in (("inputs", (n, 1, CELL_SIZE, CELL_SIZE)), ("logits", (n, NUM_CLASSES))):
            array = golden[name]
            if n == 0 or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} are not float32 {list(shape)}, all finite")
        json.loads(str(golden["versions"]))
    except Exception as error:  # zip's, zlib's and numpy's errors have no common base class
        raise UserError(
            f"{path} is no file of golden vectors: copy it again or remake it ({in_short(error)})"
        ) from None
    return golden


def check_golden(
    path: Path, onnx_file: Path, sessions: dict[str, onnxruntime.InferenceSession], limits: Limits
) -> tuple[list[str], dict]:
    """Compares each session's logits with the golden ones, in runs of each of BATCHES.

    Returns every failure in a line, and what was measured. Raises UserError for an unusable golden file.
    """
    golden = read_golden(path)
    failures, measured = [], {}
    if (found := sha256(onnx_file)) != str(golden["onnx_sha256"]):
        failures.append(
            f"it is not the file that {path} was made from: its SHA-256 is {found[:12]}…, "
            f"not {str(golden['onnx_sha256'])[:12]}…; copy both anew"
        )
    for name, session in sessions.items():
        failures += signature_failures(session)
        for batch in BATCHES:
            place = f"{name}, runs of {batch}"
            try:
                logits = run_logits(session, golden["inputs"], batch)
                result = measured[place] = difference(golden["logits"], logits)
            except Exception as error:  # onnxruntime's errors have no common base class
                failures.append(f"{place}: {in_short(error)}")
                continue
            if told := limits.failures(result):
                failures.append(f"{place}: {told}")
    return list(dict.fromkeys(failures)), {"vectors": len(golden["inputs"]), "measured": measured} | {
        "made_with": json.loads(str(golden["versions"]))
    }
