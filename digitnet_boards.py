# SPDX-License-Identifier: Apache-2.0
"""Boards, pages and photos: their tables, their pictures, and how a straightened board is cut into cells."""

import codecs
import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from digitnet_cli import UserError, first_line
from digitnet_data import CELL_SIZE, Cells, check_data, load_cells, mend_data, visible
from digitnet_machine import side_by_side

BOARD_SIDE = 450  # pixels of a straightened board, from which the later chapters' grid processor cuts its cells
# Cut off each side of a cell, as a fraction of the cell. Clients cut between 0 and 0.12, the value of the later
# chapters' grid processor; real boards are read at all three.
CROP_MARGINS = (0.0, 0.06, 0.12)
CORNER_COLUMNS = [f"{axis}{corner}" for corner in range(4) for axis in "xy"]  # of the tables of pages and photos
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm")  # of real boards


class Page(NamedTuple):
    """A row of a table: a drawn page of grids/*.csv, a photo of photos.csv, or a board of labels.csv (no corners)."""

    file: str
    givens: str  # 81 digits, 0 = blank
    corners: np.ndarray  # float64 [4, 2] x, y, clockwise from the board's own top left
    turn: int = 0  # of a photo's board, degrees clockwise: 0, 90, 180 or 270
    kind: str = ""  # of a photo, such as "newspaper" or "screenshot; light on dark"


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a user's text file, without their ends: UTF-8, UTF-16 with a byte order mark, or Latin-1.

    Raises UserError if it is no text.
    """
    with path.open("rb") as file:
        wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        for part in [file.read()] if wide else file:
            for encoding in ["utf-16"] if wide else ["utf-8-sig", "latin-1"]:
                with contextlib.suppress(UnicodeDecodeError):
                    text = part.decode(encoding)
                    break
            else:
                text = "\0"
            if "\0" in text:
                raise UserError(f"{path} is not a text file: save it as text, in UTF-8")
            yield from text.splitlines()


def read_table(table: Path, thing: str, cure: str) -> list[Page]:
    """Read a table of pages, photos or boards; `thing` names its first column. Raises UserError, ending with `cure`."""
    pages, line = [], 1
    try:
        for line, row in enumerate(csv.DictReader(read_lines(table)), 2):  # noqa: B007 (line: below)
            flat = np.array([float(row[name]) for name in CORNER_COLUMNS]) if thing != "board" else np.zeros(8)
            page = Page(row[thing], row["givens"], flat.reshape(4, 2), int(row.get("turn", 0)), row.get("kind", ""))
            if not is_board(page.givens) or page.turn not in (0, 90, 180, 270) or not np.isfinite(flat).all():
                raise ValueError("givens are not 81 digits, 0 = blank, or corners or turn are impossible")
            pages.append(page)
        if not pages:
            raise ValueError(f"it lists no {thing}")
    except (OSError, UserError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{table}, line {line}: {first_line(error)}: {cure}") from None
    return pages


def read_pages(table: Path) -> list[Page]:
    """Read grids/train.csv or grids/val.csv, which 02_PrepareData.py writes. Raises UserError if it is damaged."""
    folder = table.with_suffix("")
    cure = mend_data(folder.parents[1], "correct or remove it")
    pages = read_table(table, "page", cure)
    if sorted(page.file for page in pages) != sorted(entry.name for entry in visible(folder)):
        raise UserError(f"{table} does not list the pages in {folder}: {cure}")
    return pages


def read_photos(table: Path) -> list[Page]:
    """Read photos.csv, which tools/real.py writes. Raises UserError if a row is damaged or there is none."""
    photos = read_table(table, "photo", "correct or remove it")
    return [photo._replace(file=f"{photo.file}.jpg") for photo in photos]


def is_board(givens: str | None) -> bool:
    """Return whether `givens` is 81 digits."""
    return givens is not None and len(givens) == 81 and givens.isascii() and givens.isdigit()


def load_split(data: Path, split: str) -> Cells:
    """Load a part of a data folder: the cells in `data`/`split`, then the boards in `data`/`split`_boards.

    One of the two is enough. Raises UserError, naming the file or folder, if they cannot be used. Never loads real
    boards, which must stay unseen: scripts train on these cells, and choose the best epoch by them.
    """
    folder, more = data / split, data / f"{split}_boards"
    check_data(data)
    check_data(more)
    parts = [load_cells(folder)] if folder.is_dir() or not more.is_dir() else []
    if more.is_dir():
        parts.append(load_boards(more, 0, mend_data(data, "correct or remove it")))
    return Cells(*map(np.concatenate, zip(*parts, strict=True)))


def load_boards(folder: Path, crop_margin: float, cure: str = "correct it, or leave --real out") -> Cells:
    """Cut the straightened boards in `folder`/boards into cells, labelled by `folder`/labels.csv.

    Raises UserError, ending with `cure`, if the labels or a board cannot be read.
    """
    labels = read_table(folder / "labels.csv", "board", cure)
    names = [label.file for label in labels]
    paths = list(find_pictures(folder / "boards", names))
    pixels = np.empty((len(labels), 81, CELL_SIZE, CELL_SIZE), np.uint8)

    def load(number: int) -> None:
        board = load_photo(path := paths[number])
        if board.shape[0] != board.shape[1] or len(board) < 9 * CELL_SIZE:
            raise UserError(f"{path} is not a square image of 252 or more pixels: straighten it, or remove its label")
        pixels[number] = cut_cells(board, crop_margin)

    side_by_side(load, range(len(paths)))
    return label_boards(pixels, [label.givens for label in labels], names)


def find_pictures(folder: Path, boards: Sequence[str]) -> Iterator[Path]:
    """Yield the path of each board's picture, in any format. Raises UserError if one has none, or more than one."""
    there: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []:
        if entry.is_file():
            stem, ending = os.path.splitext(entry.name.lower())
            for name in {entry.name.lower(), stem} if ending in PICTURES else {entry.name.lower()}:
                there.setdefault(name, []).append(entry.path)
    for board in boards:
        found = there.get(board.lower(), [])
        if len(found) != 1:
            seen = " and ".join(map(os.path.basename, found)) or "missing"
            problem = f"{folder / board}, a board of labels.csv, is {seen}"
            raise UserError(f"{problem}: give it one picture (JPEG, PNG) or remove the row")
        yield Path(found[0])


def load_photo(path: Path | str) -> np.ndarray:
    """Read an image as grey pixels, uint8 [H, W], turned by its EXIF orientation; transparency becomes white.

    Raises UserError if OpenCV cannot decode it, OSError if the file cannot be read.
    """
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    try:
        photo = None
        if len(content) and content[:2].tobytes() != b"\xff\xd8":  # a JPEG is never transparent
            photo = lay_on_white(cv2.imdecode(content, cv2.IMREAD_UNCHANGED))
        if len(content) and photo is None:
            photo = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:  # more pixels than OpenCV reads, above all
        raise UserError(
            f"{path} is too large or damaged for OpenCV: shrink it, or save it as JPEG ({first_line(error)})"
        ) from None
    if photo is None:
        raise UserError(f"{path} is damaged, or no image that OpenCV reads: copy it again, or save it as JPEG or PNG")
    return photo


def lay_on_white(image: np.ndarray | None) -> np.ndarray | None:
    """Return what is seen of a transparent `image` on white paper, uint8 [H, W], or None if it is opaque.

    An image without any opacity, as Windows' clipboard gives, has no use of it, and counts as opaque.
    """
    if image is None or image.shape[2:] != (4,) or image.dtype.kind != "u":
        return None
    white = np.iinfo(image.dtype).max
    if (opacity := image[..., 3]).min() == white or opacity.max() == 0:
        return None
    seen = np.empty(image.shape[:2], np.uint8)
    for y in range(len(image)):  # row by row, because float32 takes four times the memory
        colour = image[y : y + 1].astype(np.float32) / white
        ink = cv2.cvtColor(colour[..., :3], cv2.COLOR_BGR2GRAY) - 1
        seen[y] = np.rint(255 + colour[..., 3] * 255 * ink)
    return seen


def label_boards(pixels: np.ndarray | Sequence[np.ndarray], givens: Sequence[str], names: Sequence[str]) -> Cells:
    """Join boards of 81 cells each, uint8 [81, 28, 28], with their givens and names."""
    labels = np.array([int(digit) for board in givens for digit in board], np.int64)
    cells = np.reshape(pixels, (-1, CELL_SIZE, CELL_SIZE))
    return Cells(cells, labels, np.repeat(names, 81), np.tile(np.arange(81), len(names)))


def cut_cells(board: np.ndarray, crop_margin: float, side: int = CELL_SIZE) -> np.ndarray:
    """Cut a straightened square board, uint8 [S, S], into its 81 cells row by row, uint8 [81, side, side].

    `crop_margin` is cut off each side, as a fraction of the cell: 0 keeps the grid lines, 0.12 is the value of the
    later chapters' grid processor. Resizes by area, as that does.
    """
    step = board.shape[0] // 9
    inset = int(crop_margin * step)
    cells = board[: 9 * step, : 9 * step].reshape(9, step, 9, step).swapaxes(1, 2)
    cells = cells[:, :, inset : step - inset, inset : step - inset]
    column = cells.reshape(-1, step - 2 * inset)  # all cells one above the other: one call takes half the time
    return cv2.resize(column, (side, 81 * side), interpolation=cv2.INTER_AREA).reshape(81, side, side)


def rectangle(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Return the corners of an upright rectangle, float32 [4, 2] (x, y): top left, then clockwise."""
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def rectify(page: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Straighten the grid at `corners`, float [4, 2] (x, y): top left, then clockwise; return uint8 [side, side]."""
    transform = cv2.getPerspectiveTransform(corners.astype(np.float32), rectangle(0, 0, side, side))
    return cv2.warpPerspective(page, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
