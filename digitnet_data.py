"""What every script knows about cells: from image files to arrays to the network's input.

Nothing here needs torch, and what reads, cuts or straightens images loads OpenCV itself: an ONNX file can be scored
without torch, and checked with numpy and onnxruntime alone.

The input contract of the networks, stated here and nowhere else:
a cell is 28x28 grey pixels (0 = black ink, 255 = white paper); class 0 is a blank cell,
classes 1-9 are the digits; `normalize` turns pixels into the network's input.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from digitnet_cli import UserError

import numpy as np

CELL_SIZE = 28  # pixels a side
NUM_CLASSES = 10
BLANK = 0  # the class of an empty cell
BLANK_BELOW = 0.65  # clients turn a cell whose best probability is lower into a blank

BOARD_SIDE = 450  # pixels of a straightened board: what the tutorial's grid processor cuts its cells from
REAL_CUTS = (0.0, 0.06, 0.12)  # cut off each side of a real board's cells: what clients do lies between

LEAST_DIGITS = 5  # with fewer, two pages may be the same by chance
MARKER = ".made-by-02_PrepareData.py"  # a data folder that holds it is ours, and may be replaced
REAL_BOARDS = Path(__file__).resolve().parent / "data" / "real"  # photos: for measuring, never for training
PREPARED = "prepared.json"  # there when our data folder is whole: removed first, written last


class Cells(NamedTuple):
    """A folder of cells in memory, in the order of class, then file name."""

    pixels: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # int64 [N], 0-9
    names: np.ndarray  # str [N], the file names without folder and suffix


def normalize(pixels):
    """uint8 pixels (numpy array or torch tensor) -> the networks' input, float32, (v/255 - 0.5)/0.5."""
    scaled = pixels.float() if hasattr(pixels, "float") else np.asarray(pixels, np.float32)
    return (scaled / 255 - 0.5) / 0.5


def load_cells(folder: Path | str) -> Cells:
    """Decodes `folder`/0 .. `folder`/9, ten folders of 28x28 8-bit grey PNGs; tells if some store grey as colour.

    Raises UserError, naming the culprit, if a class folder is missing, empty or one too many,
    an image is unreadable or of another size or kind, or `folder` lies among the real boards,
    which must stay unseen: scripts train on, and choose the best epoch by, what this function gives them.
    """
    folder = Path(folder)
    if REAL_BOARDS in (folder.resolve(), *folder.resolve().parents):
        raise UserError(f"{folder} lies in data/real, which is for measuring, never for training: use other data")
    classes = [str(c) for c in range(NUM_CLASSES)]
    if not folder.is_dir():
        raise UserError(f"no data in {folder}: make it with `make data` (or python3 02_PrepareData.py)")
    if (folder.parent / MARKER).exists() and not (folder.parent / PREPARED).exists():
        raise UserError(f"{folder.parent} is only half prepared: run `make data` (or python3 02_PrepareData.py) again")
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if found != classes:
        missing, extra = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        raise UserError(
            f"{folder} must hold exactly the class folders 0 to 9:"
            + (f" missing {', '.join(missing)};" if missing else "")
            + (f" unknown {', '.join(extra)};" if extra else "")
            + " mend the folder or prepare the data anew"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(entry.path for entry in os.scandir(folder / name) if not entry.name.startswith("."))
        if not files:
            raise UserError(f"{folder / name} is empty: every class needs images; prepare the data anew")
        paths += files
        labels += [label] * len(files)

    read_ahead(paths)
    # One thread: a cell takes some microseconds, and threads would spend more on handing over the GIL.
    pixels = np.empty((len(paths), CELL_SIZE, CELL_SIZE), np.uint8)
    colour = []
    for i, path in enumerate(paths):
        pixels[i], in_colour = read_cell(path)
        colour += [path] * in_colour
    if colour:
        print(f"{folder}: {len(colour):,} images store grey as colour, and are read as grey, {colour[0]} the first")
    names = np.array([os.path.splitext(os.path.basename(path))[0] for path in paths])
    return Cells(pixels, np.array(labels, np.int64), names)


def read_ahead(paths: list[str]) -> None:
    """Asks the system to fetch all of the files, so that the disk's delays pass side by side, not one by one."""
    for path in paths if hasattr(os, "posix_fadvise") else ():  # Linux has it
        with contextlib.suppress(OSError):  # told when it is read
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            os.close(file)


def read_cell(path: Path | str) -> tuple[np.ndarray, bool]:
    """One cell image -> uint8 [28, 28], and whether it stored grey as colour (red, green and blue equal everywhere).

    Raises UserError if it is anything else than a still 28x28 image of 8 bits that is grey and opaque.
    """
    import cv2

    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (half of the time of Path's read_bytes)
            content = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): replace or remove it") from None
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if b"acTL" in content[:100]:
        raise UserError(f"{path} is animated, so which of its images counts is not certain: replace or remove it")
    if image is None:
        raise UserError(f"{path} is not a readable image: replace or remove it")
    colour = image.ndim == 3
    if colour and (image[..., :3] == image[..., :1]).all() and (image[..., 3:] == 255).all():
        image = image[..., 0]
    if image.shape != (CELL_SIZE, CELL_SIZE) or image.dtype != np.uint8:
        size = "x".join(map(str, image.shape[1::-1] + image.shape[2:]))
        raise UserError(
            f"{path} is {size} {image.dtype}, but a cell is {CELL_SIZE}x{CELL_SIZE} 8-bit grey: replace or remove it"
        )
    return image, colour


def load_boards(folder: Path | str, margin: float) -> Cells:
    """Cells of the rectified boards `folder`/boards/*.jpg, cut as by `cut_cells`; truth: `folder`/labels.csv.

    Names are those of a page's cells: board, underscore, 9 * row + column.
    Raises UserError if the labels or a board cannot be read.
    """
    import cv2

    labels_file = Path(folder) / "labels.csv"
    with labels_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        givens = row.get("givens") or ""
        if not row.get("board") or len(givens) != 81 or not (givens.isascii() and givens.isdigit()):
            raise UserError(f"{labels_file}: {row} is not a board's name and 81 digits, 0 = blank: mend it")
    if not rows:
        raise UserError(f"{labels_file} lists no board: mend it, or leave --real out")
    pixels = []
    for row in rows:
        path = Path(folder) / "boards" / f"{row['board']}.jpg"
        board = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if board is None or board.shape[0] != board.shape[1] or len(board) < 9 * CELL_SIZE:
            raise UserError(f"{path} is not a readable square image of 252 or more pixels: restore it")
        pixels.append(cut_cells(board, margin))
    labels = np.array([int(digit) for row in rows for digit in row["givens"]], np.int64)
    names = np.array([f"{row['board']}_{cell:02d}" for row in rows for cell in range(81)])
    return Cells(np.concatenate(pixels), labels, names)


def digest(cells: Cells) -> str:
    """Hex SHA-256 of a set of cells: pixels, labels and names."""
    parts = (cells.pixels, cells.labels, "\n".join(cells.names).encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def shared_pages(train: Cells, val: Cells) -> list[str]:
    """Names of the pages of `val` that are in `train`, too, under whatever name: the same digits at the same places,
    pixel for pixel.

    A page is what its cells' names begin with. Single cells may well be the same, since clean prints of a digit
    are alike, and so may pages with fewer than LEAST_DIGITS.
    """

    def pages(cells: Cells) -> dict[bytes, str]:
        parts: dict[str, list[bytes]] = {}
        for i in np.flatnonzero(cells.labels != BLANK):
            page, _, place = cells.names[i].rpartition("_")
            parts.setdefault(page, []).append(place.encode() + cells.pixels[i].tobytes())
        return {b"".join(sorted(of)): page for page, of in parts.items() if len(of) >= LEAST_DIGITS}

    known, asked = pages(train), pages(val)
    return sorted(asked[content] for content in known.keys() & asked.keys())


def cut_cells(board: np.ndarray, margin: float) -> np.ndarray:
    """A rectified square board, uint8 [S, S] -> its 81 cells row by row, uint8 [81, 28, 28].

    `margin` is cut off each side, as a fraction of the cell: 0 keeps the grid lines, 0.12 is what
    the tutorial's grid processor cuts; both resize by area, as it does.
    """
    import cv2

    step = board.shape[0] // 9
    inset = int(margin * step)
    cells = [
        cv2.resize(
            board[row * step + inset : (row + 1) * step - inset, col * step + inset : (col + 1) * step - inset],
            (CELL_SIZE, CELL_SIZE),
            interpolation=cv2.INTER_AREA,
        )
        for row in range(9)
        for col in range(9)
    ]
    return np.stack(cells)


def rectangle(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Corners of an upright rectangle, float32 [4, 2] (x, y): top left, then clockwise."""
    right, bottom = left + width, top + height
    return np.float32([(left, top), (right, top), (right, bottom), (left, bottom)])


def rectify(page: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Straightens the grid with `corners` (float [4, 2] x, y: top left, then clockwise) to uint8 [side, side]."""
    import cv2

    transform = cv2.getPerspectiveTransform(corners.astype(np.float32), rectangle(0, 0, side, side))
    return cv2.warpPerspective(page, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
