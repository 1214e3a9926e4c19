# SPDX-License-Identifier: Apache-2.0
"""How fast photos are read: drawn ones of two sizes in process, with one thread, and one by the whole command."""

import argparse
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
from measure import ROOT, run_measured, table
from torch.utils.benchmark import Timer

from digitnet_boards import load_photo
from digitnet_onnx import open_session
from pages.camera import draw_photos
from pages.newspaper import text_bank
from reading.board import VERIFIED, Reading, read_board

MODEL = ROOT / "pretrained/sudoku_digitnet_photo.onnx"
SIZES = {"1,000 pixels": (1000, 750), "12 megapixels": (4000, 3000)}  # height, width
PHOTOS, RUNS = 8, 5  # photos of each size; runs of the whole command


def draw_page(view: np.ndarray, height: int, width: int) -> np.ndarray:
    """Lay the photo of a board, uint8 [S, S], on a page of text, uint8 [height, width]."""
    text = text_bank(0)
    size = min(text.shape[0] / height, text.shape[1] / width)
    text = text[: int(size * height), : int(size * width)]
    page = np.percentile(view, 90) * cv2.resize(1 - 0.8 * text, (width, height), interpolation=cv2.INTER_CUBIC)
    side = width - width // 20
    top, left = (height - side) // 3, (width - side) // 2
    page[top : top + side, left : left + side] = cv2.resize(view, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(page, 0, 255).astype(np.uint8)


def bench_photo(args: argparse.Namespace) -> dict:
    """Measure seconds per photo, from its JPEG file to the verdict, and of 06_ReadBoard.py with a verified one."""
    cv2.setNumThreads(1)
    session = open_session(MODEL)
    folder = args.out / "photos"
    folder.mkdir(exist_ok=True)

    def read(path: Path) -> Reading:
        return read_board(session, load_photo(path))

    results, rows = {}, []
    photos, runs = (2, 1) if args.quick else (PHOTOS, RUNS)
    for name, (height, width) in SIZES.items():
        paths: list[Path] = []
        for number, (_, photo) in enumerate(draw_photos(photos, frozenset())):
            paths.append(folder / f"{height}_{number}.jpg")
            cv2.imwrite(str(paths[-1]), draw_page(photo.view, height, width))
        readings = [read(path) for path in paths]
        timers = [Timer("read(path)", globals={"read": read, "path": path}) for path in paths]
        seconds = [timer.blocked_autorange(min_run_time=0.5).median for timer in timers]
        results[name] = seconds
        rows.append([f"{name}, in process", statistics.median(seconds), max(seconds), len(seconds)])
        verified = [path for path, reading in zip(paths, readings, strict=True) if reading.verdict == VERIFIED]
        if verified:
            command = ("06_ReadBoard.py", "--onnx", MODEL, verified[0])
            times = [run_measured(sys.executable, *command)["seconds"] for _ in range(runs)]
            results[f"{name}, command"] = times
            rows.append([f"{name}, 06_ReadBoard.py", statistics.median(times), max(times), len(times)])
    table("Reading photos", ["", "s, median", "s, most", "photos or runs"], rows)
    return results
