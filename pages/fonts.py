# SPDX-License-Identifier: Apache-2.0
"""Fonts of the photo pages: families, how often each is drawn, and their digits as pixels."""

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digitnet_cli import UserError, install_packages

EM = 150  # digits are rendered at this size, then reduced

# Fonts by package, and how often each is drawn.
# Newspapers print most boards in a Helvetica or an Arial: Arimo has its shapes and widths.
TRAIN_ONCE = (
    "archivo_narrow roboto open_sans pt_sans ibm_plex_sans source_sans_3 news_cycle oswald pt_serif"
    " libre_baskerville crimson_text domine"
)
TRAIN_FONTS = {
    "fontpkg_arimo": 5,
    "fontpkg_archivo": 2,
    **{f"fontpkg_{name}": 1 for name in TRAIN_ONCE.split()},
    "matplotlib": 2,
}
VAL_ONCE = "work_sans barlow_semi_condensed noto_serif"
VAL_FONTS = {"fontpkg_libre_franklin": 2, "fontpkg_inter": 2, **{f"fontpkg_{name}": 1 for name in VAL_ONCE.split()}}
# Handwriting: answers and pencil marks.
HANDS_ONCE = "indie_flower shadows_into_light delius permanent_marker zeyada"
HANDS = {
    "train": {"fontpkg_caveat": 2, **{f"fontpkg_{name}": 1 for name in HANDS_ONCE.split()}},
    "val": {"fontpkg_kalam": 1},
}
# Endings of static files' names (other weights are left out); files with [axes] are variable fonts.
STATIC = ("Regular", "Bold", "Italic", "BoldItalic", "Medium", "SemiBold", "Oblique", "BoldOblique")
MATPLOTLIB = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
WEIGHTS = 380, 760  # of variable fonts
WIDTHS = 75, 105
ITALIC = 0.15  # probability, if the family has it


class Font(NamedTuple):
    """A font family: its name, its files, and how often it is drawn."""

    family: str
    upright: tuple[str, ...]
    italic: tuple[str, ...]
    often: float


def font_files(package: str) -> tuple[str, ...]:
    """Return the used files of an installed font package. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise UserError(f"the fonts of {name} are not installed: {install_packages()}")
    folder = Path(spec.submodule_search_locations[0])
    if package == "matplotlib":
        return tuple(str(folder / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf") for name in MATPLOTLIB)
    files = sorted((folder / "files").glob("*.[ot]tf"))
    return tuple(
        str(f) for f in files if f.stem.endswith("]") or f.stem.rpartition("-")[2] in STATIC or "-" not in f.stem
    )


def family(name: str, files: tuple[str, ...] | list[str], often: float) -> Font:
    """Return a family with its files sorted into upright and italic by their names."""
    slanted = [file for file in files if any(word in Path(file).stem for word in ("Ita", "Obl"))]
    return Font(name, tuple(file for file in files if file not in slanted), tuple(slanted), often)


@cache
def load_fonts(split: str) -> tuple[Font, ...]:
    """Return the fonts of the `train` or the `val` pages; no family is in both."""
    table = {"train": TRAIN_FONTS, "val": VAL_FONTS}[split]
    return tuple(family(package, font_files(package), often) for package, often in table.items())


@cache
def load_hands(split: str) -> tuple[Font, ...]:
    """Return the handwriting fonts of the `train` or the `val` pages; no face is in both."""
    return tuple(family(package, font_files(package), often) for package, often in HANDS[split].items())


def pick_file(fonts: tuple[Font, ...], rng: np.random.Generator) -> str:
    """Draw a font file: families weighted by `often`, italics with probability ITALIC."""
    often = np.array([font.often for font in fonts], float)
    font = fonts[rng.choice(len(fonts), p=often / often.sum())]
    files = font.italic if font.italic and rng.random() < ITALIC else font.upright
    return files[rng.integers(len(files))]


@lru_cache(maxsize=256)
def open_font(path: str) -> tuple[ImageFont.FreeTypeFont, tuple[tuple[str, float, float], ...]]:
    """Open a font at EM pixels; return it and its axes (name, lowest, highest), none if it is not variable."""
    font = ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)
    try:
        axes = font.get_variation_axes()
    except OSError:
        axes = []
    return font, tuple((axis["name"].decode(), axis["minimum"] or 0, axis["maximum"] or 0) for axis in axes)


def draw_glyphs(path: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the digits 1-9 in one face, float32 [9, H, W], 1 = ink, on one baseline, centred by their advance.

    Cropped to the tallest and the widest digit. A variable font's weight and width are drawn at random.
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
