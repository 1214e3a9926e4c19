# SPDX-License-Identifier: Apache-2.0
"""Fast training keeps its contracts: processes share each batch, order and start come from the seed."""

import importlib
import json

import pytest
import torch
from conftest import ROOT, TORCHRUN, call, make, run

from digitnet_cli import UserError
from digitnet_data import Cells, load_cells, normalize
from digitnet_model import NETWORKS, block, change_logits, for_training, from_training
from digitnet_onnx import load_model
from digitnet_training import (
    MUON_LR,
    Shares,
    TrainState,
    augment,
    draw_augmentation,
    draw_epoch,
    fit_logit_scale,
    logits_of,
)

# A high rate would blow up the differences of rounding.
OPTIONS = ("--epochs", 2, "--batch-size", 64, "--lr", 0.0005, "--threads", 1, "--train-only")


def trained(folder):
    """Return a run's records of the epochs and its weights, before its logits are scaled and shifted."""
    report = json.loads((folder / "training.json").read_text())
    weights = torch.load(folder / "digitnet_best.pth", weights_only=True)
    weights["net.7.bias"] -= report["logit_shift"]
    for name in ("net.7.weight", "net.7.bias"):  # the scale is one of 201, 2 % apart
        weights[name] /= report["logit_scale"]
    return report["epochs"], weights


def test_two_processes_train_as_two_threads(built, tmp_path):
    options = ("--data", built.data, *OPTIONS, "--out")
    result = run(*TORCHRUN, ROOT / "03_Training.py", *options, tmp_path / "processes").ok()
    assert result.out.count("val acc: 0.") == 3  # two epochs and the best: only the first process speaks
    call("03_Training.py", *options, tmp_path / "threads", "--threads", 2).ok()
    (epochs, weights), (expected, in_threads) = trained(tmp_path / "processes"), trained(tmp_path / "threads")
    assert [e["train_loss"] for e in epochs] == pytest.approx([e["train_loss"] for e in expected], rel=1e-4)
    assert epochs[1]["val"]["loss"] == pytest.approx(expected[1]["val"]["loss"], rel=1e-3)
    for name, value in in_threads.items():
        assert (weights[name] - value).norm() < 0.01 * value.norm(), name


def test_shares_are_normalised_apart_and_their_gradients_add_up():
    torch.manual_seed(0)
    model = for_training(NETWORKS["digitnet"]())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    x, labels = torch.rand(64, 1, 28, 28) * 2 - 1, torch.arange(64) % 10
    shares = Shares(2)

    def compute(network, share):
        loss = torch.nn.functional.cross_entropy(network(x[share]), labels[share], reduction="sum")
        return torch.autograd.grad(loss, parameters)

    networks = shares.networks(model)
    found = shares.sum(shares.pool.map(compute, networks, shares.slices))
    halves = [compute(model, half) for half in shares.slices]
    expected = [torch.stack(same).sum(0) for same in zip(*halves, strict=True)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    whole = compute(model, slice(None))
    assert any((one - other).norm() > 1e-3 * one.norm() for one, other in zip(found, whole, strict=True))
    assert all(p is q for p, q in zip(*(network.parameters() for network in networks), strict=True))
    assert not torch.equal(*(network[2].running_mean for network in networks))


def test_too_small_a_share_and_other_cells_are_refused(monkeypatch):
    shares = Shares(2)
    with pytest.raises(UserError, match="--batch-size 3 is too small for 2 threads: use 4 or more"):
        shares.check_batch(3)
    shares.check_batch(5)
    monkeypatch.setattr(shares, "gather", lambda data: [data, data | {"val": "other"}])
    with pytest.raises(UserError, match="process 1 has other cells than process 0"):
        shares.check_data({"train": "x", "val": "y"})


def test_make_nproc_trains_with_torchrun(built, tmp_path):
    result = make(built.folder, "-n", "train", f"OUT={tmp_path}/out", "NPROC=2").ok()
    assert "torch.distributed.run --standalone --nproc-per-node '2' 03_Training.py" in result.out


def test_a_share_of_a_batch_is_augmented_as_within_the_batch():
    cells = normalize(torch.randint(0, 256, (9, 1, 28, 28), generator=torch.Generator().manual_seed(0)))
    drawn = draw_augmentation(9, torch.Generator().manual_seed(1), 5, 0.1, 0.25, 0.08, 0.5, 0.2)
    whole = augment(cells, *drawn)
    for share in (slice(0, None, 2), slice(1, None, 2)):
        torch.testing.assert_close(augment(cells[share], *(part[share] for part in drawn)), whole[share])


def test_an_epochs_order_comes_from_its_generator_alone_and_holds_the_shares():
    labels = torch.tensor([3, 0, 0, 9, 0, 1, 2, 0, 4, 5, 0, 6, 7, 0, 8, 1])  # in no order, unevenly many
    first = draw_epoch(labels, 20_000, 0.4, 2.0, torch.Generator().manual_seed(7))
    assert torch.equal(first, draw_epoch(labels, 20_000, 0.4, 2.0, torch.Generator().manual_seed(7)))
    assert not torch.equal(first, draw_epoch(labels, 20_000, 0.4, 2.0, torch.Generator().manual_seed(8)))
    shares = torch.bincount(labels[first], minlength=10) / 20_000
    assert shares[0] == pytest.approx(0.4, abs=0.02) and shares[8] == pytest.approx(0.12, abs=0.01)
    assert shares[[1, 2, 3, 4, 5, 6, 7, 9]].tolist() == pytest.approx([0.06] * 8, abs=0.01)
    within = torch.bincount(first, minlength=16)[labels == 0] / 20_000
    assert within.tolist() == pytest.approx([0.4 / 6] * 6, abs=0.01)  # every cell of a class is equally likely


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_any_number_of_steps_trains(warmup):
    """Also 10 with a tenth of them as warm-up, for which OneCycleLR alone divides by zero."""
    for steps in range(1, 40):
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(1, 1))
        state = TrainState(model.to(memory_format=torch.channels_last), 0.01, steps, warmup, 0.0)
        rates = []
        for _ in range(steps):
            rates.append([schedule.get_last_lr()[0] for schedule in state.schedules.values()])
            state.step([torch.ones_like(parameter) for parameter in state.trained])
        assert all(0 < adamw <= 0.01 and muon == pytest.approx(MUON_LR * adamw) for adamw, muon in rates)
        assert steps < 10 or max(rates)[0] > 0.009


def test_muon_changes_the_kernels_themselves_and_no_direction_more_than_others():
    kernels = torch.nn.Conv2d(4, 8, 3, bias=False).to(memory_format=torch.channels_last)
    state = TrainState(torch.nn.Sequential(kernels, torch.nn.Linear(1, 1)), 0.1, 3, 0.5, 0.0)
    before = kernels.weight.detach().clone()
    gradient = torch.zeros_like(before)
    gradient[0], gradient[1] = 100 * torch.rand(4, 3, 3), torch.rand(4, 3, 3)
    state.step([gradient, torch.zeros(1, 1), torch.zeros(1)])
    update = (before - kernels.weight.detach()).flatten(1).norm(dim=1)
    assert update[0] > 0 and update[1] > 0.3 * update[0] and update[2:].max() < 1e-2 * update[0]


class Another(torch.nn.Module):
    """A network such as CONTRIBUTING.md says how to add."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(*block(1, 8, stride=4), torch.nn.Flatten(), torch.nn.Linear(392, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.mark.parametrize("network", [*NETWORKS.values(), Another])
def test_the_trained_network_becomes_a_model_with_equal_logits(network):
    torch.manual_seed(0)
    model = network()
    trained_network = for_training(model)
    optimizer = torch.optim.AdamW(trained_network.parameters(), lr=0.01)
    x, labels = torch.rand(64, 1, 28, 28) * 2 - 1, torch.arange(64) % 10
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(trained_network(x), labels).backward()
        optimizer.step()
    result = from_training(trained_network)
    assert type(result) is network and result.state_dict().keys() == model.state_dict().keys()
    assert trained_network.training and not result.training
    with torch.no_grad():
        expected = trained_network.eval()(x)
        torch.testing.assert_close(result(x), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.05


def test_the_last_of_equally_good_epochs_is_kept():
    history = [{"epoch": epoch, "val": {"wrong_cells": wrong}} for epoch, wrong in enumerate([3, 1, 0, 0, 2], 1)]
    assert importlib.import_module("03_Training").best_epoch(history)["epoch"] == 4


def test_the_logit_scale_is_the_likeliest_and_changes_no_class(built):
    cells = load_cells(built.data / "val")
    torch.manual_seed(0)
    model = NETWORKS["digitnet"]().eval()
    before = logits_of(model, cells.pixels[:, None])
    # Half of the cells get the class that the model finds best, the others any: neither 0 nor endless confidence fits.
    labels = torch.where(torch.arange(len(before)) % 2 == 0, before.argmax(1), torch.arange(len(before)) % 10)
    factor = fit_logit_scale(model, Cells(cells.pixels, labels.numpy(), cells.boards, cells.places))
    change_logits(model, factor)
    after = logits_of(model, cells.pixels[:, None])
    torch.testing.assert_close(after, factor * before, rtol=1e-4, atol=1e-5)
    assert (after.argmax(1) == before.argmax(1)).all()

    others = (1, 0.7, 0.9, 1 / factor, 1.1, 1.5)
    best, *losses = [torch.nn.functional.cross_entropy(factor * other * before, labels) for other in others]
    assert factor != 1 and best <= min(losses) + 1e-6


def test_the_largest_validation_logit_is_zero(built):
    """So INT8 ranges, which always include 0, cut off no digit's logits, whatever cells they are from."""
    model, cells = load_model(built.out / "digitnet_best.pth"), load_cells(built.data / "val")
    assert logits_of(model, cells.pixels[:, None]).max().item() == pytest.approx(0, abs=1e-4)


def test_bfloat16_trains_float32_weights(built, tmp_path):
    """On few cells: where the processor does not compute in bfloat16, it takes many times as long."""
    for name, part in (("train", "val"), ("val_boards", "calibration_boards")):
        (tmp_path / name).symlink_to(built.data / part)
    options = ("--data", tmp_path, *OPTIONS, "--out")
    call("03_Training.py", *options, tmp_path / "plain").ok()
    call("03_Training.py", *options, tmp_path / "short", "--bf16").ok()
    (plain, _), (epochs, weights) = trained(tmp_path / "plain"), trained(tmp_path / "short")
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert epochs[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], rel=0.05)
    assert epochs[0]["train_loss"] != plain[0]["train_loss"]  # it was in bfloat16
