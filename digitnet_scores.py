"""What a model reads in a set of cells, and how much of it is wrong: in counts, so that every figure can be checked."""

from typing import NamedTuple

from digitnet_data import BLANK, BLANK_BELOW, NUM_CLASSES, Cells, digest

import numpy as np

CONFIDENCE_BINS = (0.0, 0.5, BLANK_BELOW, 0.8, 0.9, 0.95, 0.99, 1.0)


def score(cells: Cells, predictions: np.ndarray) -> dict[str, int]:
    """Errors of `predictions`, int [N], as counts: of all cells, of digits, of blanks, of boards.

    A board is a page whose 81 cells are all in `cells`, by their names; other pages do not count.
    """
    wrong = predictions != cells.labels
    digits = cells.labels != BLANK
    pages = [name.rpartition("_")[0] for name in cells.names]
    _, page, cells_of_page = np.unique(pages, return_inverse=True, return_counts=True)
    boards = cells_of_page == 81
    return {
        "cells": len(wrong),
        "wrong_cells": int(wrong.sum()),
        "digits": int(digits.sum()),
        "wrong_digits": int((wrong & digits).sum()),
        "blanks": int((~digits).sum()),
        "wrong_blanks": int((wrong & ~digits).sum()),
        "boards": int(boards.sum()),
        "wrong_boards": int((boards & (np.bincount(page, wrong) > 0)).sum()),
    }


def describe_scores(scores: dict[str, int]) -> str:
    """The counts of `score` in one line for people."""
    kinds = ("cells", "digits", "blanks", "boards")
    return ", ".join(f"{scores['wrong_' + kind]} of {scores[kind]:,} {kind} wrong" for kind in kinds)


class Reading(NamedTuple):
    """A set of cells, and what the model reads in them."""

    cells: Cells
    guesses: np.ndarray  # int64 [N], the best class
    probabilities: np.ndarray  # float32 [N], its softmax probability

    @property
    def as_clients_do(self) -> np.ndarray:
        """The guesses, int64 [N], with low ones taken as blank."""
        return np.where(self.probabilities < BLANK_BELOW, BLANK, self.guesses)


def joined(cuts: dict[str, Reading]) -> Reading:
    """Several cuts of the same boards as one set, in which each cut of a board is a board of its own."""
    readings = [
        reading._replace(cells=reading.cells._replace(names=np.char.replace(reading.cells.names, "_", f", {cut}_")))
        for cut, reading in cuts.items()
    ]
    cells = Cells(*(np.concatenate(parts) for parts in zip(*(reading.cells for reading in readings), strict=True)))
    return Reading(
        cells,
        np.concatenate([reading.guesses for reading in readings]),
        np.concatenate([reading.probabilities for reading in readings]),
    )


def describe(reading: Reading) -> dict:
    """All that evaluation.json says of a set."""
    table = confusion(reading.cells.labels, reading.as_clients_do)
    return {
        "cells_sha256": digest(reading.cells),
        "best_class": score(reading.cells, reading.guesses),
        "low_is_blank": score(reading.cells, reading.as_clients_do),
        "confidence": confidence(reading),
        "confusion_low_is_blank": table.tolist(),
        "worst_confusions": worst_confusions(table),
    }


def confidence(reading: Reading) -> dict:
    """Are the probabilities of use? How high where it is right, what the 0.65 rule costs, and how often they hold."""
    right = reading.guesses == reading.cells.labels
    right_digits = right & (reading.cells.labels != BLANK)
    bins = np.digitize(reading.probabilities, CONFIDENCE_BINS[1:-1])
    return {
        "mean_of_right_cells": float(reading.probabilities[right].mean()) if right.any() else 0.0,
        "right_digits": int(right_digits.sum()),
        "right_digits_below": int((right_digits & (reading.probabilities < BLANK_BELOW)).sum()),
        "calibration": [
            {
                "from": CONFIDENCE_BINS[i],
                "to": CONFIDENCE_BINS[i + 1],
                "cells": int((bins == i).sum()),
                "mean_probability": float(reading.probabilities[bins == i].mean()),
                "part_right": float(right[bins == i].mean()),
            }
            for i in np.unique(bins)
        ],
    }


def confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Counts, int [10, 10]: row the truth, column the reading."""
    table = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(table, (labels, predictions), 1)
    return table


def worst_confusions(table: np.ndarray, most: int = 5) -> list[dict]:
    """The most frequent mistakes of a confusion matrix: truth, guess, and how often."""
    table = table * (1 - np.eye(NUM_CLASSES, dtype=int))
    order = np.argsort(-table, axis=None, kind="stable")[:most]
    return [
        {"truth": int(i // NUM_CLASSES), "guess": int(i % NUM_CLASSES), "times": int(table.flat[i])}
        for i in order
        if table.flat[i]
    ]
