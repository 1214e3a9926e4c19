# SPDX-License-Identifier: Apache-2.0
"""The importable half of 05_Evaluate.py: count its photos, and draw its PNGs, readable in black and white.

A function that draws takes figures or cells and a path, and writes the file whole or not at all.
"""

import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from digitnet_boards import Page, load_photo, rectangle
from digitnet_cli import ROOT
from digitnet_data import BLANK, CELL_SIZE, CONFIDENCE_THRESHOLD, NUM_CLASSES
from digitnet_machine import write_file
from digitnet_scores import Predictions
from reading.board import Reading

os.environ["MPLCONFIGDIR"] = str(ROOT / "build" / "matplotlib")  # else it writes its font cache into HOME
os.environ["MPLBACKEND"] = "agg"  # else one of a notebook, which matplotlib may lack
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: a bare Figure draws with Agg, keeps nothing open
from matplotlib.text import Text

DPI = 130
CLASS_NAMES = ["blank", *map(str, range(1, NUM_CLASSES))]
TILE = CELL_SIZE + 4  # pixels of a sheet that a cell takes, with white around it
LABEL = 13  # pixels of a sheet for three lines of text below a cell
COLUMNS, ROWS = 16, 12  # cells of a sheet, at most
PHOTO_COLUMNS, PHOTO_ROWS = 5, 6  # photos of a sheet, at most
THUMBNAIL = 400  # pixels of a photo's longest side on a sheet

MAX_FAILURES = 12  # photos named in print; evaluation.json names all
NEAR = 0.5  # of a cell: corners are right if none is farther from the true ones


class PhotoReading(NamedTuple):
    """A whole photo with its reading and the seconds that it took."""

    photo: Page
    reading: Reading
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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    for text in figure.findobj(Text):  # names of files need not be UTF-8, and a $ in one starts no formula
        text.set(text=text.get_text().encode(errors="replace").decode(), parse_math=False)
    figure.savefig(content := io.BytesIO(), format="png", dpi=DPI)
    write_file(path, content.getvalue())


def learning_curve(epochs: list[dict], best_epoch: int, path: Path) -> None:
    """Draw loss and validation errors by epoch; `epochs` are the records of training.json."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    x = [record["epoch"] for record in epochs]
    losses.plot(x, [record["train_loss"] for record in epochs], "k-o", label="training (augmented cells)")
    losses.plot(x, [record["val"]["loss"] for record in epochs], "k--s", fillstyle="none", label="validation")
    losses.set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats per cell)")
    losses.set_ylim(bottom=0)
    for kind, style in (("cells", "k-o"), ("digits", "k--s")):
        percent = [100 * record["val"][f"wrong_{kind}"] / record["val"][kind] for record in epochs]
        errors.plot(x, percent, style, fillstyle="none" if kind == "digits" else "full", label=kind)
    errors.set(title="Validation errors", xlabel="epoch", ylabel="wrong (%)")
    # Logarithmic down to a single cell, linear from there to no error at all.
    one_cell = 100 / epochs[0]["val"]["cells"]
    errors.set_yscale("symlog", linthresh=one_cell)
    errors.set_ylim(bottom=-one_cell / 5)
    errors.set_yticks([0, *(tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick > one_cell)])
    errors.yaxis.set_major_formatter("{x:g}")
    for axes in (losses, errors):
        axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"epoch {best_epoch}, kept")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="0.9")
        axes.legend()
    save(figure, path)


def confusion_matrices(tables: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Draw a panel per table of counts, int [10, 10]: rows are the truth, columns the reading."""
    figure = Figure(figsize=(6.2 * len(tables), 6.4), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(np.sqrt(share), cmap="Greys", vmin=0, vmax=1.25)  # the root makes rare mistakes visible
        for truth, guess in zip(*np.nonzero(table), strict=True):
            dark = share[truth, guess] > 0.4
            axes.text(
                guess, truth, f"{table[truth, guess]:,}", ha="center", va="center",
                fontsize=8, color="white" if dark else "black", weight="normal" if truth == guess else "bold",
            )  # fmt: skip
        wrong = table.sum() - np.trace(table)
        axes.set(title=f"{name}: {wrong:,} of {table.sum():,} cells wrong", xlabel="read as", ylabel="truth")
        axes.set_xticks(range(NUM_CLASSES), CLASS_NAMES)
        axes.set_yticks(range(NUM_CLASSES), CLASS_NAMES)
    save(figure, path)


def misread_cells(predictions: Predictions, name: str, path: Path) -> None:
    """Draw a sheet of the cells that are misread or lost to the threshold, the most confident first."""
    cells, guesses, probabilities = predictions
    low = probabilities < CONFIDENCE_THRESHOLD
    wrong = np.flatnonzero((guesses != cells.labels) | low & (cells.labels != BLANK))
    shown = wrong[np.argsort(-probabilities[wrong], kind="stable")][: COLUMNS * ROWS]
    labels = []
    for i in shown:
        guess = CLASS_NAMES[guesses[i]] + ("?" if low[i] else "")
        board, _, crop = cells.boards[i].partition(", ")
        row, column = divmod(cells.places[i], 9)
        place = f"r{row + 1} c{column + 1} {crop}" if cells.places[i] >= 0 else ""
        labels.append(f"{CLASS_NAMES[cells.labels[i]]} → {guess} {probabilities[i]:.2f}\n{board}\n{place}")
    title = f"Cells of the {name}, misread by best class or lost to the threshold: {len(wrong):,} of {len(guesses):,}"
    if len(shown) < len(wrong):
        title += f"; showing the {len(shown)} most confident"
    legend = f"truth → guess, its probability (?: below {CONFIDENCE_THRESHOLD}, becomes blank), board, row and column"
    sheet(cells.pixels[shown], labels, f"{title}\n{legend}" if len(wrong) else title, path)


def misread_photos(readings: list[PhotoReading], folder: Path, path: Path) -> None:
    """Draw a sheet of the photos with an error, each with the board found and the misread cells."""
    wrong = [reading for reading in readings if reading.cause]
    shown = wrong[: PHOTO_COLUMNS * PHOTO_ROWS]
    rows = max(1, math.ceil(len(shown) / PHOTO_COLUMNS))
    figure = Figure(figsize=(2.6 * PHOTO_COLUMNS, 2.9 * rows + 0.7), layout="constrained")
    title = f"Photos with an error: {len(wrong)} of {len(readings)}"
    title += f"; showing the first {len(shown)}" if len(shown) < len(wrong) else ""
    figure.suptitle(f"{title}\nsolid: board as found; dotted: true board; truth → guess, · is blank", fontsize=10)
    for axes in figure.subplots(rows, PHOTO_COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
        if shown:
            draw_photo(axes, shown.pop(0), folder)
    save(figure, path)


def draw_photo(axes: Axes, reading: PhotoReading, folder: Path) -> None:
    """Draw a small photo with its frames and misread cells; its caption has the cause of the error."""
    photo = load_photo(folder / reading.photo.file)
    scale = THUMBNAIL / max(photo.shape)
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    axes.imshow(small, cmap="gray", vmin=0, vmax=255)
    for corners, style in ((reading.photo.corners, ":"), (reading.reading.corners, "-")):
        if corners is not None:
            x, y = scale * corners[[0, 1, 2, 3, 0]].T
            axes.plot(x, y, "w-", linewidth=2.5)
            axes.plot(x, y, f"k{style}", linewidth=1.2)
    digits = reading.reading.digits
    if digits is not None and reading.cause.startswith("misread"):
        onto_photo = cv2.getPerspectiveTransform(rectangle(0, 0, 9, 9), reading.photo.corners.astype(np.float32))
        for cell in reading.misread:
            at = np.array([[[cell % 9 + 0.5, cell // 9 + 0.5]]], np.float32)
            x, y = scale * cv2.perspectiveTransform(at, onto_photo)[0, 0]
            text = f"{reading.photo.givens[cell]}→{digits[cell]}".replace(str(BLANK), "·")
            axes.text(x, y, text, ha="center", va="center", fontsize=6, bbox={"color": "w", "pad": 0.8})
    outcome = "; ".join(dict.fromkeys((reading.cause, reading.reading.verdict)))  # "not found" once
    caption = f"{reading.photo.file}\n{outcome}"
    axes.text(0.5, -0.02, caption, ha="center", va="top", fontsize=7, transform=axes.transAxes)


def sheet(pixels: np.ndarray, labels: list[str], title: str, path: Path) -> None:
    """Draw cells, uint8 [N, 28, 28], in rows, each with its label (three short lines at most) below it."""
    rows, height = max(1, math.ceil(len(pixels) / COLUMNS)), TILE + LABEL
    canvas = np.full((rows * height, COLUMNS * TILE), 255, np.uint8)
    figure = Figure(figsize=(COLUMNS * 0.75, rows * height / TILE * 0.75 + 0.7), layout="constrained")
    axes = figure.subplots()
    for i, (cell, label) in enumerate(zip(pixels, labels, strict=True)):
        top, left = i // COLUMNS * height + 2, i % COLUMNS * TILE + 2
        canvas[top - 1 : top + CELL_SIZE + 1, left - 1 : left + CELL_SIZE + 1] = 150  # frame: paper lies on paper
        canvas[top : top + CELL_SIZE, left : left + CELL_SIZE] = cell
        axes.text(left + CELL_SIZE / 2, top + CELL_SIZE + 1, label, ha="center", va="top", fontsize=5.5, linespacing=1)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    save(figure, path)
