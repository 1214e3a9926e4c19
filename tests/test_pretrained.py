# SPDX-License-Identifier: Apache-2.0
"""The pretrained file keeps the contract, and its card matches it."""

import hashlib

from conftest import ROOT, script

from digitnet_onnx import contract_failures, open_session
from pages.camera import draw_photos
from reading.board import read_board

MODEL = ROOT / "pretrained" / "sudoku_digitnet_photo.onnx"


def test_the_card_names_the_file_and_the_file_keeps_the_contract():
    card = (ROOT / "pretrained" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in card
    assert contract_failures(MODEL) == []
    assert MODEL.stat().st_size <= 250_000


def test_the_pretrained_file_reads_drawn_photos():
    session, right = open_session(MODEL), 0
    for puzzle, photo in draw_photos(12):
        reading = read_board(session, photo.view)
        digits = "" if reading.digits is None else "".join(map(str, reading.digits))
        right += digits == puzzle
        assert digits == puzzle or reading.verdict != "verified"
    assert right >= 6


def test_a_card_is_not_written_for_another_models_report(built, tmp_path):
    options = ("--artifacts", built.out, "--out", tmp_path)
    assert script("tools/pretrained.py", *options).code == 0
    assert hashlib.sha256((built.out / "sudoku_digitnet.onnx").read_bytes()).hexdigest() in (
        tmp_path / "README.md"
    ).read_text(encoding="utf-8")
    (tmp_path / "evaluation.json").write_text('{"sets": {}, "sha256": {"x": "0"}}')
    result = script("tools/pretrained.py", *options, "--evaluation", tmp_path / "evaluation.json")
    assert result.code == 1 and "is of another ONNX file" in result.err
