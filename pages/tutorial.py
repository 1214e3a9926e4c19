# SPDX-License-Identifier: Apache-2.0
"""Draw the chapter's pages: a clean print of a puzzle, and a mild camera's view of it."""

import io
from functools import cache

import cv2
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from digitnet_boards import rectangle
from pages.fonts import family, font_files

# Pixels, unless said otherwise.
PAGE_WIDTH, PAGE_HEIGHT = 800, 1200
PAGE_MARGIN = 60
PAGE_STEP = (PAGE_WIDTH - 2 * PAGE_MARGIN) // 9  # 75: a cell's side on the page
THIN, THICK, STROKE = 1, 3, 2  # inner lines, box lines, the digits' pen
# The chapter prints digits with putText's FONT_HERSHEY_SIMPLEX, which OpenCV 5 replaced by another face: each
# is on half of the pages. Size, weight, middle and baseline (in the cell) match what OpenCV 5.0.0 draws.
FACES = ("Hershey", "Rubik")
RUBIK_SIZE, RUBIK_WEIGHT, RUBIK_MIDDLE, RUBIK_BASELINE = 36.5, 560, 37, 46
CORNER_JITTER = 20  # the camera moves each corner of the page by up to this much
BLUR_PROBABILITY, BLUR_KERNELS = 0.5, (3, 5)  # the camera's focus
DESK_GREY = 220  # beside the page


def draw_page(puzzle: str, face: str) -> tuple[np.ndarray, np.ndarray]:
    """Print `puzzle` cleanly; return the page, uint8 [1200, 800], and its grid's corners, float [4, 2] (x, y).

    `face` is one of FACES, the digits of putText in OpenCV 4 and OpenCV 5.
    """
    page = np.full((PAGE_HEIGHT, PAGE_WIDTH), 255, np.uint8)
    side = 9 * PAGE_STEP
    left, top = (PAGE_WIDTH - side) // 2, (PAGE_HEIGHT - side) // 2
    for line in range(10):
        at, width = line * PAGE_STEP, THIN if line % 3 else THICK
        cv2.line(page, (left + at, top), (left + at, top + side), 0, width)
        cv2.line(page, (left, top + at), (left + side, top + at), 0, width)
    print_digit = print_rubik if face == "Rubik" else print_hershey
    for cell, digit in enumerate(puzzle):
        if digit != "0":
            print_digit(page, digit, left + cell % 9 * PAGE_STEP, top + cell // 9 * PAGE_STEP)
    return page, rectangle(left, top, side, side)


def print_hershey(page: np.ndarray, digit: str, left: int, top: int) -> None:
    """Print a digit as the chapter does with OpenCV 4; `left`, `top` is the corner of its cell in pixels."""
    face, scale = cv2.FONT_HERSHEY_SIMPLEX, PAGE_STEP / 60
    (width, height), _ = cv2.getTextSize(digit, face, scale, STROKE)
    x = left + (PAGE_STEP - width) // 2
    y = top + (PAGE_STEP + height) // 2 - height // 4  # a little high, as in the chapter
    cv2.putText(page, digit, (x, y), face, scale, 0, STROKE, cv2.LINE_AA)


def print_rubik(page: np.ndarray, digit: str, left: int, top: int) -> None:
    """Print a digit as OpenCV 5 does, with any version of OpenCV."""
    cell = Image.fromarray(page[top : top + PAGE_STEP, left : left + PAGE_STEP])
    ImageDraw.Draw(cell).text((RUBIK_MIDDLE, RUBIK_BASELINE), digit, font=rubik(), anchor="ms", fill=0)
    page[top : top + PAGE_STEP, left : left + PAGE_STEP] = cell


@cache
def rubik() -> ImageFont.FreeTypeFont:
    """Open Rubik with tabular figures (its 1 then has a foot), as in OpenCV 5."""
    (path,) = family("Rubik", font_files("fontpkg_rubik"), 1).upright
    font, file = TTFont(path), io.BytesIO()
    figures = {code: f"{glyph}.tf" for code, glyph in font.getBestCmap().items() if chr(code) in "123456789"}
    for table in font["cmap"].tables:
        table.cmap.update(figures)
    font.save(file)
    file.seek(0)
    font = ImageFont.truetype(file, RUBIK_SIZE, layout_engine=ImageFont.Layout.BASIC)
    font.set_variation_by_axes([RUBIK_WEIGHT])
    return font


def view_page(page: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Photograph a page with the chapter's mild camera: moved corners give perspective; half of the views are blurred.

    Returns the view, uint8 [1200, 800], and the grid's true corners in it, float32 [4, 2].
    """
    sheet = rectangle(0, 0, PAGE_WIDTH, PAGE_HEIGHT)
    moved = sheet + rng.integers(-CORNER_JITTER, CORNER_JITTER + 1, (4, 2)).astype(np.float32)
    transform = cv2.getPerspectiveTransform(sheet, moved)
    view = cv2.warpPerspective(page, transform, (PAGE_WIDTH, PAGE_HEIGHT), borderValue=DESK_GREY)
    if rng.random() < BLUR_PROBABILITY:
        kernel = int(rng.choice(BLUR_KERNELS))
        view = cv2.GaussianBlur(view, (kernel, kernel), 0)
    return view, cv2.perspectiveTransform(corners[None], transform)[0].round(2)  # as in the CSV
