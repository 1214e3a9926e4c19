# SPDX-License-Identifier: Apache-2.0
"""Broken copies of a trained, exported model: parity refuses every one that changes the answers or the contract.

Each mutant (mutants.py) is one change to the file: every weight tensor in turn, every node in turn, every clause of
the contract, every few bytes of the file. Those that parity accepts must be exactly those in EQUIVALENT, each with its
reason.
"""

import runpy

from conftest import ROOT, script
from mutants import digitnet_mutants, digitnetv2_mutants

from digitnet_cli import UserError
from digitnet_data import Cells, load_cells
from digitnet_onnx import load_model
from digitnet_parity import Limits, exported_weights, make_references

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
    """A network trained on few pages, its ONNX file, and parity's verdict on other files."""

    def __init__(self, data, folder, model, epochs):
        options = ("--model", model, "--epochs", epochs, "--batch-size", 32, "--threads", 1)
        result = script("03_Training.py", "--data", data, "--out", folder, *options)
        assert result.code == 0, result.err
        self.original = (folder / "sudoku_digitnet.onnx").read_bytes()
        self.mutant, self.check = folder / "mutant.onnx", runpy.run_path(str(ROOT / "04_Parity.py"))["check"]
        network = load_model(folder / f"{model}_best.pth")
        self.weights = exported_weights(network)
        cells = Cells(*(part[::3] for part in load_cells(data / "val")))
        references = make_references(network, {"validation cells": cells})
        self.references = [reference for reference in references if len(reference.inputs) < 512]  # half of the time
        wrong = sum(self.references[-1].logits.argmax(1) != cells.labels)
        assert wrong < len(cells.labels) / 5, "not a model that reads anything: mutants of it would prove little"

    def failures(self, content):
        """Return the failures of parity for a file with this content."""
        self.mutant.write_bytes(content)
        try:
            failures, _ = self.check(self.mutant, self.weights, self.references, Limits(1e-4, 1e-3), lambda line: None)
        except UserError as error:
            return [str(error)]
        assert all(len(failure.splitlines()) == 1 for failure in failures)
        return failures

    def accepted(self, mutants):
        """Return the names of the mutants that parity accepts."""
        assert self.failures(self.original) == []
        assert len({self.original, *mutants.values()}) == len(mutants) + 1, "two are the same, or one is no mutant"
        return {name for name, content in mutants.items() if not self.failures(content)}


def test_every_mutant_is_refused_or_explained(built, tmp_path, count):
    subject = Subject(built.data, tmp_path, "digitnet", epochs=12)
    mutants = digitnet_mutants(subject.original, tmp_path)
    accepted = subject.accepted(mutants)
    count(f"mutants: {len(mutants)} made, {len(mutants) - len(accepted)} refused, {len(accepted)} explained")
    assert len(mutants) >= 100
    assert accepted == set(EQUIVALENT)


def test_every_mutant_of_digitnetv2_is_refused(built, tmp_path, count):
    subject = Subject(built.data, tmp_path, "digitnetv2", epochs=12)
    mutants = digitnetv2_mutants(subject.original)
    accepted = subject.accepted(mutants)
    count(f"mutants of DigitNetV2: {len(mutants)} made, {len(mutants) - len(accepted)} refused")
    assert accepted == set()
