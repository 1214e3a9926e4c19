"""Photo pages: Sudoku boards as newspapers print them and phones see them; pure functions of a random generator.

    draw_glyphs -> draw_board -> age_paper -> photograph -> cut_photo
    nine digits    a print       texture, ..   the view      81 cells

A board is drawn at 54 pixels a cell as reflectance (1 = bare paper, 0 = no light comes back), so every
defect is a factor or a shift. What repeats without harm (noise, the reverse page's text) is drawn once
per process from fixed seeds, and each page takes a random part of it: that is most of the speed.
The effects' ranges come from looking at photographed newspapers; docs/experiments.md says what each brought.
"""

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from digitnet_cli import UserError
from digitnet_data import BOARD_SIDE, cut_cells, rectangle, rectify

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

STEP = 54  # a cell's side on the drawn page, pixels
BOARD = 9 * STEP
EDGE = 42  # the page goes on beyond the board
PAGE = BOARD + 2 * EDGE
BANK = 1024  # side of the noise that pages take parts of
EM = 150  # digits are rendered at this size, then reduced

BOARD_SIZES = 230, 760  # a board's side in the photo, pixels
MARGINS = 0.0, 0.06, 0.12  # cut off each side of a cell; a part of the pages draws from MARGIN_RANGE
MARGIN_RANGE = 0.0, 0.14

# Fonts by package, and how often each is drawn.
# Newspapers print most boards in a Helvetica or an Arial: Arimo has its shapes and widths.
TRAIN_FONTS = {
    "fontpkg_arimo": 5,
    "fontpkg_archivo": 2,
    "fontpkg_archivo_narrow": 1,
    "fontpkg_roboto": 1,
    "fontpkg_open_sans": 1,
    "fontpkg_pt_sans": 1,
    "fontpkg_ibm_plex_sans": 1,
    "fontpkg_source_sans_3": 1,
    "fontpkg_news_cycle": 1,
    "fontpkg_oswald": 1,
    "fontpkg_pt_serif": 1,
    "fontpkg_libre_baskerville": 1,
    "fontpkg_crimson_text": 1,
    "fontpkg_domine": 1,
    "matplotlib": 2,
}
VAL_FONTS = {
    "fontpkg_libre_franklin": 2,
    "fontpkg_inter": 2,
    "fontpkg_work_sans": 1,
    "fontpkg_barlow_semi_condensed": 1,
    "fontpkg_noto_serif": 1,
}
# Static files by what their names end in (other weights are left out); files with [axes] are variable fonts.
STATIC = ("Regular", "Bold", "Italic", "BoldItalic", "Medium", "SemiBold", "Oblique", "BoldOblique")
MATPLOTLIB = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
WEIGHTS = 380, 760  # of variable fonts
WIDTHS = 75, 105
ITALIC = 0.15  # how often, where the family has it
SYSTEM_FONTS = ("liberation", "urw-base35", "freefont")  # folders under /usr/share/fonts/*/
NO_DIGITS = ("D050000L", "StandardSymbols", "Z003")  # symbols and script in them


class Font(NamedTuple):
    """A font family: its name, its files, and how often it is drawn."""

    family: str
    upright: tuple[str, ...]
    italic: tuple[str, ...]
    often: float


class Photo(NamedTuple):
    """A board's photo and how its cells are cut."""

    view: np.ndarray  # uint8 [H, W]
    corners: np.ndarray  # float32 [4, 2] x, y: where the grid truly is, top left, then clockwise
    cut_corners: np.ndarray  # float32 [4, 2]: where a detector would say it is
    margin: float  # cut off each side of a cell, as a fraction


# --- fonts ------------------------------------------------------------------------------------


def font_files(package: str) -> tuple[str, ...]:
    """The files of an installed font package that are drawn from; raises UserError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise UserError(f"the fonts of {name} are not installed: python3 -m pip install -r requirements.txt")
    folder = Path(spec.submodule_search_locations[0])
    if package == "matplotlib":
        return tuple(str(folder / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf") for name in MATPLOTLIB)
    files = sorted((folder / "files").glob("*.[ot]tf"))
    return tuple(str(f) for f in files if f.stem.endswith("]") or f.stem.rpartition("-")[2] in STATIC)


def family(name: str, files: tuple[str, ...] | list[str], often: float) -> Font:
    slanted = [file for file in files if any(word in Path(file).stem for word in ("Ita", "Obl"))]
    return Font(name, tuple(file for file in files if file not in slanted), tuple(slanted), often)


def system_fonts() -> list[Font]:
    """Debian's fonts with the newspaper look, where they are installed."""
    found = []
    for folder in sorted(Path("/usr/share/fonts").glob("*/*")):
        if folder.name.startswith(SYSTEM_FONTS):
            families: dict[str, list[str]] = {}
            for file in sorted(folder.glob("*.[ot]tf")):
                if not file.name.startswith(NO_DIGITS):
                    families.setdefault(file.stem.partition("-")[0], []).append(str(file))
            found += [family(name, files, 1) for name, files in families.items()]
    return found


@cache
def load_fonts(split: str, system: bool = False) -> tuple[Font, ...]:
    """The fonts of the `train` or the `val` pages; no family is in both. System fonts are for training only."""
    table = {"train": TRAIN_FONTS, "val": VAL_FONTS}[split]
    fonts = [family(package, font_files(package), often) for package, often in table.items()]
    return tuple(fonts + (system_fonts() if system and split == "train" else []))


@lru_cache(maxsize=256)
def open_font(path: str) -> tuple[ImageFont.FreeTypeFont, tuple[tuple[str, float, float], ...]]:
    """A font at EM pixels, and its axes (name, lowest, highest), none if it is not variable."""
    font = ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)
    try:
        axes = font.get_variation_axes()
    except OSError:
        axes = []
    return font, tuple((axis["name"].decode(), axis["minimum"], axis["maximum"]) for axis in axes)


def draw_glyphs(path: str, rng: np.random.Generator) -> np.ndarray:
    """The digits 1-9 in one face, float32 [9, H, W], 1 = ink; all stand on one baseline, centred by their advance.

    Cropped to what the tallest and the widest need. A variable font's weight and width are drawn at random.
    """
    font, axes = open_font(path)
    if axes:
        ranges = {"Weight": WEIGHTS, "Width": WIDTHS}
        values = []
        for name, low, high in axes:
            wanted = rng.uniform(*ranges.get(name, (low, high)))
            values.append(float(np.clip(wanted, low, high)))
        font.set_variation_by_axes(values)
    glyphs = np.zeros((9, 2 * EM, 2 * EM), np.uint8)
    for digit in range(1, 10):
        image = Image.new("L", (2 * EM, 2 * EM))
        ImageDraw.Draw(image).text((EM, 3 * EM // 2), str(digit), fill=255, font=font, anchor="ms")
        glyphs[digit - 1] = np.asarray(image)
    ink = glyphs.max(axis=0) > 127
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    half = max(EM - columns[0], columns[-1] + 1 - EM) + 1  # the advance's middle stays the middle
    return glyphs[:, rows[0] : rows[-1] + 1, EM - half : EM + half].astype(np.float32) / 255


# --- the print --------------------------------------------------------------------------------


def chance(rng: np.random.Generator, probability: float) -> bool:
    return rng.random() < probability


@cache
def noise_bank(sigma: float) -> np.ndarray:
    """Noise of deviation 1, smoothed over `sigma` pixels; float32 [BANK, BANK], the same in every process."""
    scale = max(1, int(sigma / 2))  # coarse noise is drawn coarse
    side = BANK // scale + 1
    noise = np.random.default_rng([17, int(100 * sigma)]).standard_normal((side, side), np.float32)
    if sigma > 0:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma / scale)
    if scale > 1:
        noise = cv2.resize(noise, (BANK + scale, BANK + scale), interpolation=cv2.INTER_CUBIC)[:BANK, :BANK]
    return np.ascontiguousarray(noise / noise.std())


def square_of(bank: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `bank`; a view, not a copy."""
    y, x = rng.integers(0, bank.shape[0] - side + 1, 2)
    return bank[y : y + side, x : x + side]


def part(bank: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `bank`, turned or mirrored at random; a view, not a copy."""
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
    """A newspaper page of text, float32 [BANK, BANK], 1 = ink; page `number` is the same in every process."""
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
    """How much of each pixel in a row is covered by lines of `width` pixels centred `at`; float32 [length]."""
    distance = np.abs(np.arange(length, dtype=np.float32)[:, None] - at).min(axis=1)
    return np.clip((width + 1) / 2 - distance, 0, 1)


def draw_grid(rng: np.random.Generator, ink: float) -> np.ndarray:
    """The grid's lines, float32 [PAGE, PAGE]: the part of the light that they take away."""
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
    """Shaded boxes or cells, float32 [PAGE, PAGE]: a factor; an even tone or a halftone's dots."""
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


def draw_board(puzzle: str, glyphs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A newspaper's print of `puzzle`: reflectance, float32 [PAGE, PAGE], and the grid's corners, float32 [4, 2]."""
    ink = rng.uniform(0.05, 0.35)
    taken = draw_grid(rng, ink)

    height = (0.40 + 0.40 * rng.beta(1, 1.7)) * STEP  # small ones are the most common
    stretch = rng.uniform(0.88, 1.1)
    width = height / glyphs.shape[1] * glyphs.shape[2] * stretch
    shrink = min(1, 0.82 * STEP / width)  # a wide face stays in its cell
    size = max(4, round(width * shrink)), max(8, round(height * shrink))
    digits = [cv2.resize(glyph, size, interpolation=cv2.INTER_AREA) for glyph in glyphs]
    digit_ink = (1 - ink) * (1.0 if chance(rng, 0.5) else rng.uniform(0.5, 1))  # often paler than the lines
    digit_ink = max(0.42, digit_ink)  # paler than any real digit, texture would look like digits
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
    if chance(rng, 0.5):  # what is printed around the board
        gap = rng.uniform(3, 30)
        around = stripes(np.array([PAGE / 2]), BOARD + 2 * gap, PAGE)
        text = square_of(text_bank(int(rng.integers(12))), PAGE, rng)
        taken = np.maximum(taken, (1 - np.outer(around, around)) * text * (1 - ink))
    page = 1 - taken
    if chance(rng, 0.22):
        page *= draw_shades(rng)
    return page, rectangle(EDGE, EDGE, BOARD, BOARD)


# --- the paper --------------------------------------------------------------------------------


def age_paper(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Texture, the reverse page showing through, specks, wrinkles and creases; reflectance in and out."""
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
        page *= stains(rng)
    if chance(rng, 0.3):
        for _ in range(rng.integers(1, 4)):
            page *= edge_or_fold(PAGE, rng, widths=(1, 14), strength=0.25)
    return page


def stains(rng: np.random.Generator) -> np.ndarray:
    """Dirt and worn ink: soft, mostly oblong smudges of about one direction; a factor, float32 [PAGE, PAGE]."""
    layer = np.ones((PAGE, PAGE), np.float32)
    lean = rng.uniform(0, 180)
    for _ in range(rng.integers(3, 40)):
        length = rng.uniform(2, 0.35 * STEP)
        box = (tuple(rng.uniform(0, PAGE, 2)), (length, length * rng.uniform(0.15, 0.8)), lean + rng.normal(0, 25))
        cv2.ellipse(layer, box, rng.uniform(0.6, 0.95), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.8, 3.5))


def edge_or_fold(side: int, rng: np.random.Generator, widths: tuple[float, float], strength: float) -> np.ndarray:
    """A straight fold or a step in brightness across a square, as a factor; float32 [side, side]."""
    angle, width = rng.uniform(0, np.pi), rng.uniform(*widths)
    x, y = rng.uniform(0, side, 2)
    along = np.arange(side, dtype=np.float32)
    distance = np.add.outer((along - y) * np.sin(angle), (along - x) * np.cos(angle)) * np.float32(1 / width)
    amount = rng.uniform(-strength, strength)
    if chance(rng, 0.6):
        return 1 + amount * cv2.exp(-np.minimum(distance * distance, 50))
    return 1 + amount * (1 / (1 + cv2.exp(np.clip(distance, -30, 30))))


# --- the camera -------------------------------------------------------------------------------


def photograph(page: np.ndarray, corners: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A phone's photo of a page: uint8 [H, W], the grid's corners in it, float32 [4, 2], and the board's side."""
    side = np.exp(rng.uniform(*np.log(BOARD_SIZES)))
    view, corners = take_view(page, corners, side, rng)
    view *= light(view.shape[0], rng)
    white = rng.uniform(110, 250)
    fog = rng.uniform(0, 0.35) * rng.random()  # stray light lifts the blacks
    view = white * (view * (1 - fog) + fog * rng.uniform(0.85, 1.1))
    view = blur(view, side, rng)
    if chance(rng, 0.35):  # the camera's sharpening leaves halos
        soft = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.8, 2.2))
        view += rng.uniform(0.3, 1.4) * (view - soft)
    if chance(rng, 0.8):
        grain = part(noise_bank(float(rng.choice([0.0, 0.0, 1.0]))), view.shape[0], rng)
        view += abs(rng.normal(0, 3)) * grain
    view = np.clip(view, 0, 255).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 97))])[1]
    return cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), corners, side


def take_view(
    page: np.ndarray, corners: np.ndarray, side: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Perspective and bent paper: a square view, float32, with the board about `side` pixels wide, and its corners."""
    angle = np.deg2rad(rng.normal(0, 3.5))
    turn = np.float32([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = (np.float32([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2 @ turn.T) * side
    target += rng.normal(0, 0.022 * side, (4, 2))
    target -= target.min(axis=0) - 0.05 * side
    width = int(np.ceil(target.max() + 0.05 * side))
    back = cv2.getPerspectiveTransform(target.astype(np.float32), corners.astype(np.float32))  # view -> page

    along = np.arange(width, dtype=np.float32)
    depth = back[2, 0] * along + (back[2, 1] * along + back[2, 2])[:, None]
    map_x = ((back[0, 0] * along + (back[0, 1] * along + back[0, 2])[:, None]) / depth).astype(np.float32)
    map_y = ((back[1, 0] * along + (back[1, 1] * along + back[1, 2])[:, None]) / depth).astype(np.float32)
    place = cv2.perspectiveTransform(corners[None], np.linalg.inv(back))[0]
    if chance(rng, 0.6):
        points = int(rng.integers(3, 6))
        bend = rng.normal(0, BOARD * rng.choice([0.003, 0.006, 0.012]), (points, points, 2)).astype(np.float32)
        bend = cv2.resize(bend, (width, width), interpolation=cv2.INTER_CUBIC)
        map_x += bend[..., 0]
        map_y += bend[..., 1]
        for _ in range(3):  # where a bent corner lies: the page's corner, less the bend there
            shift = [bend[tuple(np.clip(p[::-1], 0, width - 1).astype(int))] for p in place]
            place = cv2.perspectiveTransform((corners - np.float32(shift))[None], np.linalg.inv(back))[0]
    if side < BOARD:  # a small view averages over what a pixel covers
        page = cv2.GaussianBlur(page, (0, 0), 0.45 * BOARD / side)
    view = cv2.remap(page, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return view, place.astype(np.float32)


def light(width: int, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, now and then with a shadow's edge or a round shadow, as a factor; float32 [width, width]."""
    points = int(rng.integers(2, 5))
    field = rng.uniform(1 - rng.uniform(0, 0.5), 1, (points, points)).astype(np.float32)
    field = np.clip(cv2.resize(field, (width, width), interpolation=cv2.INTER_CUBIC), 0.2, 1.2)
    if chance(rng, 0.15):
        field *= edge_or_fold(width, rng, widths=(1, 40), strength=0.4)
    if chance(rng, 0.12):
        along = np.arange(width, dtype=np.float32)
        radius = width * rng.uniform(0.15, 0.5)
        bell = [cv2.exp(-(((along - width * rng.random()) / radius) ** 2))[:, 0] for _ in range(2)]
        field *= 1 - rng.uniform(0.1, 0.5) * np.outer(*bell)
    return field


def blur(view: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Focus (over the whole view, or falling off to one side) and motion."""
    unit = side / 450
    sigma = min(abs(rng.normal(0, 1.8)), 3.6) * unit if chance(rng, 0.8) else 0
    if sigma > 0.25:
        if chance(rng, 0.6):  # a lens out of focus spreads a point to a disc, often with a bright rim
            radius = 2 * sigma
            reach = int(radius + 1)
            y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            far = np.hypot(x, y)
            disc = np.clip(radius + 0.5 - far, 0, 1) * (1 + rng.uniform(0, 1.5) * (far / radius) ** 2)
            disc = disc.astype(np.float32)
            soft = cv2.filter2D(view, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
        else:
            soft = cv2.GaussianBlur(view, (0, 0), sigma)
        if chance(rng, 0.15):
            ramp = np.clip(np.linspace(rng.uniform(-1, 0.5), rng.uniform(0.5, 2), view.shape[0]), 0, 1)
            ramp = ramp.astype(np.float32)[:, None] if chance(rng, 0.5) else ramp.astype(np.float32)
            view = view + ramp * (soft - view)
        else:
            view = soft
    if chance(rng, 0.2):
        view = cv2.filter2D(view, -1, shake(rng.uniform(2, 9) * unit, rng), borderType=cv2.BORDER_REPLICATE)
    return view


def shake(length: float, rng: np.random.Generator) -> np.ndarray:
    """The way of a point while the hand moves: a bent line, or its two ends (a double image); sum 1."""
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


# --- all of it --------------------------------------------------------------------------------


def take_photo(puzzle: str, fonts: tuple[Font, ...], rng: np.random.Generator) -> Photo:
    """A photo of `puzzle` (81 characters, 0 = blank), printed in one of `fonts`."""
    often = np.array([font.often for font in fonts], float)
    font = fonts[rng.choice(len(fonts), p=often / often.sum())]
    files = font.italic if font.italic and chance(rng, ITALIC) else font.upright
    glyphs = draw_glyphs(files[rng.integers(len(files))], rng)
    page, corners = draw_board(puzzle, glyphs, rng)
    view, corners, side = photograph(age_paper(page, rng), corners, rng)
    corners = corners.round(2)
    outwards = (corners - corners.mean(axis=0)) * rng.uniform(-0.008, 0.034)  # the frame's outer edge, or beyond it
    error = rng.normal(0, 0.006 * side, (4, 2))
    if chance(rng, 0.12):  # one corner is badly off
        error[rng.integers(4)] += rng.normal(0, 0.025 * side, 2)
    cut_corners = (corners + outwards + error).astype(np.float32)
    margin = rng.uniform(*MARGIN_RANGE) if chance(rng, 0.25) else rng.choice(MARGINS)
    return Photo(view, corners, cut_corners, float(margin))


def cut_photo(photo: Photo) -> np.ndarray:
    """The photo's 81 cells as a client would cut them, uint8 [81, 28, 28]."""
    return cut_cells(rectify(photo.view, photo.cut_corners, BOARD_SIDE), photo.margin)
