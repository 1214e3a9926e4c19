# SPDX-License-Identifier: Apache-2.0
"""Measure the speed of the exported file: ONNX Runtime's options against each other, and against PyTorch."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measure import plural, run_measured, table
from torch.utils.benchmark import Timer

from digitnet_machine import available_cpus
from digitnet_model import NETWORKS
from digitnet_onnx import open_session

SIZES = (81, 512)  # cells: a board; the batch of later chapters' parity check


def session(
    path: Path, threads: int = 0, spinning: bool = True, level: str = "ORT_ENABLE_ALL"
) -> onnxruntime.InferenceSession:
    """Open an ONNX file with `threads` (0: one per core), spinning while they wait or not, at a graph level."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bench_inference(args: argparse.Namespace) -> dict:
    """Measure milliseconds per board of 81 cells and per 512 cells, and the busy cores, in three rounds."""
    out, model, cpus = args.out / "inference", NETWORKS["digitnet"]().eval(), available_cpus()
    out.mkdir(exist_ok=True)
    torch.save(model.state_dict(), out / "digitnet_best.pth")  # untrained is as fast
    run_measured(sys.executable, "03_Training.py", "--out", out, "--export-only")
    path = out / "sudoku_digitnet.onnx"
    ways = {
        "default": onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
        "1 thread (open_session)": open_session(path),
        f"{plural(cpus, 'thread')}, no spinning": session(path, cpus, spinning=False),
        "1 thread, level extended": session(path, 1, level="ORT_ENABLE_EXTENDED"),
        "1 thread, level off": open_session(path, optimize=False),
    }
    calls = {name: lambda x, s=one: s.run(None, {"input": x}) for name, one in ways.items()}

    def pytorch(x: np.ndarray, threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(torch.from_numpy(x))

    calls |= {f"PyTorch, {plural(n, 'thread')}": lambda x, n=n: pytorch(x, n) for n in sorted({1, cpus})}
    times, busy = {}, {}
    for _ in range(1 if args.quick else 3):
        for cells in SIZES:
            x = np.random.default_rng(0).standard_normal((cells, 1, 28, 28), np.float32)
            for name, call in calls.items():
                cpu, start = time.process_time(), time.perf_counter()
                timer = Timer("call(x)", globals={"call": call, "x": x})
                times.setdefault((name, cells), []).append(timer.blocked_autorange().median)
                share = (time.process_time() - cpu) / (time.perf_counter() - start)
                busy.setdefault((name, cells), []).append(share)
    results = {
        name: {str(n): statistics.median(times[name, n]) * 1e3 for n in SIZES}
        | {"cores_busy": statistics.median(busy[name, 81])}
        for name in calls
    }
    rows = [[name, *row.values()] for name, row in results.items()]
    table("Inference", ["", "ms per board of 81", "ms for 512 cells", "cores busy (81)"], rows)
    return results
