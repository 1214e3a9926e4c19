"""The benchmark measures what it says it does. How fast anything is, is never asserted."""

import importlib
import json
import os
import sys

from digitnet_cli import available_cpus

import pytest
from conftest import ROOT, run, script

sys.path.insert(0, str(ROOT / "bench"))
measure, growth, bench = (importlib.import_module(name) for name in ("measure", "growth", "bench"))

STAGES = ["augmentation", "forward", "backward", "optimiser", "evaluation"]
CHAPTER = {"epoch_seconds": 30.0, "validation_seconds": 6.0}


def seeds(*seconds):
    """Results of the part seeds: how long each seed took to the target."""
    return {"runs": [{"seconds_to_target": value} for value in seconds]}


def test_steps_are_measured_in_every_way_and_added_to_the_report(built, tmp_path):
    earlier = {"chapter": {"results": CHAPTER}, "seeds": {"results": seeds(9.0)}}
    (tmp_path / "bench.json").write_text(json.dumps(earlier))
    options = ("--parts", "steps", "--quick", "--data", built.data, "--out", tmp_path)
    result = script("bench/bench.py", *options, cwd=tmp_path)
    assert result.code == 0, result.err

    report = json.loads((tmp_path / "bench.json").read_text())
    steps = report.pop("steps")
    assert report == earlier
    assert steps["quick"] and steps["run"]["cpus"] == available_cpus()
    threads = {f"{n} thread{'s' * (n > 1)}" for n in (1, available_cpus())}
    ways = {f"{name}, {kind}" for name in threads for kind in ("float32", "bfloat16")}
    assert set(steps["results"]) == ways | {f"{max(threads)}, float32, memory not kept"}
    for way, stages in steps["results"].items():
        assert list(stages) == STAGES and all(value > 0 for value in stages.values()), way

    lines = result.out.splitlines()
    assert f"|  | {' | '.join(STAGES)} | step: cells/s |" in lines
    for way in steps["results"]:
        assert [line.count("|") for line in lines if line.startswith(f"| {way} |")] == [len(STAGES) + 3]
    assert "times as long" not in result.out  # chapter and seeds are of another call


def test_without_packages_one_line_says_what_is_missing(tmp_path):
    result = run(sys.executable, "-S", ROOT / "bench" / "bench.py", cwd=tmp_path)
    assert result.code == 1 and result.err.count("\n") == 1
    assert "bench.py: " in result.err and "has no package numpy" in result.err


def inodes(folder):
    """Which files lie in each class of train and val, names apart: (split, class) -> their inodes, sorted."""
    classes = [(split, entry.name) for split in ("train", "val") for entry in (folder / split).iterdir()]
    return {(s, name): sorted(f.stat().st_ino for f in (folder / s / name).iterdir()) for s, name in classes}


@pytest.mark.parametrize("times", [1, 2])
def test_growth_links_every_cell_and_nothing_else(built, tmp_path, times):
    stale = tmp_path / "linked" / "train" / "0" / "of_other_data.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    growth.link_cells(built.data, tmp_path / "linked", times)
    expected = {where: sorted(files * times) for where, files in inodes(built.data).items()}
    assert len(expected) == 20 and inodes(tmp_path / "linked") == expected


def test_growth_removes_its_links(built, tmp_path, monkeypatch):
    def train(data, out, *options):
        assert len(os.listdir(data / "val" / "0")) == 3 * len(os.listdir(built.data / "val" / "0"))
        return {"seconds": 5.0, "peak_mib": 700.0}

    monkeypatch.setattr(growth, "train_measured", train)
    assert growth.measure_size(built.data, tmp_path, 3) == {"times": 3, "seconds": 5.0, "peak_mib": 700.0}
    assert not (tmp_path / "3x").exists()


def sizes(*times, seconds=3.0, mib=100.0):
    """What growth measures where each size adds `seconds` and `mib` to 5 s and 600 MiB."""
    return [{"times": n, "seconds": 5 + seconds * n, "peak_mib": 600 + mib * n} for n in times]


def test_growth_fits_the_line_that_is_there(capsys):
    lines = growth.fit(sizes(1, 2, 4))
    assert lines["seconds"] == pytest.approx([3, 5]) and lines["peak_mib"] == pytest.approx([100, 600])
    growth.tell(sizes(1, 2, 4), lines)
    out = capsys.readouterr().out
    assert "| 4x | 17 | 1,000 | measured |" in out and "| 100x | 305 | 10,600 | fitted |" in out
    assert "1 GiB at 4x, 4 GiB at 35x" in out


@pytest.mark.parametrize("times", [(1,), (2, 2)])
def test_growth_fits_nothing_through_one_size(capsys, times):
    assert growth.fit(sizes(*times)) == {}
    growth.tell(sizes(*times), {})
    out = capsys.readouterr().out
    assert out.count("measured") == len(times) and "Nothing is fitted" in out and "Memory is full" not in out


def test_growth_tells_no_end_of_memory_that_does_not_grow(capsys):
    growth.tell(sizes(1, 2, mib=-10.0), growth.fit(sizes(1, 2, mib=-10.0)))
    out = capsys.readouterr().out
    assert "| 100x | 305 | - | fitted |" in out and "Memory is full" not in out


def test_a_time_is_the_median_of_five_calls_or_more_after_two(monkeypatch):
    calls, clock = [], [0.0]

    def slower():  # each call takes a second more than the one before
        calls.append(len(calls) + 1)
        clock[0] += calls[-1]

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    assert measure.median_time(slower, 0) == 5 and len(calls) == 7  # 3, 4, 5, 6, 7 seconds count
    calls.clear()
    assert measure.median_time(slower, 40) == 6 and len(calls) == 9  # until 42 seconds have passed


def test_stages_are_timed_each_by_itself(monkeypatch):
    clock = [0.0]

    def work():
        for stage, seconds in (("first", 3), ("second", 20)):
            clock[0] += seconds
            yield stage

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    assert measure.median_stages(work, 0) == {"first": 3, "second": 20}


def test_the_closing_line_compares_ten_epochs_with_the_slowest_seed():
    line = bench.compare(CHAPTER, seeds(8.0, 9.0, 7.5))
    assert line == (
        "To val acc 0.9928: 9.0 s at worst, of 3 seeds. The chapter's 10 epochs: 360 s, 40 times as long "
        "(their training alone: 300 s, 33 times)"
    )


def test_a_seed_that_did_not_reach_the_target_is_named():
    line = bench.compare(CHAPTER, seeds(8.0, None, 7.5))
    assert "not reached by seed 1:" in line and "times" not in line
