"""What a training step sees: which cells an epoch shows, and how each is turned, moved, scaled and blurred.

All chance comes from the generator that is given, so that an epoch can be repeated.
"""

from digitnet_data import BLANK, NUM_CLASSES

import torch
from torch.nn import functional as F


def draw_epoch(labels: torch.Tensor, count: int, blank_share: float, generator: torch.Generator) -> torch.Tensor:
    """Which cells an epoch shows, int64 [count]: `blank_share` of them blank, every digit equally likely."""
    members, sizes = labels.argsort(stable=True), torch.bincount(labels, minlength=NUM_CLASSES)
    shares = torch.full((NUM_CLASSES,), (1 - blank_share) / (NUM_CLASSES - 1))
    shares[BLANK] = blank_share
    classes = torch.multinomial(shares, count, replacement=True, generator=generator)
    within = torch.randint(2**62, (count,), generator=generator) % sizes[classes]
    return members[(sizes.cumsum(0) - sizes)[classes] + within]


def draw_augmentation(
    n: int, generator: torch.Generator, degrees: float, translate: float, scale: float, blur_probability: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `augment` does to each of `n` cells: affine maps, float32 [n, 2, 3], and which are blurred, bool [n].

    `degrees` either way; `translate` as a fraction of the side; `scale` as a fraction of the size.
    """

    def uniform(limit: float, *shape: int) -> torch.Tensor:
        return torch.empty(shape).uniform_(-limit, limit, generator=generator)

    angle, size = uniform(degrees * torch.pi / 180, n), 1 + uniform(scale, n)
    cos, sin = angle.cos() * size, angle.sin() * size
    shift = uniform(2 * translate, n, 2)  # grid_sample's coordinates run from -1 to 1
    affine = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(n, 2, 3)
    return affine, torch.rand(n, generator=generator) < blur_probability


def augment(cells: torch.Tensor, affine: torch.Tensor, blurred: torch.Tensor) -> torch.Tensor:
    """Cells turned, moved, scaled and blurred as `draw_augmentation` says; float32 [N, 1, 28, 28] in and out.

    Pixels from outside are reflected: a cell cut too wide shows its line and paper beyond it, as on a page.
    Filling with a constant, as torchvision's RandomAffine does, would put grey wedges into the corners.
    """
    grid = F.affine_grid(affine, list(cells.shape), align_corners=False)
    cells = F.grid_sample(cells, grid, padding_mode="reflection", align_corners=False)
    if blurred.any():
        kernel = cells.new_tensor([0.25, 0.5, 0.25])  # the 3-tap Gaussian, sigma 0.85 pixels
        padded = F.pad(cells[blurred], (1, 1, 1, 1), mode="replicate")
        cells[blurred] = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 3)), kernel.view(1, 1, 3, 1))
    return cells
