"""What a model reads in a set of cells, and how much of it is wrong: in counts, so that every figure can be checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from digitnet_data import BLANK, CONFIDENCE_THRESHOLD, NUM_CLASSES, Cells, sha256_of_cells

CONFIDENCE_BINS = (0.0, 0.5, CONFIDENCE_THRESHOLD, 0.8, 0.9, 0.95, 0.99, 1.0)
KINDS = ("cells", "digits", "blanks", "boards")  # what `score` counts: all, and under wrong_… the wrong ones


def score(cells: Cells, predictions: np.ndarray) -> dict[str, int]:
    """Count the errors of `predictions`, int [N]: of all cells, of digits, of blanks, of boards.

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


def describe_scores(scores: dict[str, int]) -> str:
    """Put the counts of `score` into one line for people."""
    return ", ".join(f"{scores[f'wrong_{kind}']} of {scores[kind]:,} {kind} wrong" for kind in KINDS)


class Reading(NamedTuple):
    """A set of cells, and what the model reads in them."""

    cells: Cells
    guesses: np.ndarray  # int64 [N], the best class
    probabilities: np.ndarray  # float32 [N], its softmax probability

    @property
    def thresholded(self) -> np.ndarray:
        """The guesses, int64 [N], with those below CONFIDENCE_THRESHOLD taken as blank, as clients do."""
        return np.where(self.probabilities < CONFIDENCE_THRESHOLD, BLANK, self.guesses)


def concatenate_readings(readings: dict[str, Reading]) -> Reading:
    """Join readings of the same boards by name, such as of several crop margins, each board with the name added."""
    named = [
        reading.cells._replace(boards=np.char.add(reading.cells.boards, f", {name}"))
        for name, reading in readings.items()
    ]
    return Reading(
        Cells(*(np.concatenate(arrays) for arrays in zip(*named, strict=True))),
        np.concatenate([reading.guesses for reading in readings.values()]),
        np.concatenate([reading.probabilities for reading in readings.values()]),
    )


def describe(reading: Reading) -> dict:
    """Return all that evaluation.json says of a set."""
    table = confusion(reading.cells.labels, reading.thresholded)
    return {
        "cells_sha256": sha256_of_cells(reading.cells),
        "best_class": score(reading.cells, reading.guesses),
        "thresholded": score(reading.cells, reading.thresholded),
        "confidence": confidence(reading),
        "confusion_thresholded": table.tolist(),
        "worst_confusions": worst_confusions(table),
    }


def confidence(reading: Reading) -> dict:
    """Return how high probabilities are where it is right, what the threshold costs, and how often they hold."""
    right = reading.guesses == reading.cells.labels
    right_digits = right & (reading.cells.labels != BLANK)
    bins = np.digitize(reading.probabilities, CONFIDENCE_BINS[1:-1])
    return {
        "mean_of_right_cells": float(reading.probabilities[right].mean()) if right.any() else 0.0,
        "right_digits": int(right_digits.sum()),
        "right_digits_below": int((right_digits & (reading.probabilities < CONFIDENCE_THRESHOLD)).sum()),
        "calibration": [
            {
                "from": CONFIDENCE_BINS[i],
                "to": CONFIDENCE_BINS[i + 1],
                "cells": int((bins == i).sum()),
                "mean_probability": float(reading.probabilities[bins == i].mean()),
                "fraction_right": float(right[bins == i].mean()),
            }
            for i in np.unique(bins)
        ],
    }


def confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Count, int [10, 10]: rows are the truth, columns the reading."""
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
