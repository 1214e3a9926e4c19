"""How the cost grows with the data: the same cells under more names, trained on for one epoch."""

import argparse
import os

import numpy as np
from measure import table, train_measured


def bench_growth(args: argparse.Namespace) -> dict:
    """The same cells under more names (hard links): one epoch, whole, as a user waits for it."""
    results = []
    for times in args.sizes:
        folder = args.out / "growth" / f"{times}x"
        for split in ("train", "val"):
            for label in range(10):
                target = folder / split / str(label)
                target.mkdir(parents=True, exist_ok=True)
                for entry in os.scandir(args.data / split / str(label)):
                    for copy in range(times):
                        if not (target / f"{copy}{entry.name}").exists():
                            os.link(entry.path, target / f"{copy}{entry.name}")
        small = argparse.Namespace(**vars(args) | {"data": folder})
        result = train_measured(small, f"growth/out{times}", "--train-only", "--epochs", 1)
        results.append({"times": times, "seconds": result["seconds"], "peak_mib": result["peak_mib"]})
    lines = {key: np.polyfit(args.sizes, [r[key] for r in results], 1).tolist() for key in ("seconds", "peak_mib")}
    rows = [[f"{r['times']}x", r["seconds"], r["peak_mib"], "measured"] for r in results]
    rows += [
        [f"{n}x", *(float(np.polyval(line, n)) for line in lines.values()), "fitted"]
        for n in (10, 100)
        if n > max(args.sizes)
    ]
    table("More data: load and one epoch, start to end", ["data", "s", "peak MiB", ""], rows)
    per, base = lines["peak_mib"]
    full = {gib: (gib * 1024 - base) / per for gib in (1, 4, 16)}
    print("\nMemory is full: " + ", ".join(f"{gib} GiB at {n:.0f}x" for gib, n in full.items()) + " (fitted)")
    sizes = [path.stat().st_blocks * 512 for split in ("train", "val") for path in (args.data / split).glob("*/*")]
    left = os.statvfs(args.data).f_favail / len(sizes)
    print(f"On disk 1x is {len(sizes):,} files in {sum(sizes) / 2**20:.0f} MiB; the files left here are {left:.0f}x")
    return {"measured": results, "line": lines, "files": len(sizes), "bytes_on_disk": sum(sizes)}
