"""The networks: a cell's 28x28 grey pixels in, ten logits out (class 0 = blank cell, 1-9 = digits).

Input is float32 [N, 1, 28, 28], dark ink on light paper, scaled by `digitnet_data.normalize`;
output is raw logits, float32 [N, 10]: clients apply softmax themselves.
"""

import copy
from pathlib import Path

from digitnet_cli import UserError
from digitnet_data import CELL_SIZE, NUM_CLASSES

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class DigitNet(nn.Module):
    """The tutorial's network, layer for layer: 5,130 parameters, 1.02 million multiply-adds a cell.

    Source: Arm Learning Paths, "Train the digit recognizer". Its state_dict keys
    (`net.0`, `net.3`, `net.7`) are what the later chapters' scripts load: never rename them.
    """

    def __init__(self, num_classes: int = NUM_CLASSES):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, 1, 28, 28] -> logits float32 [N, num_classes]."""
        if self.training:  # the same logits and gradients, a third faster
            convolution, relu, pool = self.net[:3]
            x = self.net[3:5](relu(pool(convolution(x))))  # max and ReLU commute: pooling first leaves ReLU a quarter
            return self.net[6:](F.avg_pool2d(x, x.shape[2:]))  # unlike net[5], its gradient is channels_last, too
        return self.net(x)


class Standardize(nn.Module):
    """Takes each cell's mean from it and divides by its standard deviation: light and contrast no longer matter.

    float32 [N, 1, H, W] in and out. `floor` is added to the deviation, so that the texture of blank paper
    is not blown up until it looks like ink.
    """

    def __init__(self, floor: float):
        super().__init__()
        self.floor = floor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean((2, 3), keepdim=True)
        # The norm is one ONNX operator, ReduceL2, which quantisers leave in float.
        deviation = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3]) ** 0.5
        return x / (deviation + self.floor)


def block(channels: int, filters: int, size: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    """A convolution, BatchNorm and ReLU."""
    convolution = nn.Conv2d(channels, filters, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(filters), nn.ReLU()]


class DigitNetV2(nn.Module):
    """For photos of newspapers: 47,450 parameters, 0.97 million multiply-adds a cell, fewer than DigitNet's.

    Against DigitNet: each cell is standardised, and what is averaged are nine features of 37x37 pixels, each of the
    whole digit, instead of 196 of 8x8. The first convolutions take strides, which leaves multiply-adds for a third
    and a fourth. docs/experiments.md says what each choice brought.
    """

    def __init__(self, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.net = nn.Sequential(
            Standardize(floor=0.14),  # in the input's units, whose range is 2
            *block(1, 16, size=5, stride=2, padding=0),  # [N, 16, 12, 12]
            *block(16, 32, stride=2),  # [N, 32, 6, 6]
            *block(32, 48),
            nn.MaxPool2d(2),  # [N, 48, 3, 3]
            *block(48, 64),
            nn.AvgPool2d(3),  # [N, 64, 1, 1]
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, 1, 28, 28] -> logits float32 [N, num_classes]."""
        return self.net(x)


NETWORKS = {"digitnet": DigitNet, "digitnetv2": DigitNetV2}


def count_parameters(model: nn.Module) -> int:
    """Number of trained values in `model`."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Multiplications of weights with values for one cell, in convolutions and linear layers."""
    counts = []

    def count(layer: nn.Module, _, output: torch.Tensor) -> None:
        counts.append(output[0, 0].numel() * layer.weight.numel())  # each weight, once at every place of the output

    hooks = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, CELL_SIZE, CELL_SIZE))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return sum(counts)


assert count_parameters(DigitNet()) == 160 + 4_640 + 330, "DigitNet is no longer the tutorial's network"
assert multiply_adds(DigitNet()) == 112_896 + 903_168 + 320 == 1_016_384
assert count_parameters(DigitNetV2()) == (400 + 32) + (4_608 + 64) + (13_824 + 96) + (27_648 + 128) + 650 == 47_450
assert multiply_adds(DigitNetV2()) == 57_600 + 165_888 + 497_664 + 248_832 + 640 <= multiply_adds(DigitNet())


def start_standardized(model: nn.Module, x: torch.Tensor) -> None:
    """Scales and shifts each convolution so that its outputs on `x` have mean 0 and deviation 1 in every channel.

    Convolutions without a bias are left alone: BatchNorm follows them. With it, a network without BatchNorm learns
    from the first step. Source: Salimans and Kingma, "Weight Normalization" (2016), data-dependent initialization.
    """

    def standardize(layer: nn.Conv2d, _, output: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(output, dim=(0, 2, 3), keepdim=True)
        layer.weight /= deviation.view(-1, 1, 1, 1)
        layer.bias.sub_(mean.flatten()).div_(deviation.flatten())
        return (output - mean) / deviation

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    hooks = [convolution.register_forward_hook(standardize) for convolution in convolutions]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, with every BatchNorm folded into the convolution before it: the same logits."""
    folded = copy.deepcopy(model).eval()
    layers = []
    for layer in folded.net:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    folded.net = nn.Sequential(*layers)
    return folded


def load_model(path: Path | str) -> nn.Module:
    """The network whose state_dict lies at `path`, in eval mode; code in the file is never run.

    Raises UserError if the file is missing, no state_dict, of another network, or holds a value that is not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"no weights {path}: make them with `make train` (or python3 03_Training.py)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {key: value.shape for key, value in state.items()}
    except Exception as error:  # pickle's, zip's and torch's errors have no common base class
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"{path} is not a state_dict that can be read: train again ({reason})") from None
    for network in NETWORKS.values():
        model = network()
        if shapes == {key: value.shape for key, value in model.state_dict().items()}:
            model.load_state_dict(state)
            if not all(value.isfinite().all() for value in state.values()):
                raise UserError(f"{path} holds weights that are not finite: train again")
            return model.eval()
    raise UserError(f"{path} holds weights of another network than {' or '.join(NETWORKS)}: train again")
