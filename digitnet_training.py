# SPDX-License-Identifier: Apache-2.0
"""The importable half of 03_Training.py: batches, augmentation, training state, shares of a batch, checkpoints."""

import copy
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from digitnet_cli import ROOT, UserError, first_line
from digitnet_data import BLANK, NUM_CLASSES, Cells, normalize
from digitnet_machine import sha256, side_by_side, write_file
from digitnet_model import from_training
from digitnet_scores import score

MUON_LR = 2.5  # Muon's learning rate, as a multiple of AdamW's
MOMENTUM = 0.95  # of Muon
EVALUATION_BATCH = 256  # cells; larger batches no longer fit the processor's caches and are slower


def draw_epoch(
    labels: torch.Tensor, count: int, blank_fraction: float, eights: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw the indices of an epoch's cells, int64 [count]: `blank_fraction` of them blank, the others digits.

    Every digit is equally likely, except that 8 is `eights` times as likely as another.
    """
    shares = torch.full((NUM_CLASSES,), (1 - blank_fraction) / (NUM_CLASSES - 2 + eights))
    shares[8] *= eights
    shares[BLANK] = blank_fraction
    weights = (shares / torch.bincount(labels, minlength=NUM_CLASSES))[labels]
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def draw_augmentation(
    n: int,
    generator: torch.Generator,
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    blur_probability: float,
    unchanged: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the parameters of `augment` for `n` cells: affine maps, float32 [n, 2, 3], and a blur mask, bool [n].

    Angles are within ±`degrees`, shifts within ±`translate` of the side, sizes within ±`scale` of the size;
    the map's four factors then change within ±`shear`, which shears and stretches. The fraction `unchanged` of the
    cells stays as it is: resampling blurs, and clients do not resample.
    """

    def uniform(limit: float, *shape: int) -> torch.Tensor:
        return torch.empty(shape).uniform_(-limit, limit, generator=generator)

    angle, size = uniform(degrees * torch.pi / 180, n), 1 + uniform(scale, n)
    cos, sin = angle.cos() * size, angle.sin() * size
    shift = uniform(2 * translate, n, 2)  # grid_sample's coordinates run from -1 to 1
    affine = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(n, 2, 3)
    affine[:, :, :2] += uniform(shear, n, 2, 2)
    kind = torch.rand(n, generator=generator)
    affine[kind >= 1 - unchanged] = torch.eye(2, 3)
    return affine, kind < blur_probability


def augment(cells: torch.Tensor, affine: torch.Tensor, blurred: torch.Tensor) -> torch.Tensor:
    """Transform and blur cells, float32 [N, 1, 28, 28], by the parameters of draw_augmentation.

    Pixels beyond the edge are reflected, so a cell cut too wide shows its line and the paper beyond it, as on a
    page. A constant fill, as in torchvision's RandomAffine, would put grey wedges into the corners.
    """
    n, _, height, width = cells.shape
    x, y = torch.arange(1 - width, width, 2) / width, torch.arange(1 - height, height, 2) / height  # pixel centres
    pixels = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width)])
    # As F.affine_grid, whose small matrix products take three times as long as this one.
    grid = (affine.reshape(2 * n, 3) @ pixels).view(n, 2, height, width).permute(0, 2, 3, 1)
    cells = F.grid_sample(cells, grid, padding_mode="reflection", align_corners=False)
    if blurred.any():
        kernel = cells.new_tensor([0.25, 0.5, 0.25])  # a 3-tap Gaussian, sigma 0.85 pixels
        padded = F.pad(cells[blurred], (1, 1, 1, 1), mode="replicate")
        cells[blurred] = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 3)), kernel.view(1, 1, 3, 1))
    return cells


def fit_logit_scale(model: nn.Module, cells: Cells) -> float:
    """Return the temperature-scaling factor with the lowest cross-entropy on `cells`, of 201 from 1/8 to 8.

    Clients read softmax's probabilities, so they must mean something: temperature scaling, Guo et al., "On
    calibration of modern neural networks" (2017).
    """
    logits, labels = logits_of(model, cells.pixels[:, None]), torch.from_numpy(cells.labels)
    factors = torch.logspace(-3, 3, 201, base=2).tolist()
    return min(factors, key=lambda factor: F.cross_entropy(factor * logits, labels).item())


def logits_of(model: nn.Module, inputs: np.ndarray, batch: int = EVALUATION_BATCH) -> torch.Tensor:
    """Return the logits [N, 10] of cells [N, 1, 28, 28], uint8 or normalized, in the type of the model's weights."""
    logits = torch.empty(len(inputs), NUM_CLASSES, dtype=next(model.parameters()).dtype)

    def answer(start: int) -> None:  # into one tensor: small results between large buffers would fragment the heap
        part = inputs[start : start + batch]
        cells = torch.from_numpy(normalize(part) if part.dtype == np.uint8 else part)
        with torch.no_grad():  # holds for the thread that it is called in
            logits[start : start + batch] = model(cells.to(logits.dtype))

    model.eval()
    side_by_side(answer, range(0, len(inputs), batch))
    return logits


def equalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return `matrix` with all singular values near 1, by five Newton-Schulz steps."""
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = torch.addmm(matrix, -4.7750 * square + 2.0315 * square @ square, matrix, beta=3.4445)
    return matrix


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum for convolutions, with equalized updates: rare directions are learned as fast as others.

    Jordan et al., "Muon" (2024). torch.optim.Muon computes in bfloat16, which takes ten times as long on most CPUs.
    """

    def __init__(self, kernels: Sequence[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the kernels by their gradients."""
        for kernel in (group := self.param_groups[0])["params"]:
            mean = self.state[kernel].setdefault("mean", torch.zeros_like(kernel))
            mean.lerp_(kernel.grad, 1 - MOMENTUM)
            update = equalize(kernel.grad.lerp(mean, MOMENTUM).flatten(1)).view_as(kernel)
            kernel.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])


class TrainState:
    """The state that a training step changes: model (of for_training), optimizers, learning rate schedules.

    Muon trains the convolutions, AdamW the rest. AdamW's learning rate rises to `lr`, Muon's to MUON_LR times that,
    during the first `warmup_fraction` of all `steps`; then they fall (OneCycle).
    """

    def __init__(self, model: nn.Module, lr: float, steps: int, warmup_fraction: float, weight_decay: float) -> None:
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kernels, others = [p for p in self.trained if p.ndim == 4], [p for p in self.trained if p.ndim != 4]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True),
            "muon": Muon(kernels, lr=MUON_LR * lr, weight_decay=weight_decay),
        }
        warmup_fraction *= warmup_fraction * steps != 1  # OneCycleLR would divide by zero
        self.schedules = {
            f"{name}_schedule": torch.optim.lr_scheduler.OneCycleLR(
                optimizer, optimizer.defaults["lr"], steps, pct_start=warmup_fraction, cycle_momentum=False
            )
            for name, optimizer in self.optimizers.items()
        }

    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Update everything by the gradients of `trained`."""
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        for optimizer in self.optimizers.values():
            optimizer.step()
        for schedule in self.schedules.values():
            schedule.step()

    def parts(self) -> dict[str, Any]:
        """Return the parts that have a state_dict, by their names in the checkpoint."""
        return {"model": self.model, **self.optimizers, **self.schedules}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except the cells."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights, as a state_dict of the model."""
        weights = from_training(self.model).state_dict()
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


class Shares:
    """The shares of a batch: a thread of Python computes each, in every process that torchrun started.

    Each share has a core, and is normalised by itself. The threads meet once per step. PyTorch's own threads would meet
    in every operator and spin there, which takes several times as long when another program uses a core.
    """

    def __init__(self, threads: int) -> None:
        if dist.is_torchelastic_launched():
            dist.init_process_group("gloo")
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if self.rank:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (only the first process prints)
        torch.set_num_threads(1)  # also of the threads that start later
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        mine, count = range(self.rank * threads, (self.rank + 1) * threads), self.world_size * threads
        self.slices = [slice(share, None, count) for share in mine]

    def networks(self, model: nn.Module) -> list[nn.Module]:
        """Return `model` and copies with the same parameters, one for each thread; only BatchNorm's moments differ.

        The moments of the first are kept: those of its share of every batch.
        """
        same = {id(parameter): parameter for parameter in model.parameters()}
        return [model, *(copy.deepcopy(model, dict(same)) for _ in range(self.threads - 1))]

    def sum(self, parts: Iterable[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Add up lists of tensors over this process's `parts`, then over the processes, always in the same order."""
        sums = [torch.stack(same).sum(0) for same in zip(*parts, strict=True)]
        if self.world_size > 1:
            flat = torch.cat([value.flatten() for value in sums])
            dist.all_reduce(flat)
            values = flat.split([value.numel() for value in sums])
            sums = [value.view_as(shape) for value, shape in zip(values, sums, strict=True)]
        return sums

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every process, in the order of their ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError if a share of a batch has fewer than two cells, of which BatchNorm gets no variance."""
        count = self.world_size * self.threads
        if batch_size < 2 * count:
            raise UserError(f"--batch-size {batch_size} is too small for {count} threads: use {2 * count} or more")

    def check_data(self, data: dict[str, str]) -> None:
        """Raise UserError if the processes have different cells, by the hashes in `data`."""
        gathered = self.gather(data)
        if others := [rank for rank, other in enumerate(gathered) if other != gathered[0]]:
            raise UserError(f"process {others[0]} has other cells than process 0: copy the same data to every machine")

    def end(self) -> None:
        """Exit without interpreter shutdown, where live gloo threads may hang, if torchrun started this process."""
        if dist.is_torchelastic_launched():
            sys.stdout.flush()
            os._exit(0)


def evaluate(model: nn.Module, cells: Cells) -> dict:
    """Return the loss of `model` on `cells`, and its error counts (see score)."""
    logits = logits_of(model, cells.pixels[:, None])
    loss = F.cross_entropy(logits, torch.from_numpy(cells.labels))
    return {"loss": loss.item(), **score(cells, logits.argmax(1).numpy())}


def fingerprint(settings: dict, data: dict[str, str]) -> dict[str, str]:
    """Return what must be equal to resume a run: settings, SHA-256 of cells and sources, PyTorch's version."""
    sources = [ROOT / "03_Training.py", *sorted(ROOT.glob("digitnet_*.py"))]
    same = {name: json.dumps(value, default=str) for name, value in settings.items()}
    return same | data | {path.name: sha256(path) for path in sources} | {"PyTorch": str(torch.__version__)}


def save_weights(state: dict, path: Path) -> None:
    """Write `state` with torch.save, whole or not at all; equal states give equal bytes."""
    buffer = io.BytesIO()  # given a path, torch.save would write the temporary file's name into the file
    torch.save(state, buffer)
    write_file(path, buffer.getvalue())


def read_checkpoint(path: Path, run: dict[str, str]) -> dict | None:
    """Return the checkpoint at `path`, or None if it is missing, damaged or of another `run` (see `fingerprint`).

    Prints why a checkpoint is not used. Never runs code from the file.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["run"]
        changed = [name for name in run.keys() | saved.keys() if run.get(name) != saved.get(name)]
    except Exception as error:  # pickle's, zip's and torch's errors have no common base class
        print(f"{path} cannot be read, so training starts from the beginning ({first_line(error)})")
        return None
    if changed:
        print(f"{path} was written with another {', '.join(sorted(changed))}: training starts from the beginning")
        return None
    return state
