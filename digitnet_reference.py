"""What PyTorch answers, to which inputs: the other side of parity, and what golden vectors are chosen from."""

import copy
from typing import NamedTuple

from digitnet_data import CELL_SIZE, NUM_CLASSES, Cells, normalize
from digitnet_golden import BATCHES
from digitnet_model import fold_batchnorm
from digitnet_onnx import MAX_BATCH

import numpy as np
import torch

SEED = 0  # of the noise
CELLS_OF_A_CLASS = 20  # taken from each set of cells: keeps the golden file far below 1 MB


class Reference(NamedTuple):
    """What PyTorch answers to a set of inputs."""

    name: str
    inputs: np.ndarray  # float32 [N, 1, 28, 28]
    batch: int  # cells in a run
    logits: np.ndarray  # float32 [N, 10], of PyTorch as it is used
    judge: np.ndarray  # float64 [N, 10], of the same weights in float64
    cells: Cells | None = None  # where the inputs are cells with a truth


def refer(model: torch.nn.Module, name: str, inputs: np.ndarray, batch: int = MAX_BATCH, cells=None) -> Reference:
    """Runs `model` (float32, in eval mode) on `inputs`, in float32 and in float64."""

    def run(network: torch.nn.Module, kind: torch.dtype, batch: int) -> np.ndarray:
        logits = torch.empty(len(inputs), NUM_CLASSES, dtype=kind)  # small results among large ones would pin memory
        with torch.inference_mode():
            for part, result in zip(torch.from_numpy(inputs).split(batch), logits.split(batch), strict=True):
                result[:] = network(part.to(kind))
        return logits.numpy()

    judge = run(copy.deepcopy(model).double(), torch.float64, 64)  # twice as fast as in large batches
    return Reference(name, inputs, batch, run(model, torch.float32, batch), judge, cells)


def edge_inputs() -> np.ndarray:
    """Cells at the ends of what the network can be given, float32 [32, 1, 28, 28].

    All paper, all ink, mid-grey; stripes and a chequerboard of both ends; one pixel of ink, or of paper, in each
    corner, at the middle of each side and in the centre, where wrong padding shows; noise.
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
    noise = np.random.default_rng(0).uniform(-1, 1, (8, CELL_SIZE, CELL_SIZE))
    return np.stack([*flat, *stripes, *dots, *noise])[:, None].astype(np.float32)


def some_of_every_class(labels: np.ndarray) -> np.ndarray:
    """Indices of up to CELLS_OF_A_CLASS cells of every class, evenly over the set."""
    chosen = [np.flatnonzero(labels == label) for label in range(NUM_CLASSES)]
    return np.concatenate([of[np.linspace(0, len(of) - 1, min(CELLS_OF_A_CLASS, len(of)), dtype=int)] for of in chosen])


def make_references(model: torch.nn.Module, sets: dict[str, Cells]) -> list[Reference]:
    """What `model` answers to noise in every batch size, to edge inputs and to the `sets` of cells."""
    rng = np.random.default_rng(SEED)
    noise = {n: rng.standard_normal((n, 1, CELL_SIZE, CELL_SIZE), np.float32) for n in BATCHES}
    return [
        *(refer(model, f"random batch of {n}", inputs, n) for n, inputs in noise.items()),
        refer(model, "edge inputs", edge_inputs()),
        *(refer(model, name, normalize(cells.pixels[:, None]), cells=cells) for name, cells in sets.items()),
    ]


def exported_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The arrays that the exported file must hold, by name."""
    return {name: value.numpy() for name, value in fold_batchnorm(model).state_dict().items()}


def choose_golden(references: list[Reference]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, float32 [N, 1, 28, 28], and PyTorch's logits, float32 [N, 10], that golden vectors keep.

    Of each set of cells some of every class; of the noise little, since it does not compress.
    """
    kept = [
        (reference, some_of_every_class(reference.cells.labels) if reference.cells else slice(None))
        for reference in references
        if len(reference.inputs) < 50 or reference.cells
    ]
    inputs = np.concatenate([reference.inputs[chosen] for reference, chosen in kept])
    return inputs, np.concatenate([reference.logits[chosen] for reference, chosen in kept])
