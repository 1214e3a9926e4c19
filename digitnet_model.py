"""The networks: a cell's 28x28 grey pixels in, ten logits out (class 0 = blank cell, 1-9 = digits).

Input is float32 [N, 1, 28, 28], dark ink on light paper, scaled by `digitnet_data.normalize`;
output is raw logits, float32 [N, 10]: clients apply softmax themselves.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from digitnet_cli import UserError
from digitnet_data import NUM_CLASSES


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


NETWORKS = {"digitnet": DigitNet}


def count_parameters(model: nn.Module) -> int:
    """Number of trained values in `model`."""
    return sum(p.numel() for p in model.parameters())


assert count_parameters(DigitNet()) == 160 + 4_640 + 330, "DigitNet is no longer the tutorial's network"


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
