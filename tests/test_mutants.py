# SPDX-License-Identifier: Apache-2.0
"""Broken copies of a trained, exported model: parity refuses every one that changes the answers or the contract.

Each mutant (mutants.py) is one change to the file: every weight tensor in turn, every node in turn, every clause of
the contract, every few bytes of the file. Those that parity accepts must be exactly those in EQUIVALENT, each with its
reason.
"""

from importlib import import_module
from pathlib import Path

import onnx
import torch
from conftest import PRETRAINED
from mutants import digitnet_mutants, digitnetv2_mutants
from onnx import numpy_helper

from digitnet_cli import UserError
from digitnet_data import Cells, load_cells
from digitnet_model import NETWORKS, fold_batchnorm
from digitnet_onnx import load_model
from digitnet_parity import Limits, check, make_references

EQUIVALENT = {
    "Identity after the logits": "passes its input on unchanged",
    "Dropout before the last layer": "does nothing outside training",
    "padding by name (SAME_UPPER)": "a 3x3 window with stride 1 is padded by 1 on each side either way",
    "pool rounds sizes up": "28 and 14 are even: nothing is left to round",
    "nodes renamed": "names of nodes are comments",
    "metadata added": "comments",
    "producer changed": "a comment",
}


class Subject:
    """A trained network, its ONNX file, and parity's verdict on other files."""

    def __init__(self, network: torch.nn.Module, onnx_file: Path, data: Path, mutant: Path) -> None:
        self.original, self.mutant = onnx_file.read_bytes(), mutant
        self.weights = import_module("04_Parity").exported_weights(network)
        cells = load_cells(data / "val")
        cells = Cells(*(part[:: len(cells.labels) // 120] for part in cells))
        references = make_references(network, {"validation cells": cells})
        self.references = [reference for reference in references if len(reference.inputs) < 512]  # half of the time
        wrong = sum(self.references[-1].logits.argmax(1) != cells.labels)
        assert wrong < len(cells.labels) / 5, "not a model that reads anything: mutants of it would prove little"

    def failures(self, content):
        """Return the failures of parity for a file with this content."""
        self.mutant.write_bytes(content)
        try:
            failures, _ = check(self.mutant, self.weights, self.references, Limits(1e-4, 1e-3), lambda line: None)
        except UserError as error:
            return [str(error)]
        assert all(len(failure.splitlines()) == 1 for failure in failures)
        return failures

    def accepted(self, mutants):
        """Return the names of the mutants that parity accepts."""
        assert self.failures(self.original) == []
        assert len({self.original, *mutants.values()}) == len(mutants) + 1, "two are the same, or one is no mutant"
        return {name for name, content in mutants.items() if not self.failures(content)}


def test_every_mutant_is_refused_or_explained(trained, tmp_path, count):
    network = load_model(trained.out / "digitnet_best.pth")
    subject = Subject(network, trained.out / "sudoku_digitnet.onnx", trained.data, tmp_path / "mutant.onnx")
    mutants = digitnet_mutants(subject.original, tmp_path)
    accepted = subject.accepted(mutants)
    count(f"mutants: {len(mutants)} made, {len(mutants) - len(accepted)} refused, {len(accepted)} explained")
    assert len(mutants) >= 100
    assert accepted == set(EQUIVALENT)


def test_every_mutant_of_digitnetv2_is_refused(trained, tmp_path, count):
    network = fold_batchnorm(NETWORKS["digitnetv2"]())  # as in the file
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(PRETRAINED).graph.initializer}
    network.load_state_dict({name: torch.from_numpy(tensors[name].copy()) for name in network.state_dict()})
    subject = Subject(network, PRETRAINED, trained.data, tmp_path / "mutant.onnx")
    mutants = digitnetv2_mutants(subject.original)
    accepted = subject.accepted(mutants)
    count(f"mutants of DigitNetV2: {len(mutants)} made, {len(mutants) - len(accepted)} refused")
    assert accepted == set()
