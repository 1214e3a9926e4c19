# SPDX-License-Identifier: Apache-2.0
"""Draw Sudoku boards as printed in newspapers, with paper defects; pure functions of a random generator.

A board is drawn at 54 pixels per cell as reflectance (1 = bare paper, 0 = no light comes back), so every
defect is a factor or a shift. Noise and the reverse page's text are drawn once per process from fixed
seeds, and each page takes a random part of them, which saves most of the time.
"""

from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from digitnet_boards import rectangle
from pages.fonts import load_fonts, open_font

STEP = 54  # a cell's side on the drawn page, pixels
BOARD = 9 * STEP
EDGE = 42  # width of the page around the board
PAGE = BOARD + 2 * EDGE
BANK = 1024  # side of the noise, of which pages take parts


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with this probability."""
    return rng.random() < probability


@cache
def noise_bank(sigma: float) -> np.ndarray:
    """Draw noise of deviation 1, smoothed over `sigma` pixels; float32 [BANK, BANK], the same in every process."""
    scale = max(1, int(sigma / 2))  # coarse noise is drawn coarse
    side = BANK // scale + 1
    noise: np.ndarray = np.random.default_rng([17, int(100 * sigma)]).standard_normal((side, side), np.float32)
    if sigma > 0:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma / scale)
    if scale > 1:
        noise = cv2.resize(noise, (BANK + scale, BANK + scale), interpolation=cv2.INTER_CUBIC)[:BANK, :BANK]
    return np.ascontiguousarray(noise / noise.std())


def square_of(bank: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of `bank`; a view, not a copy."""
    y, x = rng.integers(0, bank.shape[0] - side + 1, 2)
    return bank[y : y + side, x : x + side]


def part(bank: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of `bank`, turned or mirrored at random; a view, not a copy."""
    piece = square_of(bank, side, rng)
    turn = int(rng.integers(8))
    piece = piece[::-1] if turn & 1 else piece
    piece = piece[:, ::-1] if turn & 2 else piece
    return piece.T if turn & 4 else piece


WORDS = [
    "the", "of", "and", "to", "in", "for", "that", "with", "said", "on", "from", "page", "city", "weather", "today",
    "market", "price", "sport", "news", "week", "puzzle", "answer", "yesterday", "council", "police", "school",
    "2009", "1,250", "24", "37%", "der", "die", "und", "nicht", "heute", "wetter", "le", "la", "des",
]  # fmt: skip


@cache
def text_bank(number: int) -> np.ndarray:
    """Draw a newspaper page of text, float32 [BANK, BANK], 1 = ink; page `number` is the same in every process."""
    rng = np.random.default_rng([23, number])
    fonts = load_fonts("train")
    sheet = Image.new("L", (BANK, BANK))
    pen = ImageDraw.Draw(sheet)
    y = 0
    size = int(rng.integers(13, 24))
    column = int(rng.choice([BANK, BANK // 2, BANK // 3]))
    while y < BANK:
        heading = chance(rng, 0.12)
        font = open_font(fonts[rng.integers(len(fonts))].upright[0])[0]
        font = font.font_variant(size=int(rng.integers(30, 80)) if heading else size)
        for x in range(0, BANK, BANK if heading else column):
            words = " ".join(rng.choice(WORDS, 14))
            width = (BANK if heading else column) - 14
            line = Image.new("L", (width, int(font.size * 1.3)))
            ImageDraw.Draw(line).text((0, 0), words, fill=255, font=font)
            sheet.paste(line, (x, y))
        y += int(font.size * 1.25)
        if chance(rng, 0.04):  # a picture, as a block of tone
            height = int(rng.integers(40, 200))
            x = int(rng.integers(0, BANK - 100))
            pen.rectangle([x, y, x + int(rng.integers(80, 400)), y + height], fill=int(rng.integers(60, 220)))
            y += height + 8
    return np.asarray(sheet, np.float32) / 255


def stripes(at: np.ndarray, width: float, length: int) -> np.ndarray:
    """Return the part of each pixel in a row that lines of `width` pixels, centred `at`, cover; float32 [length]."""
    distance = np.abs(np.arange(length, dtype=np.float32)[:, None] - at).min(axis=1)
    return np.clip((width + 1) / 2 - distance, 0, 1)


def draw_grid(rng: np.random.Generator, ink: float) -> np.ndarray:
    """Draw the grid's lines, float32 [PAGE, PAGE], as the part of the light that they absorb."""
    thin = rng.uniform(0.7, 2.6)
    thick = max(thin * rng.uniform(1, 1.5), rng.uniform(1.5, 6.5))
    thin_ink = (1 - ink) * (1.0 if chance(rng, 0.5) else rng.uniform(0.3, 1))
    thick_ink = (1 - ink) * (1.0 if chance(rng, 0.8) else rng.uniform(0.5, 1))
    at = EDGE + STEP * np.arange(10)
    thin_lines = thin_ink * stripes(at, thin, PAGE)
    thick_lines = thick_ink * stripes(at[::3], thick, PAGE)
    if chance(rng, 0.2):  # a frame of its own weight
        thick_lines = np.maximum(thick_lines, thick_ink * stripes(at[::9], rng.uniform(2, 9), PAGE))
    within = stripes(np.array([PAGE / 2 - 0.5]), BOARD + thick, PAGE)
    if chance(rng, 0.06):  # dotted thin lines
        period = int(rng.integers(3, 9))
        dots = (np.arange(PAGE) % period < period * rng.uniform(0.4, 0.8)).astype(np.float32)
        grid = np.maximum(np.outer(dots, thin_lines), np.outer(thin_lines, dots))
        grid = np.maximum(grid, np.maximum.outer(thick_lines, thick_lines))
    else:
        lines = np.maximum(thin_lines, thick_lines)
        grid = np.maximum.outer(lines, lines)
    return grid * np.outer(within, within)


def draw_shades(rng: np.random.Generator) -> np.ndarray:
    """Draw shaded boxes or cells, in an even tone or as halftone, as a factor, float32 [PAGE, PAGE]."""
    tone = rng.uniform(0.62, 0.94)
    chosen = np.zeros((9, 9), bool)
    if chance(rng, 0.5):
        boxes = np.add.outer(np.arange(3), np.arange(3)) % 2 == rng.integers(2)
        chosen = boxes.repeat(3, axis=0).repeat(3, axis=1)
    else:
        chosen.flat[rng.permutation(81)[: rng.integers(1, 15)]] = True
        if chance(rng, 0.3):
            chosen[4, 3:6] = True
    area = np.zeros((PAGE, PAGE), np.float32)
    area[EDGE : EDGE + BOARD, EDGE : EDGE + BOARD] = chosen.repeat(STEP, axis=0).repeat(STEP, axis=1)
    if chance(rng, 0.5):  # halftone: dots on a turned raster, larger for a darker tone
        pitch, angle = rng.uniform(3, 6), rng.uniform(0.2, 1.3)
        along = np.arange(PAGE, dtype=np.float32) * (2 * np.pi / pitch)
        u = np.add.outer(np.sin(angle) * along, np.cos(angle) * along)
        v = np.add.outer(np.cos(angle) * along, -np.sin(angle) * along)
        raster = (cv2.polarToCart(np.ones_like(u), u)[0] + cv2.polarToCart(np.ones_like(v), v)[0]) / 2
        dots = np.clip(0.5 + 4 * (raster - rng.uniform(0.2, 0.7)), 0, 1)
        return 1 - area * dots * rng.uniform(0.15, 0.6)
    return 1 - area * (1 - tone)


def draw_size(glyphs: np.ndarray, rng: np.random.Generator, small: bool) -> tuple[int, int]:
    """Draw the digits' width and height in pixels."""
    height = (0.40 + 0.40 * rng.beta(1, 1.7)) * STEP  # mostly small
    if small:
        height = rng.uniform(0.2, 0.4) * STEP
    width = height / glyphs.shape[1] * glyphs.shape[2] * rng.uniform(0.88, 1.1)
    shrink = min(1, 0.82 * STEP / width)  # a wide face stays within its cell
    return max(4, round(width * shrink)), max(8, round(height * shrink))


def draw_board(
    puzzle: str, glyphs: np.ndarray, rng: np.random.Generator, small: bool = False
) -> tuple[np.ndarray, np.ndarray, float]:
    """Print `puzzle` as a newspaper does, perhaps with `small` digits.

    Returns the reflectance, float32 [PAGE, PAGE], the grid's corners, float32 [4, 2], and the part of the light that
    the digits absorb.
    """
    ink = rng.uniform(0.05, 0.35)
    taken = draw_grid(rng, ink)
    size = draw_size(glyphs, rng, small)
    digits = [cv2.resize(glyph, size, interpolation=cv2.INTER_AREA) for glyph in glyphs]
    digit_ink = (1 - ink) * (1.0 if chance(rng, 0.5) else rng.uniform(0.5, 1))  # often paler than the lines
    digit_ink = max(0.42, digit_ink)  # paler digits cannot be told from texture
    room = np.maximum(0, (STEP - np.array(size)) / 2 - 1)
    offset = np.clip(rng.normal(0, 0.055 * STEP, 2), -room, room)
    for cell, digit in enumerate(puzzle):
        if digit != "0":
            row, column = divmod(cell, 9)
            nudge = offset + rng.normal(0, 0.008 * STEP, 2)
            x = round(EDGE + (column + 0.5) * STEP + nudge[0] - size[0] / 2)
            y = round(EDGE + (row + 0.5) * STEP + nudge[1] - size[1] / 2)
            place = taken[y : y + size[1], x : x + size[0]]
            np.maximum(place, digit_ink * digits[int(digit) - 1], out=place)

    if chance(rng, 0.25):  # ink that spread, or was sparing
        kernel = np.ones((2, 2), np.uint8)
        taken = cv2.dilate(taken, kernel) if chance(rng, 0.6) else cv2.erode(taken, kernel)
    if chance(rng, 0.3):  # ink that took unevenly
        taken *= np.clip(1 + rng.uniform(0.05, 0.25) * part(noise_bank(1.0), PAGE, rng), 0.3, 1.05)
    if chance(rng, 0.5):  # text around the board
        gap = rng.uniform(3, 30)
        around = stripes(np.array([PAGE / 2]), BOARD + 2 * gap, PAGE)
        text = square_of(text_bank(int(rng.integers(12))), PAGE, rng)
        taken = np.maximum(taken, (1 - np.outer(around, around)) * text * (1 - ink))
    page = 1 - taken
    if chance(rng, 0.22):
        page *= draw_shades(rng)
    return page, rectangle(EDGE, EDGE, BOARD, BOARD), digit_ink


def age_paper(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add texture, show-through of the reverse page, specks, wrinkles and creases; reflectance in and out."""
    if chance(rng, 0.5):
        text = square_of(text_bank(int(rng.integers(12))), int(rng.integers(PAGE // 3, BANK)), rng)
        text = cv2.resize(text[:, ::-1], (PAGE, PAGE), interpolation=cv2.INTER_LINEAR)  # mirrored, so never a digit
        page = page * (1 - rng.uniform(0.01, 0.11) * cv2.GaussianBlur(text, (0, 0), rng.uniform(0.8, 3)))
    strength = rng.uniform(0, 0.015) if chance(rng, 0.7) else rng.uniform(0.015, 0.04)
    texture = np.zeros((PAGE, PAGE), np.float32)
    for sigma in (0.0, 1.0, 2.0, 4.0, 8.0):
        texture += rng.uniform(0, 0.7) * part(noise_bank(sigma), PAGE, rng)
    page = page * (1 + strength * texture)
    if chance(rng, 0.3):  # wrinkles: the slope of a rough surface turns it to the light
        height = part(noise_bank(float(rng.choice([8.0, 16.0, 32.0]))), PAGE + 2, rng)
        slope = height[2:, 1:-1] - height[:-2, 1:-1] if chance(rng, 0.5) else height[1:-1, 2:] - height[1:-1, :-2]
        page *= 1 + rng.uniform(0.01, 0.06) / slope.std() * slope
    if chance(rng, 0.5):
        for _ in range(rng.poisson(6)):  # specks, dark or light
            x, y = rng.uniform(EDGE, PAGE - EDGE, 2)
            axes = rng.uniform(0.6, 3.5) * np.array([1, rng.uniform(0.4, 1)])
            value = float(page[int(y), int(x)] * (rng.uniform(0.4, 0.9) if chance(rng, 0.8) else 1.15))
            box = ((x, y), (2 * axes[0], 2 * axes[1]), rng.uniform(0, 180))
            cv2.ellipse(page, box, value, -1, cv2.LINE_AA)
    if chance(rng, 0.15):
        page *= paper_stains(rng)
    if chance(rng, 0.3):
        for _ in range(rng.integers(1, 4)):
            page *= edge_or_fold(PAGE, rng, widths=(1, 14), strength=0.25)
    return page


def paper_stains(rng: np.random.Generator) -> np.ndarray:
    """Draw dirt and worn ink as soft, oblong smudges of about one direction; a factor, float32 [PAGE, PAGE]."""
    layer = np.ones((PAGE, PAGE), np.float32)
    lean = rng.uniform(0, 180)
    for _ in range(rng.integers(3, 40)):
        length = rng.uniform(2, 0.35 * STEP)
        box = (tuple(rng.uniform(0, PAGE, 2)), (length, length * rng.uniform(0.15, 0.8)), lean + rng.normal(0, 25))
        cv2.ellipse(layer, box, rng.uniform(0.6, 0.95), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.8, 3.5))


def edge_or_fold(side: int, rng: np.random.Generator, widths: tuple[float, float], strength: float) -> np.ndarray:
    """Draw a straight fold or a step in brightness across a square, as a factor; float32 [side, side]."""
    angle, width = rng.uniform(0, np.pi), rng.uniform(*widths)
    x, y = rng.uniform(0, side, 2)
    along = np.arange(side, dtype=np.float32)
    distance = np.add.outer((along - y) * np.sin(angle), (along - x) * np.cos(angle)) * np.float32(1 / width)
    amount = rng.uniform(-strength, strength)
    if chance(rng, 0.6):
        return 1 + amount * cv2.exp(-np.minimum(distance * distance, 50))
    return 1 + amount * (1 / (1 + cv2.exp(np.clip(distance, -30, 30))))
