"""The network is the tutorial's, and only its own weights are taken."""

import pickle

import pytest
import torch

from digitnet_cli import UserError
from digitnet_model import DigitNet, count_parameters, load_model


def test_digitnet_has_the_tutorials_layers_and_5130_parameters():
    assert count_parameters(DigitNet()) == 5_130
    assert {key: tuple(value.shape) for key, value in DigitNet().state_dict().items()} == {
        "net.0.weight": (16, 1, 3, 3),
        "net.0.bias": (16,),
        "net.3.weight": (32, 16, 3, 3),
        "net.3.bias": (32,),
        "net.7.weight": (10, 32),
        "net.7.bias": (10,),
    }
    names = [type(layer).__name__ for layer in DigitNet().net]
    assert names == ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]


@pytest.mark.parametrize("batch", [1, 2, 3, 81, 512])
def test_any_batch_of_cells_gives_ten_logits_each(batch):
    assert DigitNet()(torch.zeros(batch, 1, 28, 28)).shape == (batch, 10)


def test_load_model_gives_the_saved_network_in_eval_mode(tmp_path):
    model = DigitNet()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = load_model(tmp_path / "weights.pth")
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


class Bomb:
    """Would create a file if unpickled with code allowed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_load_model_refuses_other_files_in_words(tmp_path):
    path, bang = tmp_path / "weights.pth", tmp_path / "bang"
    nan = DigitNet().state_dict()
    nan["net.7.bias"][0] = float("nan")
    cases = {
        "no weights": lambda: path.unlink(missing_ok=True),
        "another network": lambda: torch.save(torch.nn.Linear(3, 3).state_dict(), path),
        "not finite": lambda: torch.save(nan, path),
        "not a state_dict": lambda: path.write_bytes(b"not a zip file"),
        "can be read": lambda: path.write_bytes(pickle.dumps(Bomb(bang))),
    }
    for words, damage in cases.items():
        damage()
        with pytest.raises(UserError, match=words):
            load_model(path)
    assert not bang.exists()
