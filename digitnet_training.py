# SPDX-License-Identifier: Apache-2.0
"""The importable half of 03_Training.py: batches, augmentation, training state, checkpoints, several processes."""

import copy
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from digitnet_cli import ROOT, UserError, first_line
from digitnet_data import BLANK, NUM_CLASSES, Cells, normalize
from digitnet_machine import sha256, write_file
from digitnet_model import DigitNet
from digitnet_scores import score

EVALUATION_BATCH = 256  # cells; larger batches no longer fit the processor's caches and are slower


def draw_epoch(labels: torch.Tensor, count: int, blank_fraction: float, generator: torch.Generator) -> torch.Tensor:
    """Draw the indices of an epoch's cells, int64 [count]: `blank_fraction` blank, all digits equally often."""
    members, sizes = labels.argsort(stable=True), torch.bincount(labels, minlength=NUM_CLASSES)
    shares = torch.full((NUM_CLASSES,), (1 - blank_fraction) / (NUM_CLASSES - 1))
    shares[BLANK] = blank_fraction
    classes = torch.multinomial(shares, count, replacement=True, generator=generator)
    within = torch.randint(2**62, (count,), generator=generator) % sizes[classes]
    return members[(sizes.cumsum(0) - sizes)[classes] + within]


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


class MeanOverCell(nn.Module):
    """Average each channel over the cell, as AvgPool2d and Flatten do; forward and backward take half their time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, C, H, W] -> [N, C]; fastest if `x` is channels_last, whose order this sum keeps."""
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


def for_training(model: nn.Module, dropout: float) -> nn.Sequential:
    """Return the network that is trained instead of `model`; they share layers, and `from_training` undoes it.

    Dropout is added before the last layer. DigitNet also gets BatchNorm there and behind its convolutions: white paper
    gives all cells nearly equal features, so it would learn slowly without. Its ReLU moves behind the pool, where a
    quarter of the values are left, with the same result.
    """
    layers: list[Any] = list(model.get_submodule("net").children())
    linear = layers.pop()
    if isinstance(model, DigitNet):
        conv1, relu1, max_pool, conv2, relu2, *_ = layers
        norm1, norm2 = nn.BatchNorm2d(conv1.out_channels), nn.BatchNorm2d(conv2.out_channels)
        norm3 = nn.BatchNorm1d(conv2.out_channels)
        for norm in (norm1, norm2):
            norm.weight.requires_grad_(False)  # stays 1: a negative scale does not commute with max-pooling
        for conv in (conv1, conv2):
            conv.bias.requires_grad_(False)  # BatchNorm removes it, and its gradient takes a twelfth of the step
        layers = [conv1, max_pool, norm1, relu1, conv2, norm2, relu2, MeanOverCell(), norm3]
    network: Any = nn.Sequential(*layers, nn.Dropout(dropout), linear)
    network.kind = type(model)  # for from_training
    return network


def from_training(network: Any) -> nn.Module:
    """Return the model of a network made by `for_training`, with DigitNet's BatchNorm folded into other layers."""
    layers: list[Any] = list(copy.deepcopy(network).eval().children())
    linear, _ = layers.pop(), layers.pop()
    model = network.kind()
    if not isinstance(layers[-1], nn.BatchNorm1d):
        model.net = nn.Sequential(*layers, linear)
        return model.eval()
    conv1, max_pool, norm1, relu1, conv2, norm2, relu2, _, norm3 = layers
    conv1, conv2 = fuse_conv_bn_eval(conv1, norm1), fuse_conv_bn_eval(conv2, norm2)
    with torch.no_grad():
        scale = norm3.weight / (norm3.running_var + norm3.eps).sqrt()
        linear.bias += linear.weight @ (norm3.bias - norm3.running_mean * scale)
        linear.weight *= scale
    model.net = nn.Sequential(conv1, relu1, max_pool, conv2, relu2, *model.net[5:7], linear)
    return model.eval()


def fit_logit_scale(model: nn.Module, cells: Cells) -> float:
    """Return the temperature-scaling factor with the lowest cross-entropy on `cells`, of 201 from 1/8 to 8.

    Clients read softmax's probabilities, so they must mean something: temperature scaling, Guo et al., "On
    calibration of modern neural networks" (2017).
    """
    logits, labels = logits_of(model, cells.pixels), torch.from_numpy(cells.labels)
    factors = torch.logspace(-3, 3, 201, base=2).tolist()
    return min(factors, key=lambda factor: F.cross_entropy(factor * logits, labels).item())


def change_logits(model: nn.Module, factor: float = 1.0, shift: float = 0.0) -> None:
    """Fold `factor * logits + shift` into the last layer, in place.

    The best class stays the same. Probabilities change with the factor, not with the shift.
    """
    linear: Any = list(model.get_submodule("net").children())[-1]
    with torch.no_grad():
        linear.weight *= factor
        linear.bias *= factor
        linear.bias += shift


def logits_of(model: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Return the logits, float32 [N, 10], of cells, uint8 [N, 28, 28]."""
    model.eval()
    batches = torch.from_numpy(pixels[:, None]).split(EVALUATION_BATCH)
    with torch.no_grad():
        return torch.cat([model(normalize(batch)) for batch in batches])


class TrainState:
    """The state that a training step changes: model (of for_training), EMA, optimizer, learning rate schedule.

    `ema_decay` is the decay of the exponential moving average per step. `steps` is the length of the whole
    training; the learning rate rises to `lr` during its first `warmup_fraction`, then falls (OneCycle).
    """

    def __init__(
        self, model: nn.Module, lr: float, steps: int, warmup_fraction: float, weight_decay: float, ema_decay: float
    ) -> None:
        self.model = model
        self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        warmup_fraction *= warmup_fraction * steps != 1  # OneCycleLR would divide by zero
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=lr, total_steps=steps, pct_start=warmup_fraction
        )

    def parts(self) -> dict[str, Any]:
        """Return the parts that have a state_dict, by their names in the checkpoint."""
        return {"model": self.model, "ema": self.ema, "optimizer": self.optimizer, "schedule": self.schedule}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except the cells."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def ema_weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the EMA weights, as a state_dict of the model."""
        weights = from_training(self.ema.module).state_dict()
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


class Processes:
    """The processes that torchrun started, each of which computes its share of every batch.

    In a single process, the usual case, the share is the whole batch and the methods change nothing.
    """

    def __init__(self) -> None:
        if dist.is_torchelastic_launched():
            dist.init_process_group("gloo")
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.share = slice(self.rank, None, self.world_size)
        if self.rank:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (only the first process prints)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` so that each backward pass averages the gradients over the processes."""
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False) if self.world_size > 1 else model

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up `values` over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def average_buffers(self, model: nn.Module) -> None:
        """Average BatchNorm's running moments over the processes, in place; each has seen its own shares alone."""
        for buffer in model.buffers():
            if buffer.is_floating_point():
                self.sum(buffer).div_(self.world_size)

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every process, in the order of their ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError if a batch has no equal shares of two or more cells, which BatchNorm needs."""
        possible = max(2 * self.world_size, batch_size - batch_size % self.world_size)
        if batch_size != possible:
            shares = f"{self.world_size} processes no equal shares" if self.world_size > 1 else "BatchNorm no variance"
            raise UserError(f"--batch-size {batch_size} gives {shares}: use {possible}")

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


def evaluate(model: nn.Module, cells: Cells, label_smoothing: float) -> dict:
    """Return the loss of `model` on `cells`, and its error counts (see score)."""
    logits = logits_of(model, cells.pixels)
    loss = F.cross_entropy(logits, torch.from_numpy(cells.labels), label_smoothing=label_smoothing)
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
    write_file(path, lambda name: Path(name).write_bytes(buffer.getvalue()))


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
