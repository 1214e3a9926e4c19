#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure gain and loss of INT8: static quantisation (QDQ, per channel), in two ways.

tutorial      every operator, calibrated on the first files of data/train in sorted order, as in a later chapter's
              script: all are blank
convolutions  the last layer stays in float; calibrated on equally many cells of every class

Prints a table (size, agreement with the float model, boards read, time per board) and writes the INT8 files,
quantize.json and 05_Evaluate.py's report on each file below --out. The ratio of times holds for this machine only.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from digitnet_cli import (
    UserError,
    argument_parser,
    describe_run,
    positive_int,
    run_script,
    sha256,
    start_script,
    write_file,
    write_json,
)

# --- settings: those of the command line stand in parse_args -----------------------------------
CONVOLUTIONS = ["Conv", "Relu", "MaxPool"]  # convolutions, which take nearly all the time, and what follows them
CALIBRATION_BATCH = 100  # cells
BOARD = 81  # cells per run, as clients do
RUNS = 300  # timed runs of each file, in turn, so that a busy moment meets all of them


def parse_args() -> argparse.Namespace:
    """Read the command line; the defaults quantise the file that `make` exports."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the float model")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with train/, val/ and grids/")
    add("--out", type=Path, default=Path("build/int8"), metavar="DIR", help="folder to write to")
    add("--cells", type=positive_int, default=1000, metavar="N", help="calibration cells")
    return parser.parse_args()


if __name__ == "__main__":
    start_script()
    ARGS = parse_args()

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from digitnet_data import NUM_CLASSES, Cells, load_cells, normalize
from digitnet_onnx import INPUT_NAME, classify, open_session, run_logits
from digitnet_parity import some_of_every_class
from digitnet_scores import count_wrong


class Batches(CalibrationDataReader):
    """Calibration cells, uint8 [N, 28, 28], in batches for ONNX Runtime's quantiser."""

    def __init__(self, pixels: np.ndarray):
        self.batches = iter(np.split(pixels, range(CALIBRATION_BATCH, len(pixels), CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch as the model's input, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: normalize(batch[:, None])}


def quantize(onnx: Path, cells: Cells, size: int, out: Path) -> dict[str, Path]:
    """Quantise a float file in both ways, with at most `size` calibration cells; return the files by name."""
    spread = some_of_every_class(cells.labels, size // NUM_CLASSES)
    ways = {"tutorial": (cells.pixels[:size], None), "convolutions": (cells.pixels[spread], CONVOLUTIONS)}
    # Unsigned, because ONNX Runtime's sums of signed 8-bit products overflow on x86-64 without VNNI: 3,103 of
    # 3,240 cells get another class there (onnxruntime 1.32.0, AVX2, 2026-11-26).
    types = dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)
    save = partial(quantize_static, onnx, quant_format=QuantFormat.QDQ, per_channel=True, **types)
    files = {}
    for name, (pixels, operators) in ways.items():
        files[f"INT8, {name}"] = path = out / f"{name}.onnx"
        write_file(path, partial(save, calibration_data_reader=Batches(pixels), op_types_to_quantize=operators))
    return files


def time_boards(files: dict[str, Path], pixels: np.ndarray) -> dict[str, float]:
    """Return the median milliseconds per board of 81 cells for each file, with one thread."""
    board = normalize(np.resize(pixels, (BOARD, *pixels.shape[1:]))[:, None])
    # More threads would spin while they wait, and slow down the session that is being timed.
    sessions = {name: open_session(path, threads=1) for name, path in files.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(RUNS):
        for name, session in sessions.items():
            start = time.perf_counter()
            run_logits(session, board)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def evaluate(onnx: Path, data: Path, out: Path) -> dict:
    """Run 05_Evaluate.py on a file and return the sets of its report."""
    command = [sys.executable, ROOT / "05_Evaluate.py", "--onnx", onnx, "--data", data, "--out", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"05_Evaluate.py failed on {onnx}: {done.stderr.strip()}")
    return json.loads((out / "evaluation.json").read_text())["sets"]


def print_table(results: dict[str, dict]) -> None:
    """Print the results in Markdown, with cells below the threshold as blank."""
    sets = list(next(iter(results.values()))["wrong"])
    heads = ["model", "bytes", "cells of another class", *(f"{name}: wrong" for name in sets), "per board, one thread"]
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---|" + "---|" * len(sets) + "---|")
    for name, result in results.items():
        wrong = [count_wrong(counts, ("cells", "boards")) for counts in result["wrong"].values()]
        speed = f"{result['milliseconds']:.2f} ms ({result['time_ratio']:.2f})"
        print(f"| {name} | {result['bytes']:,} | {result['different_class']:,} | {' | '.join(wrong)} | {speed} |")


def main(args: argparse.Namespace) -> None:
    """Quantise, time and evaluate the file; print the table and write quantize.json."""
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser recommends a preparation that changes nothing here
    open_session(args.onnx)  # an unusable file is reported before minutes of work
    val = load_cells(args.data / "val")
    files = {"float": args.onnx} | quantize(args.onnx, load_cells(args.data / "train"), args.cells, args.out)
    sessions = {name: open_session(path) for name, path in files.items()}
    expected = classify(sessions["float"], val.pixels)[0]
    milliseconds = time_boards(files, val.pixels)
    results = {}
    for name, path in files.items():
        sets = evaluate(path, args.data, args.out / path.stem if name != "float" else args.out / "float")
        results[name] = {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "different_class": int((classify(sessions[name], val.pixels)[0] != expected).sum()),
            "milliseconds": milliseconds[name],
            "time_ratio": milliseconds[name] / milliseconds["float"],
            "wrong": {name: entry["thresholded"] for name, entry in sets.items() if "%" not in name},
        }
    print_table(results)
    write_json(
        args.out / "quantize.json", {"validation_cells": len(expected), "models": results, "run": describe_run()}
    )
    print(f"Saved: {args.out}/quantize.json")


if __name__ == "__main__":
    run_script(main, ARGS)
