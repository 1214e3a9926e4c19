# SPDX-License-Identifier: Apache-2.0
"""Score a model's readings of cells and photos, in counts, so that every figure can be checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from digitnet_data import BLANK, CONFIDENCE_THRESHOLD, NUM_CLASSES, Cells, Page, sha256_of_cells

if TYPE_CHECKING:
    import reading.board

CONFIDENCE_BINS = (0.0, 0.5, CONFIDENCE_THRESHOLD, 0.8, 0.9, 0.95, 0.99, 1.0)
MAX_FAILURES = 12  # photos named in print; evaluation.json names all
NEAR = 0.5  # of a cell: corners are right if none is farther from the true ones
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


def describe_scores(scores: dict[str, int]) -> str:
    """Return the counts of `score` as one line for people."""
    return ", ".join(f"{scores[f'wrong_{kind}']} of {scores[kind]:,} {kind} wrong" for kind in KINDS)


def count_wrong(scores: dict[str, int], kinds: tuple[str, ...] = ("cells", "digits", "boards")) -> str:
    """Return the wrong ones of these kinds for a table or a summary, without kinds that are not there."""
    return ", ".join(f"{scores[f'wrong_{kind}']:,} of {scores[kind]:,} {kind}" for kind in kinds if scores[kind])


class Reading(NamedTuple):
    """A set of cells with the model's readings."""

    cells: Cells
    guesses: np.ndarray  # int64 [N], the best class
    probabilities: np.ndarray  # float32 [N], its softmax probability

    @property
    def thresholded(self) -> np.ndarray:
        """The guesses, int64 [N], with those below CONFIDENCE_THRESHOLD taken as blank, as clients do."""
        return np.where(self.probabilities < CONFIDENCE_THRESHOLD, BLANK, self.guesses)


def concatenate_readings(readings: dict[str, Reading]) -> Reading:
    """Join readings of the same boards, such as at several crop margins; each name is added to its boards' names."""
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
    """Return the entry of a set in evaluation.json."""
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
    """Return the mean probability of right cells, the digits lost to the threshold, and a calibration table."""
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
    """Return the confusion matrix, int [10, 10]: rows are the truth, columns the reading."""
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


class PhotoReading(NamedTuple):
    """A whole photo with its reading and the seconds that it took."""

    photo: Page
    reading: reading.board.Reading
    seconds: float

    @property
    def corner_error(self) -> float | None:
        """Distance of the worst corner from the true one, in cells, at the best turn; None if no board was found."""
        if self.reading.corners is None:
            return None
        true, found = self.photo.corners, self.reading.corners
        cell = np.linalg.norm(true - np.roll(true, 1, axis=0), axis=1).mean() / 9
        return min(float(np.linalg.norm(np.roll(found, k, axis=0) - true, axis=1).max() / cell) for k in range(4))

    @property
    def misread(self) -> list[int]:
        """The misread cells; all 81 if no board was found."""
        digits = self.reading.digits
        return [i for i, digit in enumerate(self.photo.givens) if digits is None or int(digit) != digits[i]]

    @property
    def cause(self) -> str:
        """The cause of an error, "" if all digits are right."""
        if not self.misread:
            return ""
        if self.corner_error is None:
            return "not found"
        if self.corner_error > NEAR:
            return "wrong corners"
        turned = (self.reading.turn - self.photo.turn) % 360
        return f"turned by {turned}°" if turned else f"misread cells: {len(self.misread)}"


def count_photos(readings: list[PhotoReading]) -> dict[str, float]:
    """Count photos by outcome; `seconds` is the median."""
    verified = [reading for reading in readings if reading.reading.verdict == "verified"]
    corner_errors = [reading.corner_error for reading in readings if reading.corner_error is not None]
    return {
        "photos": len(readings),
        "answered": len(corner_errors),
        "corners": sum(error <= NEAR for error in corner_errors),
        "right": sum(not reading.cause for reading in readings),
        "verified": len(verified),
        "verified_wrong": sum(bool(reading.cause) for reading in verified),
        "seconds": float(np.median([reading.seconds for reading in readings])),
    }


def describe_photos(readings: list[PhotoReading]) -> dict:
    """Return the entry of whole photos in evaluation.json."""
    kinds: dict[str, list[PhotoReading]] = {}
    for reading in readings:
        kinds.setdefault(reading.photo.kind.partition(";")[0], []).append(reading)
    return {
        "all": count_photos(readings),
        "by_kind": {kind: count_photos(of) for kind, of in kinds.items()},
        "each": [
            {
                "photo": reading.photo.file,
                "kind": reading.photo.kind,
                "verdict": reading.reading.verdict,
                "cause": reading.cause,
                "misread": reading.misread if reading.reading.digits is not None else None,
                "corner_error": reading.corner_error,
                "seconds": reading.seconds,
            }
            for reading in readings
        ],
    }


def table_of_photos(report: dict) -> str:
    """Return a table of the photos by kind and outcome, and the causes of the first errors."""
    heads = ("photos", "found", "corners", "right", "verified", "but wrong")
    lines = [f"{'Real photos':22}{''.join(f'{head:>10}' for head in heads)}{'seconds':>10}"]
    for kind, counts in {**report["by_kind"], "all": report["all"]}.items():
        *numbers, seconds = counts.values()
        lines.append(f"{kind:22}{''.join(f'{number:10,}' for number in numbers)}{seconds:10.2f}")
    failures = [entry for entry in report["each"] if entry["cause"]]
    for entry in failures:
        outcome = "; ".join(dict.fromkeys((entry["cause"], entry["verdict"])))  # "not found" once
        lines.append(f"  {entry['photo']} ({entry['kind']}): {outcome}")
    if len(failures) > MAX_FAILURES:
        lines[MAX_FAILURES - len(failures) :] = [f"  and {len(failures) - MAX_FAILURES} more, see evaluation.json"]
    return "\n".join(lines)
