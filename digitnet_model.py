# SPDX-License-Identifier: Apache-2.0
"""The networks: 28x28 grey pixels of a cell in, ten logits out (class 0 = blank cell, 1-9 = digits).

Input is float32 [N, 1, 28, 28], dark ink on light paper, (v/255 - 0.5)/0.5; output is raw logits, float32 [N, 10].
Needs torch alone, so that a copy of this file works beside the chapter's scripts.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class DigitNet(nn.Module):
    """The chapter's network, layer for layer: 5,130 parameters, 1.02 million multiply-adds per cell.

    Source: Arm Learning Paths, "Train the digit recognizer". Later chapters' scripts load its state_dict by the
    keys `net.0`, `net.3` and `net.7`: never rename them.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),  # [N, 16, 28, 28]
            nn.ReLU(),
            nn.MaxPool2d(2),  # [N, 16, 14, 14]
            nn.Conv2d(16, 32, 3, padding=1),  # [N, 32, 14, 14]
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 1)),  # [N, 32, 1, 1]: the mean over the whole cell
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )
        assert num_classes != 10 or count_parameters(self) == 160 + 4_640 + 330, "no longer the chapter's network"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map cells, float32 [N, 1, 28, 28], to logits, float32 [N, num_classes]."""
        return self.net(x)


class Standardize(nn.Module):
    """Subtract each cell's mean and divide by its standard deviation, so that light and contrast no longer matter.

    float32 [N, 1, H, W] in and out. `eps`, in the input's units, is added to the deviation, so that the texture of
    blank paper is not amplified until it looks like ink.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardise every cell of `x` by itself."""
        x = x - x.mean((2, 3), keepdim=True)
        # The norm is one ONNX operator, ReduceL2, which quantisers leave in float.
        std = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3]) ** 0.5
        return x / (std + self.eps)


def block(channels: int, filters: int, size: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    """Return a convolution, BatchNorm and ReLU."""
    convolution = nn.Conv2d(channels, filters, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(filters), nn.ReLU()]


class DigitNetV2(nn.Module):
    """A network for photos of newspapers: 47,450 parameters, 0.97 million multiply-adds per cell, below DigitNet's.

    It standardises each cell and averages nine features of 37x37 pixels, each of which sees the whole digit;
    DigitNet averages 196 features of 8x8. Strides in the first convolutions leave multiply-adds for a third and a
    fourth. docs/experiments.md has the effect of each choice.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.net = nn.Sequential(
            Standardize(eps=0.2),  # the input's range is 2
            *block(1, 16, size=5, stride=2, padding=0),  # [N, 16, 12, 12]
            *block(16, 32, stride=2),  # [N, 32, 6, 6]
            *block(32, 48),
            nn.MaxPool2d(2),  # [N, 48, 3, 3]
            *block(48, 64),
            nn.AvgPool2d(3),  # [N, 64, 1, 1]
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
        assert num_classes != 10 or count_parameters(self) == 432 + 4_672 + 13_920 + 27_776 + 650

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map cells, float32 [N, 1, 28, 28], to logits, float32 [N, num_classes]."""
        return self.net(x)


NETWORKS = {"digitnet": DigitNet, "digitnetv2": DigitNetV2}


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values in `model`."""
    return sum(p.numel() for p in model.parameters())


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, in eval mode, with every BatchNorm folded into the convolution before it."""
    folded = copy.deepcopy(model).eval()
    layers: list[nn.Module] = []
    for layer in folded.get_submodule("net").children():
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            layers.append(fuse_conv_bn_eval(convolution, layer))
        else:
            layers.append(layer)
    folded.net = nn.Sequential(*layers)
    return folded


class MeanOverCell(nn.Module):
    """Average each channel over the cell, as AvgPool2d and Flatten do; forward and backward take half their time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, C, H, W] -> [N, C]; fastest if `x` is channels_last, whose order this sum keeps."""
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


def for_training(model: nn.Module) -> nn.Sequential:
    """Return the network that is trained instead of `model`; they share layers, and `from_training` undoes it.

    DigitNet gets BatchNorm behind its convolutions and before the last layer: white paper gives all cells nearly equal
    features, so it would learn slowly without. Its ReLU moves behind the pool, where a quarter of the values are left,
    with the same result.
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
    network: Any = nn.Sequential(*layers, linear)
    network.kind = type(model)  # for from_training
    return network


def from_training(network: Any) -> nn.Module:
    """Return the model of a network made by `for_training`, with DigitNet's BatchNorm folded into other layers."""
    layers: list[Any] = list(copy.deepcopy(network).eval().children())
    linear = layers.pop()
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


def change_logits(model: nn.Module, factor: float = 1.0, shift: float = 0.0) -> None:
    """Fold `factor * logits + shift` into the last layer, in place.

    The best class stays the same. Probabilities change with the factor, not with the shift.
    """
    linear: Any = list(model.get_submodule("net").children())[-1]
    with torch.no_grad():
        linear.weight *= factor
        linear.bias *= factor
        linear.bias += shift
