"""Load every package, and call OpenCV and matplotlib as the scripts and the later chapters do.

arm_check.py runs it with an emulated Python; an instruction that the processor lacks ends it. Needs no data. Draws the
fonts in PYTHONPATH, the folder of the wheels. Prints versions.
"""

import os
import platform

import cv2
import numpy as np
import onnx  # noqa: F401
import onnxruntime
import onnxscript  # noqa: F401
import torch
import torchvision  # type: ignore[import-untyped]  # noqa: F401
import tqdm  # noqa: F401
from PIL import Image, ImageDraw, ImageFont

SIZE = 450  # pixels, of a page's side


def warp(image: np.ndarray, corners: np.ndarray) -> None:
    """Resize, warp and filter an image of any dtype and number of channels."""
    square = np.array([[0, 0], [SIZE - 1, 0], [SIZE - 1, SIZE - 1], [0, SIZE - 1]], np.float32)
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(np.float32) + 0.3
    for kind in (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA):
        cv2.resize(image, (28, 28), interpolation=kind)
        cv2.resize(image, (613, 577), interpolation=kind)
    matrix = cv2.getPerspectiveTransform(square, square + corners)
    cv2.warpPerspective(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    cv2.warpAffine(image, np.array([[1, 0.1, 2], [0, 0.9, 1]], np.float32), (SIZE, SIZE))
    cv2.remap(image, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR)
    cv2.GaussianBlur(image, (5, 5), 1.1)
    cv2.GaussianBlur(image, (0, 0), 3.0)
    cv2.blur(image, (3, 3))
    cv2.filter2D(image, -1, np.ones((5, 5), np.float32) / 25)
    cv2.Sobel(image, cv2.CV_32F, 1, 0)
    cv2.addWeighted(image, 0.5, image, 0.5, 3)
    cv2.absdiff(image, image)
    cv2.multiply(image, image)
    cv2.normalize(image, image.copy(), 0, 255, cv2.NORM_MINMAX)
    cv2.meanStdDev(image)
    cv2.flip(image, 1)


def find(page: np.ndarray, colour: np.ndarray) -> None:
    """Find a grid in a photo, draw on it, encode and decode it."""
    cv2.medianBlur(page, 5)
    cv2.equalizeHist(page)
    cv2.createCLAHE(2.0, (8, 8)).apply(page)
    cv2.LUT(page, page[0][:256])
    ink = cv2.adaptiveThreshold(page, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 31, 5)
    cv2.threshold(page, 0, 255, cv2.THRESH_OTSU)
    cv2.Canny(page, 50, 150)
    square = np.ones((3, 3), np.uint8)
    ink = cv2.dilate(cv2.morphologyEx(ink, cv2.MORPH_CLOSE, square), square)
    cv2.erode(ink, square)
    outline = max(cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0], key=cv2.contourArea)
    cv2.approxPolyDP(outline, 0.02 * cv2.arcLength(outline, True), True)
    cv2.connectedComponentsWithStats(ink)
    cv2.putText(page, "5", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 0, 2, cv2.LINE_AA)
    cv2.line(page, (0, 0), (99, 50), 0, 3)
    cv2.HoughLinesP(ink, 1, 0.02, 80)
    cv2.dft(page.astype(np.float32))
    cv2.cvtColor(colour, cv2.COLOR_BGR2LAB)
    for kind in (".png", ".jpg", ".webp"):
        decoded = cv2.imdecode(cv2.imencode(kind, colour)[1], cv2.IMREAD_GRAYSCALE)
        assert decoded is not None and decoded.shape == page.shape


def draw(page: np.ndarray) -> str:
    """Draw a figure, and every font file through matplotlib and pillow; return a summary."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:  # with pins of before matplotlib's
        return ""
    from matplotlib import __version__, font_manager, ft2font

    figure, axes = plt.subplots(1, 2)
    axes[0].plot([0, 1], [1, 0], label="$x^2$")
    axes[0].legend()
    axes[1].imshow(page, cmap="gray")
    figure.savefig(os.devnull, format="png", dpi=70)
    fonts = font_manager.findSystemFonts(os.environ["PYTHONPATH"])
    for font in fonts:
        face = ft2font.FT2Font(font)
        face.set_size(24, 72)
        face.set_text("1234567890")
        face.draw_glyphs_to_bitmap()
        canvas = ImageDraw.Draw(Image.new("L", (99, 32)))
        canvas.text((0, 0), "1234567890", 255, ImageFont.truetype(font, 24))
    return f", matplotlib {__version__}, {len(fonts)} font files drawn"


def main() -> None:
    """Run everything on pages of noise and print the versions. Raises AssertionError if torch was built for CUDA."""
    assert platform.machine() == "aarch64" and torch.version.cuda is None, (platform.machine(), torch.version.cuda)
    rng = np.random.default_rng(0)
    page = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    colour = cv2.cvtColor(page, cv2.COLOR_GRAY2BGR)
    corners = rng.normal(0, 9, (4, 2)).astype(np.float32)
    for image in (page, colour, page.astype(np.float32)):
        warp(image, corners)
    find(page, colour)
    drawn = draw(page)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}{drawn}")


if __name__ == "__main__":
    main()
