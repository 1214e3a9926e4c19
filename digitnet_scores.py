# SPDX-License-Identifier: Apache-2.0
"""What the reports hold: errors in counts, so that every figure can be checked, and a description of the run."""

import contextlib
import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from digitnet_data import BLANK, CONFIDENCE_THRESHOLD, NUM_CLASSES, Cells, sha256_of_cells
from digitnet_machine import available_cpus, read_system_file

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "opencv-python-headless")
KINDS = ("cells", "digits", "blanks", "boards")  # counted by `score`: all of them, and as wrong_… the wrong ones


def score(cells: Cells, predictions: np.ndarray) -> dict[str, int]:
    """Count the errors of `predictions`, int [N], in all cells, digits, blanks and boards.

    A board counts if all of its 81 cells are in `cells`.
    """
    wrong = predictions != cells.labels
    digits = cells.labels != BLANK
    _, board, cells_of_board = np.unique(cells.boards, return_inverse=True, return_counts=True)
    whole = cells_of_board == 81
    return {
        "cells": len(wrong),
        "wrong_cells": int(wrong.sum()),
        "digits": int(digits.sum()),
        "wrong_digits": int((wrong & digits).sum()),
        "blanks": int((~digits).sum()),
        "wrong_blanks": int((wrong & ~digits).sum()),
        "boards": int(whole.sum()),
        "wrong_boards": int((whole & (np.bincount(board, wrong) > 0)).sum()),
    }


def count_wrong(scores: dict[str, int], kinds: tuple[str, ...] = KINDS) -> str:
    """Return the wrong ones of these kinds for a table or a summary, without kinds that are not there."""
    return ", ".join(f"{scores[f'wrong_{kind}']:,} of {scores[kind]:,} {kind}" for kind in kinds if scores[kind])


class Predictions(NamedTuple):
    """A set of cells with the model's predictions."""

    cells: Cells
    classes: np.ndarray  # int64 [N], the best ones
    probabilities: np.ndarray  # float32 [N], its softmax probability

    @property
    def thresholded(self) -> np.ndarray:
        """The classes, int64 [N], with those below CONFIDENCE_THRESHOLD taken as blank, as clients do."""
        return np.where(self.probabilities < CONFIDENCE_THRESHOLD, BLANK, self.classes)


def concatenate(parts: dict[str, Predictions]) -> Predictions:
    """Join predictions of the same boards, such as at several crop margins; each name is added to its boards' names."""
    named = [part.cells._replace(boards=np.char.add(part.cells.boards, f", {name}")) for name, part in parts.items()]
    cells = Cells(*map(np.concatenate, zip(*named, strict=True)))
    _, classes, probabilities = zip(*parts.values(), strict=True)
    return Predictions(cells, np.concatenate(classes), np.concatenate(probabilities))


def describe_predictions(predictions: Predictions) -> dict:
    """Return the entry of a set in evaluation.json."""
    table = confusion(predictions.cells.labels, predictions.thresholded)
    return {
        "cells_sha256": sha256_of_cells(predictions.cells),
        "best_class": score(predictions.cells, predictions.classes),
        "thresholded": score(predictions.cells, predictions.thresholded),
        "confidence": confidence(predictions),
        "confusion_thresholded": table.tolist(),
        "worst_confusions": worst_confusions(table),
    }


def confidence(predictions: Predictions) -> dict:
    """Return the mean probability of right cells, and the right digits that the threshold takes for blank."""
    right = predictions.classes == predictions.cells.labels
    right_digits = right & (predictions.cells.labels != BLANK)
    return {
        "mean_of_right_cells": float(predictions.probabilities[right].mean()) if right.any() else 0.0,
        "right_digits": int(right_digits.sum()),
        "right_digits_below": int((right_digits & (predictions.probabilities < CONFIDENCE_THRESHOLD)).sum()),
    }


def confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the confusion matrix, int [10, 10]: rows are the truth, columns the predictions."""
    table = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(table, (labels, predictions), 1)
    return table


def worst_confusions(table: np.ndarray, limit: int = 5) -> list[dict]:
    """List the most frequent mistakes of a confusion matrix: truth, guess, and how often."""
    table = table * (1 - np.eye(NUM_CLASSES, dtype=int))
    order = np.argsort(-table, axis=None, kind="stable")[:limit]
    return [
        {"truth": int(i // NUM_CLASSES), "guess": int(i % NUM_CLASSES), "times": int(table.flat[i])}
        for i in order
        if table.flat[i]
    ]


def cpuinfo(names: str) -> str:
    """Return the last entry of /proc/cpuinfo with one of `names`, a regular expression, or ""."""
    found = re.findall(rf"^(?:{names})\s*: (.*)", read_system_file(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[-1] if found else ""


def describe_run() -> dict:
    """Return date, machine, CPU cores, versions and command of this run, for the JSON reports."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    wanted = re.compile("sse4|avx|fma|f16c|amx|asimd|sve|sme|bf16|i8mm|fphp|atomics")  # change how sums are rounded
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "processor": cpuinfo("model name|Model") or platform.processor(),
        "cpu_part": cpuinfo("CPU part"),  # Arm's names are numbers
        "cpu_flags": " ".join(filter(wanted.match, cpuinfo("flags|Features").split())),
        "cpus": available_cpus(),
        "python": platform.python_version(),
        "versions": versions,
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }
