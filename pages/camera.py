# SPDX-License-Identifier: Apache-2.0
"""Draw photo pages: printed boards as phones see them, and their cells as clients cut them.

    draw_glyphs -> draw_board -> effects -> age_paper -> photograph -> cut_photo
    nine digits    a print       marks, ..     texture, ..   the view     81 cells

draw_glyphs is in pages/fonts.py, draw_board and age_paper are in pages/newspaper.py, the effects in pages/effects.py.
Their ranges come from looking at photographed newspapers; docs/experiments.md has the gain of each.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

import pages
from digitnet_boards import BOARD_SIDE, CROP_MARGINS, cut_cells, rectangle, rectify
from pages import effects
from pages.fonts import Font, draw_glyphs, load_fonts, load_hands, pick_file
from pages.newspaper import BOARD, STEP, age_paper, chance, draw_board, edge_or_fold, noise_bank, part
from pages.pens import Sheet, cells_of, some
from pages.puzzles import draw_puzzle

BOARD_SIZES = 230, 760  # a board's side in the photo, pixels
CROP_MARGIN_RANGE = 0.0, 0.14  # of a quarter of the pages; the others have one of CROP_MARGINS


class Photo(NamedTuple):
    """A photo of a board, and where a client cuts its cells."""

    view: np.ndarray  # uint8 [H, W]
    corners: np.ndarray  # float32 [4, 2] x, y: the true ones, top left, then clockwise
    cut_corners: np.ndarray  # float32 [4, 2]: as a detector would find them
    crop_margin: float  # cut off each side of a cell, as a fraction


def photograph(
    page: np.ndarray, corners: np.ndarray, rng: np.random.Generator, bent: bool = False, blur_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Photograph a page as a phone does.

    Returns the view, uint8 [H, W], the grid's corners in it, float32 [4, 2], and the board's side in pixels.
    """
    side = np.exp(rng.uniform(*np.log(BOARD_SIZES)))
    view, corners = take_view(page, corners, side, rng, bent)
    view *= light(view.shape[0], rng)
    white = rng.uniform(110, 250)
    fog = rng.uniform(0, 0.35) * rng.random()  # stray light lifts the blacks
    view = white * (view * (1 - fog) + fog * rng.uniform(0.85, 1.1))
    view = blur(view, blur_scale * side, rng)
    if chance(rng, 0.35):  # the camera's sharpening leaves halos
        soft = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.8, 2.2))
        view += rng.uniform(0.3, 1.4) * (view - soft)
    if chance(rng, 0.8):
        grain = part(noise_bank(float(rng.choice([0.0, 0.0, 1.0]))), view.shape[0], rng)
        view += abs(rng.normal(0, 3)) * grain
    view = np.clip(view, 0, 255).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 97))])[1]
    photo = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
    assert photo is not None
    return photo, corners, side


def take_view(
    page: np.ndarray, corners: np.ndarray, side: float, rng: np.random.Generator, bent: bool
) -> tuple[np.ndarray, np.ndarray]:
    """View a page in perspective, on bent paper.

    Returns a square view, float32, in which the board is about `side` pixels wide, and the board's corners.
    """
    angle = np.deg2rad(rng.normal(0, 3.5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    target = (rectangle(-0.5, -0.5, 1, 1) @ turn.T) * side
    target += rng.normal(0, 0.022 * side, (4, 2))
    target -= target.min(axis=0) - 0.05 * side
    width = int(np.ceil(target.max() + 0.05 * side))
    back = cv2.getPerspectiveTransform(target.astype(np.float32), corners.astype(np.float32))  # view -> page

    along = np.arange(width, dtype=np.float32)
    depth = back[2, 0] * along + (back[2, 1] * along + back[2, 2])[:, None]
    map_x = ((back[0, 0] * along + (back[0, 1] * along + back[0, 2])[:, None]) / depth).astype(np.float32)
    map_y = ((back[1, 0] * along + (back[1, 1] * along + back[1, 2])[:, None]) / depth).astype(np.float32)
    place = cv2.perspectiveTransform(corners[None], np.linalg.inv(back))[0]
    bend = np.zeros((width, width, 2), np.float32)
    if bent:
        bend += STEP * effects.curl(width, rng)
    if chance(rng, 0.6):
        points = int(rng.integers(3, 6))
        uneven = rng.normal(0, BOARD * rng.choice([0.003, 0.006, 0.012]), (points, points, 2)).astype(np.float32)
        bend += cv2.resize(uneven, (width, width), interpolation=cv2.INTER_CUBIC)
    if bend.any():
        map_x += bend[..., 0]
        map_y += bend[..., 1]
        for _ in range(3):  # solve for a bent corner: the page's corner, less the bend there
            shift = [bend[tuple(np.clip(p[::-1], 0, width - 1).astype(int))] for p in place]
            place = cv2.perspectiveTransform((corners - np.array(shift, np.float32))[None], np.linalg.inv(back))[0]
    if side < BOARD:  # a small view averages over what a pixel covers
        page = cv2.GaussianBlur(page, (0, 0), 0.45 * BOARD / side)
    view = cv2.remap(page, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return view, place.astype(np.float32)


def light(width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw uneven light, sometimes with a shadow's edge or a round shadow, as a factor; float32 [width, width]."""
    points = int(rng.integers(2, 5))
    field = rng.uniform(1 - rng.uniform(0, 0.5), 1, (points, points)).astype(np.float32)
    field = np.clip(cv2.resize(field, (width, width), interpolation=cv2.INTER_CUBIC), 0.2, 1.2)
    if chance(rng, 0.15):
        field *= edge_or_fold(width, rng, widths=(1, 40), strength=0.4)
    if chance(rng, 0.12):
        along = np.arange(width, dtype=np.float32)
        radius = width * rng.uniform(0.15, 0.5)
        bell = [cv2.exp(-(((along - width * rng.random()) / radius) ** 2)).ravel() for _ in range(2)]
        field *= 1 - rng.uniform(0.1, 0.5) * np.outer(*bell)
    return field


def blur(view: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Blur a view by wrong focus, everywhere or increasing to one side, and by motion."""
    unit = side / 450
    sigma = min(abs(rng.normal(0, 1.8)), 3.6) * unit if chance(rng, 0.8) else 0
    if sigma > 0.25:
        if chance(rng, 0.6):  # a lens out of focus spreads a point to a disc, often with a bright rim
            soft = defocus(view, 2 * sigma, rng.uniform(0, 1.5))
        else:
            soft = cv2.GaussianBlur(view, (0, 0), sigma)
        if chance(rng, 0.15):
            ramp = np.clip(np.linspace(rng.uniform(-1, 0.5), rng.uniform(0.5, 2), view.shape[0]), 0, 1)
            ramp = (ramp[:, None] if chance(rng, 0.5) else ramp).astype(np.float32)
            view = view + ramp * (soft - view)
        else:
            view = soft
    if chance(rng, 0.2):
        view = cv2.filter2D(view, -1, shake(rng.uniform(2, 9) * unit, rng), borderType=cv2.BORDER_REPLICATE)
    return view


def defocus(view: np.ndarray, radius: float, rim: float) -> np.ndarray:
    """Spread each point to a disc, brighter towards its rim; large discs are applied at half the size, for speed."""
    height, width = view.shape
    if radius > 4:
        view, radius = cv2.resize(view, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), radius / 2
    reach = int(radius + 1)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    far = np.hypot(x, y)
    disc = (np.clip(radius + 0.5 - far, 0, 1) * (1 + rim * (far / radius) ** 2)).astype(np.float32)
    view = cv2.filter2D(view, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(view, (width, height), interpolation=cv2.INTER_LINEAR) if view.shape != (height, width) else view


def shake(length: float, rng: np.random.Generator) -> np.ndarray:
    """Return the kernel of a shaking hand: a bent line, or its two ends (a double image); sum 1."""
    reach = int(length / 2 + 2)
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
    along = np.linspace(-0.5, 0.5, 4 * reach)
    weight = np.abs(along) ** rng.choice([0, 0, 1, 3])  # the hand rests where it turns
    across = bend * (4 * along**2 - 0.5)
    x = length * (along * np.cos(angle) - across * np.sin(angle))
    y = length * (along * np.sin(angle) + across * np.cos(angle))
    side = 2 * reach + 1
    kernel = np.histogram2d(y, x, bins=side, range=[[-reach - 0.5, reach + 0.5]] * 2, weights=weight)[0]
    kernel = cv2.GaussianBlur(kernel.astype(np.float32), (0, 0), 0.5)
    return kernel / kernel.sum()


def take_photo(
    puzzle: str,
    fonts: tuple[Font, ...],
    hands: tuple[Font, ...],
    rng: np.random.Generator,
    allowed: frozenset[str] = frozenset(pages.EFFECTS),
) -> Photo:
    """Take a photo of `puzzle` (81 characters, 0 = blank), printed in one of `fonts`, sometimes with handwriting.

    It has some of the `allowed` effects, by their probabilities in pages.EFFECTS.
    """
    has = {name for name, often in pages.EFFECTS.items() if name in allowed and chance(rng, often)}
    givens = cells_of(puzzle, blank=False)
    written = some(givens, 0.05, 0.7, rng) if "hand" in has else givens[:0]
    printed = "".join("0" if cell in written else digit for cell, digit in enumerate(puzzle))
    page, corners, ink = draw_board(printed, draw_glyphs(pick_file(fonts, rng), rng), rng, "small" in has)
    sheet = Sheet(page, puzzle, written, ink, fonts, hands)
    for name, draw in effects.DRAWN.items():
        if name in has:
            draw(sheet, rng)
    page = age_paper(page, rng)
    steadiness = 0.5 if "marks" in has else 1.0  # small digits, blurred, look like a pale big one
    view, corners, side = photograph(page, corners, rng, "bends" in has, steadiness)
    corners = corners.round(2)
    return Photo(view, corners, *aim(corners, side, rng, "corners" in has))


def aim(corners: np.ndarray, side: float, rng: np.random.Generator, astray: bool = False) -> tuple[np.ndarray, float]:
    """Draw the corners as a detector would find them, float32 [4, 2], and a client's crop margin.

    If `astray`, one corner is far off.
    """
    outwards = (corners - corners.mean(axis=0)) * rng.uniform(-0.008, 0.034)  # the frame's outer edge, or beyond it
    error = rng.normal(0, 0.006 * side, (4, 2))
    if astray:
        error[rng.integers(4)] += rng.normal(0, 0.032 * side, 2)
    crop_margin = rng.uniform(*CROP_MARGIN_RANGE) if chance(rng, 0.25) else rng.choice(CROP_MARGINS)
    return (corners + outwards + error).astype(np.float32), float(crop_margin)


def cut_photo(photo: Photo) -> np.ndarray:
    """Cut the photo's 81 cells as a client would; uint8 [81, 28, 28]."""
    return cut_cells(rectify(photo.view, photo.cut_corners, BOARD_SIDE), photo.crop_margin)


def draw_photos(number: int, allowed: frozenset[str] = frozenset(pages.EFFECTS)) -> Iterator[tuple[str, Photo]]:
    """Yield different puzzles, each with its photo, in fonts and on pages that training never sees; for checks.

    The photos have some of the `allowed` effects.
    """
    for i in range(number):
        rng = np.random.default_rng([0, 3, i])  # 0 to 2 are train, val and calibration
        puzzle = draw_puzzle(rng)
        yield puzzle, take_photo(puzzle, load_fonts("val"), load_hands("val"), rng, allowed)
