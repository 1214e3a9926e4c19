# SPDX-License-Identifier: Apache-2.0
"""The importable half of 04_Parity.py: compare ONNX Runtime with PyTorch's answers, or with golden vectors.

Golden vectors need only numpy and onnxruntime, so functions that run PyTorch or draw import their packages
themselves. The golden file is a .npz of arrays, without code:
  inputs   float32 [N, 1, 28, 28]: normalized cells
  logits   float32 [N, 10]: PyTorch's answers
  onnx_sha256, versions   the file and the machine that they were made with
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnxruntime import InferenceSession

from digitnet_cli import UserError, first_line
from digitnet_data import CELL_SIZE, CONFIDENCE_THRESHOLD, NUM_CLASSES, Cells, remake
from digitnet_machine import sha256
from digitnet_onnx import MAX_BATCH, contract_failures, open_session, run_logits, signature_failures, softmax
from digitnet_scores import score

if TYPE_CHECKING:
    import torch

BATCHES = (1, 2, 3, 81, 119, 512)  # cells per run; 81 is a board, 119 an odd number with odd remainders
NOISE_SEED = 0
FLOAT64_BATCH = 64  # cells; twice as fast as in large batches
NEWSPAPER_BOARDS = 24  # drawn in 4 s; they add what data/val lacks: texture, blur, other fonts
# oneDNN's two names for a mode in which PyTorch computes float32 in bfloat16, which breaks parity by design.
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


class Limits(NamedTuple):
    """The largest allowed difference between two sets of logits."""

    mae: float  # mean absolute difference
    max_abs: float  # largest absolute difference

    def failures(self, difference: dict[str, float]) -> str:
        """Return a text with the limits that `difference` exceeds, "" if none; NaN exceeds all."""
        measured = (("MAE", difference["mae"], self.mae), ("largest difference", difference["max_abs"], self.max_abs))
        return " and ".join(
            f"{name} {value:.2e} is above {limit:g}" for name, value, limit in measured if not value <= limit
        )


def logit_difference(expected: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return the mean and the largest absolute difference. Raises ValueError if the shapes differ."""
    if logits.shape != expected.shape:
        raise ValueError(f"logits have shape {list(logits.shape)}, not {list(expected.shape)}")
    apart = np.abs(np.asarray(expected, np.float64) - logits)
    return {"mae": float(apart.mean()), "max_abs": float(apart.max())}


class Reference(NamedTuple):
    """PyTorch's answers to a set of inputs."""

    name: str
    inputs: np.ndarray  # [N, 1, 28, 28], float32 and normalized, or uint8
    batch: int  # cells per run
    logits: np.ndarray  # float32 [N, 10], of PyTorch in float32
    float64_logits: np.ndarray  # float64 [N, 10], of the same weights in float64
    cells: Cells | None = None  # if the inputs are labelled cells


def compute_reference(
    model: torch.nn.Module, name: str, inputs: np.ndarray, batch: int = MAX_BATCH, cells: Cells | None = None
) -> Reference:
    """Run `model` (float32, in eval mode) on `inputs`, in float32 and in float64."""
    from digitnet_training import logits_of

    float64_logits = logits_of(copy.deepcopy(model).double(), inputs, FLOAT64_BATCH).numpy()
    return Reference(name, inputs, batch, logits_of(model, inputs, batch).numpy(), float64_logits, cells)


def make_references(model: torch.nn.Module, sets: dict[str, Cells]) -> list[Reference]:
    """Compute the answers of `model` to noise in every batch size, to edge inputs and to the `sets` of cells."""
    rng = np.random.default_rng(NOISE_SEED)
    noise = {n: rng.standard_normal((n, 1, CELL_SIZE, CELL_SIZE), np.float32) for n in BATCHES}
    return [
        *(compute_reference(model, f"random batch of {n}", inputs, n) for n, inputs in noise.items()),
        compute_reference(model, "edge inputs", edge_inputs()),
        *(compute_reference(model, name, cells.pixels[:, None], cells=cells) for name, cells in sets.items()),
    ]


def newspaper_cells() -> dict[str, Cells]:
    """Draw photos of newspapers in fonts that training never sees; return their cells by crop margin."""
    from digitnet_boards import BOARD_SIDE, CROP_MARGINS, cut_cells, label_boards, rectify
    from pages.camera import draw_photos

    puzzles, photos = zip(*draw_photos(NEWSPAPER_BOARDS), strict=True)
    boards = [rectify(photo.view, photo.cut_corners, BOARD_SIDE) for photo in photos]
    names = [f"drawn {i}" for i in range(len(boards))]
    return {
        f"newspaper cells {margin:.0%}": label_boards([cut_cells(board, margin) for board in boards], puzzles, names)
        for margin in CROP_MARGINS
    }


def edge_inputs() -> np.ndarray:
    """Return extreme inputs, float32 [32, 1, 28, 28].

    All paper, all ink, mid-grey; stripes and a chequerboard of both; one pixel of ink, or of paper, in each corner, at
    the middle of each side and in the centre, where wrong padding shows; uniform noise.
    """
    row, column = np.indices((CELL_SIZE, CELL_SIZE))
    stripes = [np.where(pattern % 2, 1, -1) for pattern in (row, column, row + column)]
    flat = [np.full((CELL_SIZE, CELL_SIZE), value) for value in (1, -1, 0)]
    dots = []
    for at in np.ndindex(3, 3):
        for paper in (1, -1):
            cell = np.full((CELL_SIZE, CELL_SIZE), paper)
            cell[tuple((CELL_SIZE - 1) * i // 2 for i in at)] = -paper
            dots.append(cell)
    noise = np.random.default_rng(NOISE_SEED).uniform(-1, 1, (8, CELL_SIZE, CELL_SIZE))
    return np.stack([*flat, *stripes, *dots, *noise])[:, None].astype(np.float32)


def fast_math() -> dict[str, str]:
    """Return the variables of FAST_MATH that are set, with their values."""
    return {name: os.environ[name] for name in FAST_MATH if name in os.environ}


def count_changes(reference: Reference, logits: np.ndarray, rounding: float) -> dict:
    """Count argmax changes and threshold crossings between PyTorch and `logits`, ignoring ties within `rounding`.

    `rounding` is the largest difference of two logits: any two float32 programs may break such ties differently.
    """
    second, best = np.sort(reference.float64_logits, axis=1)[:, -2:].T
    sure = best - second > 2 * rounding
    confident = np.abs(softmax(reference.float64_logits).max(1) - CONFIDENCE_THRESHOLD) > rounding
    classes = [side.argmax(1) for side in (reference.logits, logits)]
    blanks = [softmax(side).max(1) < CONFIDENCE_THRESHOLD for side in (reference.logits, logits)]
    return {
        "smallest_margin": float((best - second).min()),
        "different_class": int((np.not_equal(*classes) & sure).sum()),
        "different_blank": int((np.not_equal(*blanks) & confident).sum()),
    }


def attribute(errors: dict[str, dict], result: dict, limits: Limits) -> list[str]:
    """Return a line for each stage whose logits exceed the limits; `errors` are the stages' differences to float64."""
    failures = []
    exceeded = {stage: limits.failures(error) for stage, error in errors.items()}
    if exceeded["PyTorch"]:
        modes = [f"{name}={value}" for name, value in fast_math().items()]
        cause = f"{' and '.join(modes)} is set: unset it" if modes else f"none of {', '.join(FAST_MATH)} is set"
        failures.append(f"PyTorch's own float32 differs from float64: {exceeded['PyTorch']} ({cause})")
    if exceeded["exported graph"]:
        failures.append(f"the exported graph differs from float64 PyTorch: {exceeded['exported graph']}")
    elif exceeded["optimized"]:
        failures.append(
            f"the result of ONNX Runtime's graph optimizer differs from float64 PyTorch: {exceeded['optimized']}"
        )
    if not failures and (total := limits.failures(result)):
        failures.append(f"rounding in PyTorch and ONNX Runtime adds up: {total}")
    return failures


def compare(
    reference: Reference, unoptimized: InferenceSession, optimized: InferenceSession, limits: Limits
) -> tuple[list[str], dict]:
    """Compare ONNX Runtime, without and with its optimizer, with PyTorch; return failures and measurements."""
    try:
        graph_logits = run_logits(unoptimized, reference.inputs, reference.batch)
        logits = run_logits(optimized, reference.inputs, reference.batch)
        result: dict = {"cells": len(reference.inputs), **logit_difference(reference.logits, logits)}
        errors = {
            "PyTorch": logit_difference(reference.float64_logits, reference.logits),
            "exported graph": logit_difference(reference.float64_logits, graph_logits),
            "optimized": logit_difference(reference.float64_logits, logits),
        }
    except Exception as error:  # onnxruntime's errors have no common base class
        return [f"{reference.name}: {first_line(error)}"], {}

    failures = attribute(errors, result, limits)
    if reference.cells:
        result |= count_changes(reference, logits, result["max_abs"])
        if result["different_class"]:
            failures.append(f"{result['different_class']} of {len(logits):,} get another class")
        if result["different_blank"]:
            failures.append(f"{result['different_blank']} of {len(logits):,} change sides of {CONFIDENCE_THRESHOLD}")
        for side, answers in (("pytorch", reference.logits), ("onnx", logits)):
            result[side] = score(reference.cells, answers.argmax(1))
    result["max_error_to_float64"] = {stage: error["max_abs"] for stage, error in errors.items()}
    return [f"{reference.name}: {failure}" for failure in failures], result


def check(
    onnx_file: Path, weights: dict, references: list[Reference], limits: Limits, log: Callable[[str], None] = print
) -> tuple[list[str], dict[str, dict]]:
    """Check contract and answers; return every failure, and the measurements by set. `log` gets the table's lines.

    Raises UserError, with every failure found so far, if ONNX Runtime cannot load the file.
    """
    failures = contract_failures(onnx_file.read_bytes(), weights) if onnx_file.is_file() else []
    try:
        unoptimized, optimized = open_session(onnx_file, optimize=False), open_session(onnx_file)
    except UserError as error:
        raise UserError("; ".join([str(error), *failures])) from None
    count = sum(value.size for value in weights.values())
    log(f"contract and {count:,} weights: {'broken' if failures else 'kept'}")
    log(f"{'':21} {'':7} PyTorch - ONNX Runtime  other  smallest  largest error to float64 of")
    log(f"{'inputs':21} {'cells':>7}    MAE   largest    class    margin  PyTorch   graph   optimized")
    measured = {}
    for reference in references:
        found, result = compare(reference, unoptimized, optimized, limits)
        failures += found
        if result:
            measured[reference.name] = result
            margin = f"{result['smallest_margin']:.1e}" if reference.cells else "-"
            errors = "  ".join(f"{error:.1e}" for error in result["max_error_to_float64"].values())
            log(
                f"{reference.name:21} {result['cells']:7,}  {result['mae']:.1e}  {result['max_abs']:.1e} "
                f"{result.get('different_class', '-'):>7} {margin:>9}  {errors}"
            )
    return failures, measured


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """Read a golden file's arrays; never run code from it. Raises UserError if it is missing or damaged."""
    cure = remake(path, "golden", "golden.npz")
    if not path.is_file():
        raise UserError(f"no golden vectors {path}: on a machine with PyTorch, {cure}")
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
        raise UserError(f"{path} holds no golden vectors ({first_line(error)}): copy it again, or {cure}") from None
    return golden


def check_golden(
    path: Path, onnx_file: Path, sessions: dict[str, InferenceSession], limits: Limits
) -> tuple[list[str], dict]:
    """Compare each session's logits with the golden ones, in each batch size of BATCHES.

    Returns every failure as a line, and the report. Raises UserError if the golden file is unusable.
    """
    golden = read_golden(path)
    failures, measured = [], {}
    found, expected = sha256(onnx_file)[:12], str(golden["onnx_sha256"])[:12]
    if found != expected:
        failures.append(f"it is not the file that {path} was made from: SHA-256 {found}…, not {expected}…; copy both")
    for name, session in sessions.items():
        failures += signature_failures(session)
        for batch in BATCHES:
            place = f"{name}, runs of {batch}"
            try:
                logits = run_logits(session, golden["inputs"], batch)
                result = measured[place] = logit_difference(golden["logits"], logits)
            except Exception as error:  # onnxruntime's errors have no common base class
                failures.append(f"{place}: {first_line(error)}")
                continue
            if exceeded := limits.failures(result):
                failures.append(f"{place}: {exceeded}")
    made_with = json.loads(str(golden["versions"]))
    report = {"vectors": len(golden["inputs"]), "measured": measured, "made_with": made_with}
    return list(dict.fromkeys(failures)), report
