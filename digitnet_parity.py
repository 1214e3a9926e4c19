# SPDX-License-Identifier: Apache-2.0
"""The importable half of 04_Parity.py: PyTorch's answers to many inputs, and golden vectors for other machines.

Golden vectors need only numpy and onnxruntime, so functions that run PyTorch or draw import their packages
themselves. The golden file is a .npz of arrays, without code:
  inputs   float32 [N, 1, 28, 28]: normalized cells
  logits   float32 [N, 10]: PyTorch's answers
  onnx_sha256, versions   the file and the machine that they were made with
"""

from __future__ import annotations

import copy
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from digitnet_cli import UserError, available_cpus, first_line, remake, sha256, write_file
from digitnet_data import (
    BOARD_SIDE,
    CELL_SIZE,
    CROP_MARGINS,
    NUM_CLASSES,
    Cells,
    cut_cells,
    label_boards,
    normalize,
    rectify,
)
from digitnet_onnx import MAX_BATCH, MAX_THREADS, run_logits, signature_failures

if TYPE_CHECKING:
    import onnxruntime
    import torch

BATCHES = (1, 2, 3, 81, 119, 512)  # cells per run; 81 is a board, 119 an odd number with odd remainders
SEED = 0  # of the noise
GOLDEN_CELLS_PER_CLASS = 20  # from each set of cells, which keeps the golden file far below 1 MB
FLOAT64_BATCH = 64  # cells; twice as fast as in large batches
NEWSPAPER_BOARDS = 24  # drawn in 4 s; they add what data/val lacks: texture, blur, other fonts


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
    inputs: np.ndarray  # float32 [N, 1, 28, 28]
    batch: int  # cells per run
    logits: np.ndarray  # float32 [N, 10], of PyTorch in float32
    float64_logits: np.ndarray  # float64 [N, 10], of the same weights in float64
    cells: Cells | None = None  # if the inputs are labelled cells


def compute_reference(
    model: torch.nn.Module, name: str, inputs: np.ndarray, batch: int = MAX_BATCH, cells: Cells | None = None
) -> Reference:
    """Run `model` (float32, in eval mode) on `inputs`, in float32 and in float64."""
    import torch

    def run(network: torch.nn.Module, dtype: torch.dtype, batch: int) -> np.ndarray:
        logits = torch.empty(len(inputs), NUM_CLASSES, dtype=dtype)  # small results between large ones would pin memory

        def answer(part: torch.Tensor, result: torch.Tensor) -> None:
            with torch.inference_mode():
                result[:] = network(part.to(dtype))

        # Batches side by side: PyTorch's own threads would share each one, and wait for one another.
        with ThreadPoolExecutor(min(available_cpus(), MAX_THREADS)) as pool:
            list(pool.map(answer, torch.from_numpy(inputs).split(batch), logits.split(batch)))
        return logits.numpy()

    float64_logits = run(copy.deepcopy(model).double(), torch.float64, FLOAT64_BATCH)
    return Reference(name, inputs, batch, run(model, torch.float32, batch), float64_logits, cells)


def make_references(model: torch.nn.Module, sets: dict[str, Cells]) -> list[Reference]:
    """Compute the answers of `model` to noise in every batch size, to edge inputs and to the `sets` of cells."""
    rng = np.random.default_rng(SEED)
    noise = {n: rng.standard_normal((n, 1, CELL_SIZE, CELL_SIZE), np.float32) for n in BATCHES}
    return [
        *(compute_reference(model, f"random batch of {n}", inputs, n) for n, inputs in noise.items()),
        compute_reference(model, "edge inputs", edge_inputs()),
        *(
            compute_reference(model, name, normalize(cells.pixels[:, None]), cells=cells)
            for name, cells in sets.items()
        ),
    ]


def newspaper_cells() -> dict[str, Cells]:
    """Draw photos of newspapers in fonts that training never sees; return their cells by crop margin."""
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
    noise = np.random.default_rng(SEED).uniform(-1, 1, (8, CELL_SIZE, CELL_SIZE))
    return np.stack([*flat, *stripes, *dots, *noise])[:, None].astype(np.float32)


def exported_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the arrays that the exported file must hold, by name."""
    from digitnet_model import fold_batchnorm

    return {name: value.numpy() for name, value in fold_batchnorm(model).state_dict().items()}


def choose_golden(references: list[Reference]) -> tuple[np.ndarray, np.ndarray]:
    """Choose golden vectors: inputs, float32 [N, 1, 28, 28], and PyTorch's logits, float32 [N, 10].

    Takes some cells of every class from each set, and little noise, because noise does not compress.
    """
    inputs, logits = [], []
    for reference in references:
        if reference.cells or len(reference.inputs) < 50:
            chosen = np.arange(len(reference.inputs))
            if reference.cells:
                chosen = some_of_every_class(reference.cells.labels, GOLDEN_CELLS_PER_CLASS)
            inputs.append(reference.inputs[chosen])
            logits.append(reference.logits[chosen])
    return np.concatenate(inputs), np.concatenate(logits)


def some_of_every_class(labels: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of up to `number` cells of every class, evenly spread over the set."""
    classes = [np.flatnonzero(labels == label) for label in range(NUM_CLASSES)]
    return np.concatenate([of[np.linspace(0, len(of) - 1, min(number, len(of)), dtype=int)] for of in classes])


def write_golden(path: Path, inputs: np.ndarray, logits: np.ndarray, onnx_file: Path, versions: dict) -> None:
    """Write the golden vectors for `onnx_file`, whole or not at all."""
    made_from, made_with = np.array(sha256(onnx_file)), np.array(json.dumps(versions))
    write_file(
        path,
        lambda name: np.savez_compressed(name, inputs=inputs, logits=logits, onnx_sha256=made_from, versions=made_with),
    )


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """Read a golden file's arrays; never run code from it. Raises UserError if it is missing or damaged."""
    again = f"04_Parity.py --write-golden {shlex.quote(str(path))}"
    cure = remake(path, ["golden.npz"], "golden", again)
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
        raise UserError(f"{path} holds no golden vectors: copy it again; or {cure} ({first_line(error)})") from None
    return golden


def check_golden(
    path: Path, onnx_file: Path, sessions: dict[str, onnxruntime.InferenceSession], limits: Limits
) -> tuple[list[str], dict]:
    """Compare each session's logits with the golden ones, in each batch size of BATCHES.

    Returns every failure as a line, and the report. Raises UserError if the golden file is unusable.
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
                result = measured[place] = logit_difference(golden["logits"], logits)
            except Exception as error:  # onnxruntime's errors have no common base class
                failures.append(f"{place}: {first_line(error)}")
                continue
            if exceeded := limits.failures(result):
                failures.append(f"{place}: {exceeded}")
    made_with = json.loads(str(golden["versions"]))
    report = {"vectors": len(golden["inputs"]), "measured": measured, "made_with": made_with}
    return list(dict.fromkeys(failures)), report
