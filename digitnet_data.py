# SPDX-License-Identifier: Apache-2.0
"""Cells: from image files to arrays to the networks' input. Needs no torch; functions on images import OpenCV.

The input contract of the networks, stated here and nowhere else: a cell is 28x28 grey pixels (0 = black ink,
255 = white paper); class 0 is a blank cell, classes 1-9 are the digits; `normalize` turns pixels into the input.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from digitnet_cli import ROOT, UserError, available_cpus, first_line, open_pool, remake

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CELL_SIZE = 28  # pixels per side
NUM_CLASSES = 10
BLANK = 0  # the class of an empty cell
CONFIDENCE_THRESHOLD = 0.65  # clients take a cell with a lower best probability as blank

BOARD_SIDE = 450  # pixels of a straightened board, from which the tutorial's grid processor cuts its cells
# Cut off each side of a cell, as a fraction of the cell. Clients cut between 0 and 0.12, the value of the tutorial's
# grid processor; real boards are read at all three.
CROP_MARGINS = (0.0, 0.06, 0.12)

CHUNK = 4096  # cells that a process reads at a time
MIN_DIGITS = 5  # with fewer, two pages may be the same by chance
MARKER = ".made-by-02_PrepareData.py"  # a data folder that holds it is ours, and may be replaced
PREPARED = "prepared.json"  # exists if our data folder is complete: removed first, written last
# Files and folders of systems and programs, which are no data at any level.
SYSTEM_NAMES = re.compile(
    r"\..*|thumbs\.db.*|ehthumbs.*\.db|desktop\.ini|icon\r|.*:zone\.identifier|~\$.*|.*~|__.*__|__macosx|lost\+found"
    r"|[@#$](eadir|.*recycle.*|.*snapshot.*|tmp)|system volume information|recycler|found\.\d+|lost\.dir",
    re.IGNORECASE,
)
CORNER_COLUMNS = [f"{axis}{corner}" for corner in range(4) for axis in "xy"]  # of the tables of pages and photos
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm")  # of real boards
REAL_BOARDS = ROOT / "data" / "real"  # photos: for measuring, never for training


class Cells(NamedTuple):
    """Cells in memory: a data folder's by class, then file name; a board's row by row."""

    pixels: np.ndarray  # uint8 [N, 28, 28]
    labels: np.ndarray  # int64 [N], 0-9
    boards: np.ndarray  # str [N], the name of the cell's page or board
    places: np.ndarray  # int64 [N], 9 * row + column in the board, or -1 if the file name has none


class Page(NamedTuple):
    """A drawn page, as grids/*.csv lists it, or a photo, as photos.csv does."""

    file: str
    givens: str  # 81 digits, 0 = blank
    corners: np.ndarray  # float64 [4, 2] x, y, clockwise from the board's own top left
    turn: int = 0  # of a photo's board, degrees clockwise: 0, 90, 180 or 270
    kind: str = ""  # of a photo, such as "newspaper" or "screenshot; light on dark"


def normalize(pixels: Any) -> Any:
    """Turn uint8 pixels (numpy array or torch tensor) into the networks' input, float32, (v/255 - 0.5)/0.5."""
    scaled = pixels.float() if hasattr(pixels, "float") else np.asarray(pixels, np.float32)
    return (scaled / 255 - 0.5) / 0.5


def load_cells(folder: Path | str) -> Cells:
    """Decode `folder`/0 .. `folder`/9, ten folders of 28x28 8-bit grey PNGs; print a note if some store RGB.

    Raises UserError, naming the file or folder, if a class folder is missing, empty or unknown, an image is unreadable
    or of another size or kind, or `folder` is among the real boards, which must stay unseen: scripts train on these
    cells, and choose the best epoch by them.
    """
    folder = Path(folder)
    if REAL_BOARDS in (folder.resolve(), *folder.resolve().parents):
        raise UserError(f"{folder} is in data/real, which is for measuring, never for training: use other data")
    paths, labels = list_cells(folder)
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
    read_ahead(paths)
    pixels, is_colour = zip(*(read_cell(path) for path in paths), strict=True)
    return np.stack(pixels), list(itertools.compress(paths, is_colour))


def list_cells(folder: Path) -> tuple[list[str], list[int]]:
    """Return the paths of a data folder's images and their classes. Raises UserError, see load_cells."""
    classes = [str(c) for c in range(NUM_CLASSES)]
    prepared = folder.parent / PREPARED
    if not folder.is_dir():
        raise UserError(f"no data in {folder}: {mend_data(folder.parent)}")
    if (folder.parent / MARKER).exists():
        try:
            json.loads(prepared.read_bytes())["cells"]
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{folder.parent} is only half prepared: {mend_data(folder.parent)}") from None
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


def visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return a folder's entries without hidden and system files and folders."""
    return [entry for entry in os.scandir(folder) if not SYSTEM_NAMES.fullmatch(entry.name)]


def mend_data(folder: Path, cure: str = "correct the folder, or name another with --data (make DATA=)") -> str:
    """Return the cure for a broken data folder, for a message: `cure` if it is the user's own, else a command."""
    if not (folder / MARKER).exists() and any((folder / split).exists() for split in ("train", "val")):
        return cure
    return remake(folder / PREPARED, [PREPARED], "data", f"02_PrepareData.py --out {shlex.quote(str(folder))}")


def parse_name(file: str) -> tuple[str, int]:
    """Split a cell's file name, `{board}_{9 * row + column:02d}.png`, into board and place; -1 if it has no place."""
    stem = os.path.splitext(file)[0]
    board, _, place = stem.rpartition("_")
    return (board, int(place)) if place.isascii() and place.isdigit() and int(place) < 81 else (stem, -1)


def read_ahead(paths: Iterable[str]) -> None:
    """Ask the system to fetch all of the files, so that the disk's delays overlap."""
    for path in paths if hasattr(os, "posix_fadvise") else ():  # Linux has it
        with contextlib.suppress(OSError):  # read_cell reports it
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            os.close(file)


def read_cell(path: Path | str) -> tuple[np.ndarray, bool]:
    """Read one cell image; return uint8 [28, 28], and whether it stores grey as RGB (three equal channels).

    Raises UserError if it is not a still 28x28 image of 8 bits that is grey and opaque.
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
    if b"acTL" in content[:100]:
        raise bad_cell(path, "is animated, but a cell is a single image")
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


def read_text(path: Path) -> str:
    """Read a user's text file: UTF-8, UTF-16 with a byte order mark, or Latin-1. Raises UserError if it is no text."""
    content = path.read_bytes()
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for encoding in [name for mark, name in marks.items() if content.startswith(mark)] or ["utf-8", "latin-1"]:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" not in text:
                return text
    raise UserError(f"{path} is not a text file: save it as text, in UTF-8")


def read_pages(table: Path) -> list[Page]:
    """Read grids/train.csv or grids/val.csv, which 02_PrepareData.py writes. Raises UserError if it is damaged."""
    folder = table.with_suffix("")
    try:
        rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
        pages = [checked_page(Page(row["page"], row["givens"], corners_of(row))) for row in rows]
        if sorted(page.file for page in pages) != sorted(entry.name for entry in visible(folder)) or not pages:
            raise ValueError(f"it does not list the pages in {folder}")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        problem = f"{table} is not what 02_PrepareData.py writes ({type(error).__name__}: {first_line(error)})"
        raise UserError(f"{problem}: {mend_data(folder.parents[1], 'correct or remove it')}") from None
    return pages


def read_photos(table: Path) -> list[Page]:
    """Read photos.csv, which tools/real.py writes. Raises UserError if a row is damaged or there is none."""
    photos = []
    for number, row in enumerate(csv.DictReader(io.StringIO(read_text(table))), 2):
        try:
            photo = Page(f"{row['photo']}.jpg", row["givens"], corners_of(row), int(row["turn"]), row["kind"])
            photos.append(checked_page(photo))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{table}, line {number}: {first_line(error)}: correct it") from None
    if not photos:
        raise UserError(f"{table} lists no photo: correct or remove it")
    return photos


def corners_of(row: dict[str, str]) -> np.ndarray:
    """Return the corners in a row of a table, float64 [4, 2]."""
    return np.array([float(row[name]) for name in CORNER_COLUMNS]).reshape(4, 2)


def checked_page(page: Page) -> Page:
    """Return `page`, or raise ValueError if it cannot be one."""
    if not is_board(page.givens) or page.turn not in (0, 90, 180, 270) or not np.isfinite(page.corners).all():
        raise ValueError("givens, corners or turn are impossible")
    return page


def is_board(givens: str | None) -> bool:
    """Return whether `givens` is 81 digits."""
    return givens is not None and len(givens) == 81 and givens.isascii() and givens.isdigit()


def load_boards(folder: Path | str, crop_margin: float) -> Cells:
    """Cut the straightened boards in `folder`/boards into cells, labelled by `folder`/labels.csv.

    Raises UserError if the labels or a board cannot be read.
    """
    labels_file = Path(folder) / "labels.csv"
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(labels_file))))
    except csv.Error as error:
        raise UserError(f"{labels_file} is not a table of boards and givens ({error}): correct it") from None
    for row in rows:
        if not row.get("board") or not is_board(row.get("givens")):
            raise UserError(f"{labels_file}: {row} is not a board's name and 81 digits, 0 = blank: correct it")
    if not rows:
        raise UserError(f"{labels_file} lists no board: correct it, or omit --real")
    pixels = []
    for row in rows:
        path = find_picture(Path(folder) / "boards" / row["board"])
        board = load_photo(path)
        if board.shape[0] != board.shape[1] or len(board) < 9 * CELL_SIZE:
            raise UserError(f"{path} is not a square image of 252 or more pixels: straighten it, or remove its label")
        pixels.append(cut_cells(board, crop_margin))
    return label_boards(pixels, [row["givens"] for row in rows], [row["board"] for row in rows])


def find_picture(board: Path) -> Path:
    """Return the path of a board's picture, in any format. Raises UserError if there is none, or more than one."""
    names = {board.name.lower(), *(board.name.lower() + ending for ending in PICTURES)}
    there = list(os.scandir(board.parent)) if board.parent.is_dir() else []
    found = sorted(Path(entry.path) for entry in there if entry.name.lower() in names and entry.is_file())
    if len(found) != 1:
        seen = " and ".join(path.name for path in found) or "missing"
        raise UserError(f"{board}, a board of labels.csv, is {seen}: give it one picture (JPEG, PNG) or remove the row")
    return found[0]


def load_photo(path: Path | str) -> np.ndarray:
    """Read an image as grey pixels, uint8 [H, W], turned by its EXIF orientation; transparency becomes white.

    Raises UserError if OpenCV cannot decode it, OSError if the file cannot be read.
    """
    import cv2

    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    try:
        photo = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if len(content) else None
        if photo is not None and content[:2].tobytes() != b"\xff\xd8":  # a JPEG is never transparent
            photo = lay_on_white(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), photo)
    except cv2.error as error:  # more pixels than OpenCV reads, above all
        raise UserError(
            f"{path} is too large or damaged for OpenCV: shrink it, or save it as JPEG ({first_line(error)})"
        ) from None
    if photo is None:
        raise UserError(f"{path} is not an image that OpenCV reads: save it as JPEG or PNG")
    return photo


def lay_on_white(image: np.ndarray | None, grey: np.ndarray) -> np.ndarray:
    """Return what is seen of a transparent `image` on white paper, uint8 [H, W], or `grey` if it is opaque."""
    import cv2

    if image is None or image.shape[2:] != (4,) or image.dtype.kind != "u":
        return grey
    colour = image.astype(np.float32) / np.iinfo(image.dtype).max
    if (opacity := colour[..., 3]).min() == 1:
        return grey
    return np.rint(255 + opacity * 255 * (cv2.cvtColor(colour[..., :3], cv2.COLOR_BGR2GRAY) - 1)).astype(np.uint8)


def label_boards(pixels: Sequence[np.ndarray], givens: Sequence[str], names: Sequence[str]) -> Cells:
    """Join boards of 81 cells each, uint8 [81, 28, 28], with their givens and names."""
    labels = np.array([int(digit) for board in givens for digit in board], np.int64)
    return Cells(np.concatenate(pixels), labels, np.repeat(names, 81), np.tile(np.arange(81), len(names)))


def cut_cells(board: np.ndarray, crop_margin: float) -> np.ndarray:
    """Cut a straightened square board, uint8 [S, S], into its 81 cells row by row, uint8 [81, 28, 28].

    `crop_margin` is cut off each side, as a fraction of the cell: 0 keeps the grid lines, 0.12 is the value of the
    tutorial's grid processor. Resizes by area, as that does.
    """
    import cv2

    step = board.shape[0] // 9
    inset = int(crop_margin * step)
    starts = range(inset, 9 * step, step)
    cells = [board[y : y + step - 2 * inset, x : x + step - 2 * inset] for y in starts for x in starts]
    return np.stack([cv2.resize(cell, (CELL_SIZE, CELL_SIZE), interpolation=cv2.INTER_AREA) for cell in cells])


def rectangle(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Return the corners of an upright rectangle, float32 [4, 2] (x, y): top left, then clockwise."""
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def rectify(page: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Straighten the grid at `corners`, float [4, 2] (x, y): top left, then clockwise; return uint8 [side, side]."""
    import cv2

    transform = cv2.getPerspectiveTransform(corners.astype(np.float32), rectangle(0, 0, side, side))
    return cv2.warpPerspective(page, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
