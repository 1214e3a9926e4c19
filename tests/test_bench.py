# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs and reports its parts. No speed is asserted."""

import importlib
import json
import sys

from conftest import PYTHON, ROOT, run

from digitnet_machine import available_cpus

sys.path.insert(0, str(ROOT / "bench"))
bench = importlib.import_module("bench")

CHAPTER = {"epoch_seconds": 30.0, "validation_seconds": 6.0}


def seeds(*seconds):
    """Return results of the part seeds: each seed's seconds to the target."""
    return {"runs": [{"seconds_to_target": value} for value in seconds]}


def test_a_part_is_measured_and_added_to_the_report(built, tmp_path):
    earlier = {"chapter": {"results": CHAPTER}, "seeds": {"results": seeds(9.0)}}
    (tmp_path / "bench.json").write_text(json.dumps(earlier))
    options = ("--parts", "inference", "photo", "--quick", "--data", built.data, "--out", tmp_path)
    result = run(PYTHON, ROOT / "bench" / "bench.py", *options, cwd=tmp_path)  # it forks, and its children print
    assert result.code == 0, result.err

    report = json.loads((tmp_path / "bench.json").read_text())
    inference, photo = report.pop("inference"), report.pop("photo")
    assert report == earlier
    assert inference["quick"] and inference["run"]["cpus"] == available_cpus()
    for way, figures in inference["results"].items():
        assert all(value > 0 for value in figures.values()), way
        assert any(line.startswith(f"| {way} |") for line in result.out.splitlines())
    assert len(photo["results"]) == 4 and all(min(seconds) > 0 for seconds in photo["results"].values())
    assert "times as long" not in result.out  # chapter and seeds are of another call
    assert not (tmp_path / "cells").exists()  # linked for training only


def test_the_closing_line_compares_ten_epochs_with_the_slowest_seed():
    line = bench.compare(CHAPTER, seeds(8.0, 9.0, 7.5))
    assert line == (
        "To val acc 0.9928: 9.0 s at worst, of 3 seeds. The chapter's 10 epochs: 360 s, 40 times as long "
        "(their training alone: 300 s, 33 times)"
    )
