# SPDX-License-Identifier: Apache-2.0
"""Cases of test_bad_input.py: a way to spoil folders (data/, artifacts/, real/), and the message expected for it."""

import os
import pickle
import shutil
import struct
import zlib

import cv2
import numpy as np
import onnx
import torch
import torch._dynamo  # loading it writes files, which no case of a full disk shall meet in this process
from mutants import rename, replace

from pages.puzzles import draw_puzzle

TRAIN = ["03_Training.py", "--epochs", "1", "--threads", "1", "--train-only"]
PARITY = ["04_Parity.py"]
GOLDEN = ["04_Parity.py", "--golden", "artifacts/golden.npz"]
EVALUATE = ["05_Evaluate.py", "--real", "real"]
PREPARE = ["02_PrepareData.py", "--train", "1", "--val", "1", "--workers", "1"]
CELL = "data/train/5/000000_clean_05.png"
PUZZLE = draw_puzzle(np.random.default_rng(0))


# --- how things are spoiled --------------------------------------------------------------------------


def cell(*shape, kind=np.uint8, path=CELL):
    """Write another image over a cell; channels, if any, differ."""
    return lambda: cv2.imwrite(path, np.full(shape, np.arange(shape[2]) if shape[2:] else 200, kind))


def write(path, content):
    return lambda: open(path, "wb").write(content)  # noqa: PTH123


def cut(path, size):
    return lambda: os.truncate(path, size)


def png(depth_and_colour, data, *chunks, side=28):
    """Encode a square PNG of a kind that OpenCV does not write."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = b"IHDR", struct.pack(">II", side, side) + depth_and_colour + b"\0\0\0"
    parts = [header, *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


PALETTE = png(b"\x08\x03", (b"\0" + b"\1" * 28) * 28, (b"PLTE", bytes([255, 0, 0, 0, 0, 255])))


def boards(shape):
    """Add a folder of boards beside the training cells, with one board of this shape, or none."""

    def spoil():
        os.makedirs("data/train_boards/boards")
        write("data/train_boards/labels.csv", f"board,givens\none,{PUZZLE}\n".encode())()
        if shape:
            cv2.imwrite("data/train_boards/boards/one.png", np.full(shape, 200, np.uint8))

    return spoil


def replace_by(path, make):
    def spoil():
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        make(path)

    return spoil


def link_to(target):
    return lambda path: os.symlink(os.path.basename(path) if target is None else target, path)


def same_pages():
    shutil.rmtree("data/val")
    shutil.copytree("data/train", "data/val")


NAN = "net.7.bias", np.full(10, np.nan, np.float32)


def change_onnx(change):
    def spoil():
        model = onnx.load("artifacts/sudoku_digitnet.onnx")
        change(model)
        onnx.save(model, "artifacts/sudoku_digitnet.onnx")

    return spoil


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bang",)


WEIGHTS, ONNX = "artifacts/digitnet_best.pth", "artifacts/sudoku_digitnet.onnx"
BAD_WEIGHTS = f"{WEIGHTS} is not a readable state_dict"


# name: (what is spoiled, if anything, command, exit code, words of the one line)
CASES = {
    # folders
    "no data": (lambda: shutil.rmtree("data"), TRAIN, 1, "no data in data/train"),
    "no validation data": (lambda: shutil.rmtree("data/val"), TRAIN, 1, "no data in data/val"),
    "no validation data for parity": (lambda: shutil.rmtree("data/val"), PARITY, 1, "no data in data/val"),
    "no validation data for evaluation": (lambda: shutil.rmtree("data/val"), EVALUATE, 1, "no data in data/val"),
    "class missing": (lambda: shutil.rmtree("data/train/4"), TRAIN, 1, "class folders 0 to 9: missing 4"),
    "class missing in validation": (lambda: shutil.rmtree("data/val/0"), TRAIN, 1, "data/val must hold exactly"),
    "class extra": (lambda: os.mkdir("data/train/blank"), TRAIN, 1, "unknown blank"),
    "class renamed": (lambda: os.rename("data/train/3", "data/train/three"), TRAIN, 1, "missing 3; unknown three"),
    "class empty": (lambda: [os.unlink(e.path) for e in os.scandir("data/train/7")], TRAIN, 1, "data/train/7 is empty"),
    "class a file": (replace_by("data/train/7", lambda p: write(p, b"7")()), TRAIN, 1, "missing 7"),
    "class a link to itself": (
        replace_by("data/train/7", link_to(None)), TRAIN, 1, "Too many levels of symbolic links: data/train/7"),
    "nested": (lambda: os.renames("data", "all/data") or os.rename("all", "data"), TRAIN, 1, "no data in data/train"),
    "data a file": (replace_by("data", lambda p: write(p, b"")()), TRAIN, 1, "no data in data/train"),
    **{f"data a link to nothing, {command[0]}": (
        replace_by("data", link_to("/mnt/usb/data")), command, 1, "data is a link to nothing: mount its disk")
       for command in (TRAIN, PREPARE, PARITY)},
    "artifacts a link to nothing": (replace_by("artifacts", link_to("/mnt/x")), TRAIN, 1, "artifacts is a link to"),
    "validation is training": (same_pages, TRAIN, 1, "data/val has pages of data/train (1, such as 000000_clean)"),
    "half prepared": (write("data/.made-by-02_PrepareData.py", b""), TRAIN, 1, "only half prepared"),
    "data of an earlier version": (
        lambda: (write("data/.made-by-02_PrepareData.py", b"")(), write("data/prepared.json", b'{"cells": {}}')(),
                 os.mkdir("data/calibration")), TRAIN, 1, "data was drawn by an earlier version: run `"),
    "boards without a table": (lambda: os.mkdir("data/train_boards"), TRAIN, 1, "data/train_boards/labels.csv"),
    "a board missing": (boards(None), TRAIN, 1, "data/train_boards/boards/one, a board of labels.csv, is missing"),
    "a board of another size": (boards((252, 250)), TRAIN, 1, "one.png is not a square image of 252 or more pixels"),
    "a board truncated": (
        lambda: (boards((252, 252))(), cut("data/train_boards/boards/one.png", 60)()), TRAIN, 1,
        "data/train_boards/boards/one.png is damaged, or no image that OpenCV reads"),
    "others' data": (None, PREPARE, 1, "was not made by this script"),
    # images
    "image without bytes": (write(CELL, b""), TRAIN, 1, f"{CELL} is not a readable image"),
    "image truncated": (cut(CELL, 60), TRAIN, 1, f"{CELL} is not a readable image"),
    "text for an image": (write(CELL, b"five"), TRAIN, 1, f"{CELL} is not a readable image"),
    "notes as image": (write("data/val/5/notes.txt", b""), PARITY, 1, "data/val/5/notes.txt is not a readable image"),
    "folder as image": (lambda: os.mkdir("data/train/5/x"), TRAIN, 1, "data/train/5/x cannot be read (Is a directory)"),
    "image of another size": (cell(32, 30), TRAIN, 1, f"{CELL} is 30x32 uint8"),
    "image of no height": (cell(1, 28), TRAIN, 1, f"{CELL} is 28x1 uint8"),
    "colour image": (cell(28, 28, 3), TRAIN, 1, f"{CELL} is 28x28x3 uint8"),
    "image with alpha": (cell(28, 28, 4), TRAIN, 1, f"{CELL} is 28x28x4 uint8"),
    "16-bit image": (cell(28, 28, kind=np.uint16), TRAIN, 1, f"{CELL} is 28x28 uint16"),
    "palette image": (write(CELL, PALETTE), TRAIN, 1, f"{CELL} is 28x28x3 uint8"),
    "image a link to itself": (
        replace_by(CELL, link_to(None)), TRAIN, 1, f"{CELL} cannot be read (Too many levels of symbolic links)"),
    "link to nothing": (replace_by(CELL, link_to("x")), TRAIN, 1, f"{CELL} cannot be read (No such file or directory)"),
    "unreadable": (
        replace_by(CELL, link_to("/proc/self/mem")), TRAIN, 1, f"{CELL} cannot be read (Input/output error)"),
    # weights
    "no weights": (lambda: os.unlink(WEIGHTS), PARITY, 1, f"no weights {WEIGHTS}"),
    "no weights, to export": (
        None, ["03_Training.py", "--out", "nowhere", "--export-only"], 1, "no weights nowhere/digitnet_best.pth"),
    "weights truncated": (cut(WEIGHTS, 9000), PARITY, 1, BAD_WEIGHTS),
    "weights empty": (write(WEIGHTS, b""), PARITY, 1, BAD_WEIGHTS),
    "weights a folder": (replace_by(WEIGHTS, os.mkdir), PARITY, 1, f"no weights {WEIGHTS}"),
    "others' weights": (lambda: torch.save(torch.nn.Linear(3, 3).state_dict(), WEIGHTS), PARITY, 1, "another network"),
    "weights of NaN": (
        lambda: torch.save(torch.load(WEIGHTS) | {NAN[0]: torch.from_numpy(NAN[1])}, WEIGHTS), PARITY, 1, "not finite"),
    "weights not tensors": (lambda: torch.save({"net.0.weight": 3}, WEIGHTS), PARITY, 1, BAD_WEIGHTS),
    "weights a pickle with code": (write(WEIGHTS, pickle.dumps(Bomb())), PARITY, 1, BAD_WEIGHTS),
    "code, to export": (write(WEIGHTS, pickle.dumps(Bomb())), ["03_Training.py", "--export-only"], 1, BAD_WEIGHTS),
    "weights for the ONNX file": (None, [*EVALUATE, "--onnx", WEIGHTS], 1, f"{WEIGHTS} is not an ONNX file"),
    # ONNX files and golden vectors
    "no ONNX file": (lambda: os.unlink(ONNX), EVALUATE, 1, f"no ONNX file {ONNX}"),
    "ONNX file a folder": (replace_by(ONNX, os.mkdir), EVALUATE, 1, f"no ONNX file {ONNX}"),
    "ONNX file empty": (write(ONNX, b""), EVALUATE, 1, f"{ONNX} is not an ONNX file"),
    "ONNX file truncated": (cut(ONNX, 9000), EVALUATE, 1, f"{ONNX} is not an ONNX file"),
    "ONNX file truncated, golden": (cut(ONNX, 9000), GOLDEN, 1, f"{ONNX} is not an ONNX file"),
    "ONNX file of another network": (
        change_onnx(lambda m: rename(m, m.graph.input, "x")), EVALUATE, 1, f"{ONNX} has another input or output"),
    "ONNX file with NaN": (
        change_onnx(lambda m: replace(m, *NAN)), PARITY, 1, "net.7.bias holds values that are not finite"),
    "no golden": (lambda: os.unlink("artifacts/golden.npz"), GOLDEN, 1, "no golden vectors artifacts/golden.npz"),
    "golden vectors truncated": (cut("artifacts/golden.npz", 9000), GOLDEN, 1, "holds no golden vectors"),
    "golden asked both ways": (None, [*GOLDEN, "--write-golden", "x"], 2, "give one of them"),
    "no real boards": (None, ["05_Evaluate.py", "--real", "phtos"], 1, "no folder phtos: name one that holds"),
    # puzzles
    "no puzzles": (None, [*PREPARE, "--out", "new", "--puzzles", "mine.txt"], 1, "mine.txt"),
    **{f"puzzles {name}": (write("mine.txt", content), [*PREPARE, "--out", "new", "--puzzles", "mine.txt"], 1, words)
       for name, content, words in [
           ("empty", b"", "mine.txt has 0 different puzzles"),
           ("not text", bytes(range(256)), "cannot read the puzzles"),
           ("short", f"{PUZZLE}\n{PUZZLE[:80]}".encode(), "mine.txt, line 2: a puzzle is 81 characters"),
           ("with letters", b"x" + PUZZLE[1:].encode(), "mine.txt, line 1: a puzzle is 81 characters"),
           ("contradictory", b"55" + b"0" * 79, "mine.txt, line 1: the givens contradict"),
           ("with two solutions", b"0" * 81, "mine.txt, line 1: the puzzle has more than one solution"),
           ("too few", PUZZLE.encode() + b"\n" + PUZZLE.encode(), "mine.txt has 1 different puzzles"),
       ]},
    # options
    "unknown option": (None, ["03_Training.py", "--epoch", "3"], 2, "unrecognized arguments: --epoch"),
    **{" ".join(option): (None, [script, *option], 2, option[0]) for script, *option in [
        ("03_Training.py", "--epochs", "0"), ("03_Training.py", "--epochs", "ten"),
        ("03_Training.py", "--epochs", "0.5"), ("03_Training.py", "--lr", "nan"),
        ("03_Training.py", "--lr", "inf"), ("03_Training.py", "--lr", "-1"), ("03_Training.py", "--batch-size", "-8"),
        ("03_Training.py", "--seed", "-1"), ("03_Training.py", "--seed", "99999999999999999999"),
        ("03_Training.py", "--threads", "100000"), ("03_Training.py", "--model", "resnet"),
        ("03_Training.py", "--blank-fraction", "2"), ("02_PrepareData.py", "--train", "0"),
        ("02_PrepareData.py", "--train", "1000000"), ("02_PrepareData.py", "--seed", "0.5"),
        ("02_PrepareData.py", "--workers", "9999"), ("04_Parity.py", "--max-mae", "0"),
        ("04_Parity.py", "--max-abs", "nan"), ("05_Evaluate.py", "--draws", "0"),
    ]},
    "huge batch": (
        None, [*TRAIN, "--batch-size", "99999999"], 1, "99999999 is too large for 10 cells: use at most 1024"),
    "batch of one": (None, [*TRAIN, "--batch-size", "1"], 1, "--batch-size 1 is too small for 1 threads: use 2"),
    "rate far too high": (None, [*TRAIN, "--lr", "1e30"], 1, "not finite in epoch 1: no weights were written"),
    # where an input would be replaced
    **{f"{option} is an input": (None, [*command, option, path], 1, f"{path} would replace")
       for command, option, path in [
           (PARITY, "--report", WEIGHTS), (PARITY, "--write-golden", ONNX),
           (GOLDEN, "--report", "artifacts/golden.npz"), (EVALUATE, "--onnx", "artifacts/evaluation.json"),
           (["06_ReadBoard.py", "real/photos/image1.jpg"], "--picture", "real/photos/image1.jpg"),
       ]},
    "puzzles among what is redrawn": (
        lambda: (write("data/.made-by-02_PrepareData.py", b"")(), write("data/train/my.txt", b"")()),
        [*PREPARE, "--puzzles", "data/train/my.txt"], 1, "data/train would replace data/train/my.txt"),
    # where nothing can be written
    "output under a file": (write("file", b""), [*TRAIN, "--out", "file/out"], 1, "file"),
    "output where nothing can be made": (None, [*TRAIN, "--out", "/proc/out"], 1, "/proc/out"),
    "data where nothing can be made": (None, [*PREPARE, "--out", "/proc/out"], 1, "/proc/out"),
    "report where nothing can be made": (None, [*EVALUATE, "--out", "/proc/out"], 1, "/proc/out"),
    "disk full while training": ("full", [*TRAIN, "--out", "artifacts"], 1, "File too large: artifacts/"),
    "disk full while checking": ("full", PARITY, 1, "File too large: artifacts/parity.json"),
    "disk full while evaluating": ("full", EVALUATE, 1, "File too large: artifacts/"),
    "disk full while preparing": ("full", [*PREPARE, "--out", "new"], 1, "is the disk full"),
}  # fmt: skip
