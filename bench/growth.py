"""How the cost grows with the data: the same cells under more names, trained on for one epoch."""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
from measure import table, train_measured

SPLITS = ("train", "val")
FITTED = (10, 100)  # times the data, for which the fitted line is told
MEMORIES = (1, 4, 16)  # GiB, for which is told when they are full


def link_cells(data: Path, folder: Path, times: int) -> None:
    """Makes `folder` hold every cell of `data` under `times` names (hard links), and nothing else.

    Raises OSError if the two lie on different file systems.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of other data, perhaps, if a benchmark was interrupted
    for split in SPLITS:
        for label in range(10):
            target = folder / split / str(label)
            target.mkdir(parents=True)
            for entry in os.scandir(data / split / str(label)):
                for copy in range(times):
                    os.link(entry.path, f"{target}/{copy}_{entry.name}")


def measure_size(data: Path, out: Path, times: int) -> dict:
    """One epoch on `times` the data, whole, as a user waits for it: `times`, `seconds`, `peak_mib`."""
    folder = out / f"{times}x"
    try:
        link_cells(data, folder, times)
        run = train_measured(folder, out / f"out{times}", "--train-only", "--epochs", 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"times": times, "seconds": run["seconds"], "peak_mib": run["peak_mib"]}


def fit(measured: list[dict]) -> dict[str, list[float]]:
    """`seconds` and `peak_mib` as lines over the size: [for each time the data, fixed]; {} without two sizes."""
    sizes = [row["times"] for row in measured]
    if len(set(sizes)) < 2:
        return {}
    return {key: np.polyfit(sizes, [row[key] for row in measured], 1).tolist() for key in ("seconds", "peak_mib")}


def tell(measured: list[dict], lines: dict[str, list[float]]) -> None:
    """Prints what was measured and, if lines were fitted, what they say of more data."""
    rows = [[f"{row['times']}x", row["seconds"], row["peak_mib"], "measured"] for row in measured]
    for times in FITTED if lines else ():
        if times > max(row["times"] for row in measured):
            more = [float(np.polyval(line, times)) if line[0] > 0 else "-" for line in lines.values()]
            rows.append([f"{times}x", *more, "fitted"])
    table("More data: load and one epoch, start to end", ["data", "s", "peak MiB", ""], rows)
    if not lines:
        print("\nNothing is fitted: that takes two different sizes")
    elif (per := lines["peak_mib"][0]) > 0:
        full = {gib: (gib * 1024 - lines["peak_mib"][1]) / per for gib in MEMORIES}
        print("\nMemory is full: " + ", ".join(f"{gib} GiB at {n:.0f}x" for gib, n in full.items()) + " (fitted)")
    else:
        print("\nWhen memory is full is not fitted: what the cells add is lost in the noise")


def bench_growth(args: argparse.Namespace) -> dict:
    """Seconds and memory for the sizes of --sizes, each run once; the fitted lines; files and bytes on the disk."""
    measured = [measure_size(args.data, args.out / "growth", times) for times in args.sizes]
    lines = fit(measured)
    tell(measured, lines)
    sizes = [path.stat().st_blocks * 512 for split in SPLITS for path in (args.data / split).glob("*/*")]
    print(f"On disk 1x is {len(sizes):,} files in {sum(sizes) / 2**20:.0f} MiB", end="")
    disk = os.statvfs(args.data)  # some file systems have no limit of files, and say 0
    print(f"; the files left here are {disk.f_favail / len(sizes):.0f}x" if disk.f_files else "")
    return {"measured": measured, "line": lines, "files": len(sizes), "bytes_on_disk": sum(sizes)}
