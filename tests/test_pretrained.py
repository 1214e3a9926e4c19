# SPDX-License-Identifier: Apache-2.0
"""The pretrained file keeps the contract, and its card matches it."""

import hashlib

from conftest import ROOT

from digitnet_onnx import contract_failures, open_session
from pages.camera import draw_photos
from reading.board import read_board

MODEL = ROOT / "pretrained" / "sudoku_digitnet_photo.onnx"


def test_the_card_names_the_file_and_the_file_keeps_the_contract():
    card = (ROOT / "pretrained" / "README.md").read_text(encoding="utf-8")
    content = MODEL.read_bytes()
    assert f"| {hashlib.sha256(content).hexdigest()} |" in card and f"| {len(content):,} bytes |" in card
    assert contract_failures(MODEL) == []


def test_the_pretrained_file_reads_drawn_photos():
    session, right = open_session(MODEL), 0
    for puzzle, photo in draw_photos(12):
        reading = read_board(session, photo.view)
        digits = "" if reading.digits is None else "".join(map(str, reading.digits))
        right += digits == puzzle
        assert digits == puzzle or reading.verdict != "verified"
    assert right >= 6
