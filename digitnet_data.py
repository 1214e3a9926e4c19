# SPDX-License-Identifier: Apache-2.0
"""Cells: from image files to arrays to the networks' input. Needs no torch; reading images imports OpenCV.

The input contract of the networks, stated here and nowhere else: a cell is 28x28 grey pixels (0 = black ink,
255 = white paper); class 0 is a blank cell, classes 1-9 are the digits; `normalize` turns pixels into the input.
"""

import hashlib
import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digitnet_cli import ROOT, UserError, dangling_link, first_line, make_command
from digitnet_machine import available_cpus, open_pool

CELL_SIZE = 28  # pixels per side
NUM_CLASSES = 10
BLANK = 0  # the class of an empty cell
CONFIDENCE_THRESHOLD = 0.65  # clients take a cell with a lower best probability as blank

CHUNK = 4096  # cells that a process reads at a time
MIN_DIGITS = 5  # with fewer, two pages may be the same by chance
MARKER = ".made-by-02_PrepareData.py"  # a data folder that holds it is ours, and may be replaced
PREPARED = "prepared.json"  # exists if our data folder is complete: removed first, written last
# Files and folders that systems and editors leave behind; ignored in every folder.
SYSTEM_NAMES = re.compile(
    r"\..*|thumbs\.db.*|ehthumbs.*\.db|desktop\.ini|icon\r|.*:zone\.identifier|~\$.*|.*~|__.*__|__macosx|lost\+found"
    r"|[@#$](eadir|.*recycle.*|.*snapshot.*|tmp)|system volume information|recycler|found\.\d+|lost\.dir",
    re.IGNORECASE,
)
REAL_BOARDS = ROOT / "data" / "real"  # photos: for measuring, never for training
# What make builds without OUT= and DATA=, and the profile that it is built with.
MAKES = {"data": "", "artifacts": "", "data/photo": "PROFILE=photo ", "artifacts/photo": "PROFILE=photo "}


class Cells(NamedTuple):
    """Cells in memory: a data folder's by class, then file name; a board's row by row."""

    pixels: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # int64 [N], 0-9
    boards: np.ndarray  # str [N], the name of the cell's page or board
    places: np.ndarray  # int64 [N], 9 * row + column in the board, or -1 if the file name has none


def normalize(pixels: Any) -> Any:
    """Turn uint8 pixels (numpy array or torch tensor) into the networks' input, float32, (v/255 - 0.5)/0.5."""
    scaled = pixels.float() if hasattr(pixels, "float") else np.asarray(pixels, np.float32)
    return (scaled / 255 - 0.5) / 0.5


def load_cells(folder: Path | str) -> Cells:
    """Decode `folder`/0 .. `folder`/9, ten folders of 28x28 8-bit grey PNGs; print a note if some store RGB.

    Raises UserError, naming the file or folder, if a class folder is missing, empty or unknown, or an image is
    unreadable or of another size or kind.
    """
    paths, labels = list_cells(Path(folder))
    pixels = np.empty((len(paths), CELL_SIZE, CELL_SIZE), np.uint8)
    starts = range(0, len(paths), CHUNK)
    colour = []
    # Processes, because threads would wait for one another: Python runs one at a time (GIL).
    with open_pool(min(available_cpus(), len(starts))) as pool:
        chunks = pool.map(read_cells, (paths[start : start + CHUNK] for start in starts))
        for start, (chunk, in_colour) in zip(starts, chunks, strict=True):
            pixels[start : start + CHUNK] = chunk
            colour += in_colour
    if colour:
        print(f"{folder}: {len(colour):,} images store grey as RGB and are read as grey, such as {colour[0]}")
    boards, places = zip(*(parse_name(os.path.basename(path)) for path in paths), strict=True)
    return Cells(pixels, np.array(labels, np.int64), np.array(boards), np.array(places, np.int64))


def read_cells(paths: list[str]) -> tuple[np.ndarray, list[str]]:
    """Read cell images; return uint8 [N, 28, 28], and the paths of those that store grey as RGB."""
    pixels, is_colour = zip(*(read_cell(path) for path in paths), strict=True)
    return np.stack(pixels), list(itertools.compress(paths, is_colour))


def list_cells(folder: Path) -> tuple[list[str], list[int]]:
    """Return the paths of a data folder's images and their classes. Raises UserError, see load_cells."""
    classes = [str(c) for c in range(NUM_CLASSES)]
    if not folder.is_dir():
        raise UserError(f"no data in {folder}: {mend_data(folder.parent)}")
    found = sorted(entry.name for entry in visible(folder) if entry.is_dir())
    if found != classes:
        kinds = {"missing": set(classes) - set(found), "unknown": set(found) - set(classes)}
        wrong = [f"{kind} {', '.join(sorted(names))};" for kind, names in kinds.items() if names]
        raise UserError(
            f"{folder} must hold exactly the class folders 0 to 9: {' '.join(wrong)} {mend_data(folder.parent)}"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(entry.path for entry in visible(folder / name))
        if not files:
            raise UserError(f"{folder / name} is empty, but every class needs images: {mend_data(folder.parent)}")
        paths += files
        labels += [label] * len(files)
    return paths, labels


def check_data(data: Path) -> None:
    """Raise UserError if a data folder of ours is half-written or of an earlier version, or holds real boards."""
    if REAL_BOARDS in (data.resolve(), *data.resolve().parents):
        raise UserError(f"{data} is in data/real, which is for measuring, never for training: use other data")
    if (data / MARKER).exists():
        try:
            json.loads((data / PREPARED).read_bytes())["cells"]
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{data} is only half prepared: {mend_data(data)}") from None
        if of_earlier_version(data):
            raise UserError(f"{data} was drawn by an earlier version: {mend_data(data)}")


def of_earlier_version(data: Path) -> bool:
    """Return whether a data folder has cells that are stored as boards today."""
    return (data / "calibration").exists()


def visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return a folder's entries without hidden and system files and folders."""
    return [entry for entry in os.scandir(folder) if not SYSTEM_NAMES.fullmatch(entry.name)]


def mend_data(folder: Path, cure: str = "correct the folder, or name another with --data (make DATA=)") -> str:
    """Return the cure for a broken data folder, for a message: `cure` if it is the user's own, else a command."""
    if not (folder / MARKER).exists() and any((folder / split).exists() for split in ("train", "val")):
        return cure
    return remake(folder / PREPARED, "data")


def remake(path: Path | str, target: str, *names: str) -> str:
    """Return the cure for a missing or broken file that make writes with `target`, for a message.

    A file with none of `names`, if there are any, was given by mistake: then the cure names what to give.
    """
    path = Path(path)
    if names and path.name not in names:
        return f"give {' or '.join(names)} instead"
    if link := dangling_link(path):
        return link
    folder = os.path.relpath(path.parent.absolute(), ROOT)
    remove = f"rm {shlex.quote(str(path))} && " if os.path.lexists(path) else ""
    command = f"run `{remove}{make_command()} {MAKES.get(folder, '')}{target}`"
    return command if folder in MAKES else f"{command} with the settings that made it"


def parse_name(file: str) -> tuple[str, int]:
    """Split a cell's file name, `{board}_{9 * row + column:02d}.png`, into board and place; -1 if it has no place."""
    stem = os.path.splitext(file)[0]
    board, _, place = stem.rpartition("_")
    return (board, int(place)) if place.isascii() and place.isdigit() and int(place) < 81 else (stem, -1)


def read_cell(path: Path | str) -> tuple[np.ndarray, bool]:
    """Read one cell image; return uint8 [28, 28], and whether it stores grey as RGB (three equal channels).

    Raises UserError if it is not a 28x28 image of 8 bits that is grey and opaque.
    """
    import cv2

    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (half of the time of Path's read_bytes)
            content = file.read()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    except OSError as error:
        raise bad_cell(path, f"cannot be read ({error.strerror})") from None
    except cv2.error as error:  # more pixels than it decodes
        raise bad_cell(path, f"is not a readable image ({first_line(error)})") from None
    if image is None:
        raise bad_cell(path, "is not a readable image")
    colour = image.ndim == 3
    if colour and (image[..., :3] == image[..., :1]).all() and (image[..., 3:] == 255).all():
        image = image[..., 0]
    if image.shape != (CELL_SIZE, CELL_SIZE) or image.dtype != np.uint8:
        size = "x".join(map(str, image.shape[1::-1] + image.shape[2:]))
        raise bad_cell(path, f"is {size} {image.dtype}, but a cell is {CELL_SIZE}x{CELL_SIZE} 8-bit grey")
    return image, colour


def bad_cell(path: Path | str, problem: str) -> UserError:
    """Return the error for a cell: its path, the problem, and the cure for its data folder."""
    return UserError(f"{path} {problem}: {mend_data(Path(path).absolute().parents[2], 'replace or remove it')}")


def light_on_dark(cells: Cells) -> bool:
    """Return whether most digits, of about 1,000, are lighter than their ground, against the input contract."""
    digits = cells.pixels[cells.labels != BLANK]
    digits = digits[:: len(digits) // 1000 + 1]
    return bool((digits.mean(axis=(1, 2)) > np.median(digits, axis=(1, 2))).mean() > 0.5)


def sha256_of_cells(cells: Cells) -> str:
    """Return the hex SHA-256 of a set of cells: pixels, labels, boards and places."""
    boards = "\n".join(cells.boards).encode(errors="surrogateescape")  # file names need not be UTF-8
    parts = (cells.pixels.tobytes(), cells.labels.tobytes(), boards, cells.places.tobytes())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def duplicate_pages(train: Cells, val: Cells) -> list[str]:
    """Return the names of pages of `val` that are also in `train`, under any name: same digits at the same places.

    Digits are compared pixel by pixel. Equal single cells are allowed, because clean prints of a digit are alike, and
    so are equal pages with fewer than MIN_DIGITS.
    """

    def pages(cells: Cells) -> dict[bytes, str]:
        parts: dict[str, list[bytes]] = {}
        for i in np.flatnonzero(cells.labels != BLANK):
            parts.setdefault(cells.boards[i], []).append(cells.places[i].tobytes() + cells.pixels[i].tobytes())
        return {b"".join(sorted(digits)): page for page, digits in parts.items() if len(digits) >= MIN_DIGITS}

    in_train, in_val = pages(train), pages(val)
    return sorted(in_val[content] for content in in_train.keys() & in_val.keys())
