# SPDX-License-Identifier: Apache-2.0
"""Cells are read unchanged or refused by name; augmentation adds nothing that photos lack."""

import argparse
import importlib
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from digitnet_boards import cut_cells, label_boards, load_split, rectify
from digitnet_cli import UserError
from digitnet_data import Cells, duplicate_pages, light_on_dark, load_cells, normalize, parse_name
from digitnet_training import augment, draw_augmentation


@pytest.fixture
def folder(tmp_path):
    """Ten class folders with two cells each; a cell of class c is all 10 * c."""
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for i in range(2):
            cv2.imwrite(str(tmp_path / str(label) / f"00000{i}_clean_00.png"), np.full((28, 28), 10 * label, np.uint8))
    return tmp_path


def test_normalize_is_the_tutorials_totensor_and_normalize():
    from torchvision import transforms

    pixels = np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])(pixels[..., None])
    np.testing.assert_allclose(normalize(pixels), theirs[0], atol=1e-7)


def test_load_cells_gives_pixels_labels_and_places_in_order(folder):
    cells = load_cells(folder)
    assert cells.pixels.shape == (20, 28, 28)
    assert cells.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert (cells.pixels == 10 * cells.labels[:, None, None]).all()
    assert cells.boards[:2].tolist() == ["000000_clean", "000001_clean"]
    assert cells.places.tolist() == [0] * 20


def test_several_processes_load_the_same_cells_and_report_the_same_errors(folder, monkeypatch):
    alone = load_cells(folder)
    monkeypatch.setattr("digitnet_data.CHUNK", 7)
    monkeypatch.setattr("digitnet_data.available_cpus", lambda: 3)
    for cells, expected in zip(load_cells(folder), alone, strict=True):
        assert (cells == expected).all()
    (folder / "5" / "000001_clean_00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"5/000001_clean_00.png is not a readable image"):
        load_cells(folder)


@pytest.mark.parametrize("dim", [1, 0.1])
def test_digits_that_are_light_on_dark_are_reported(built, monkeypatch, capsys, dim):
    training = importlib.import_module("03_Training")
    for split, warned in (("train", False), ("calibration", False), ("train", True), ("calibration", True)):
        cells = load_split(built.data, split)  # calibration: photos, of which some are dark
        cells = cells._replace(pixels=(dim * (255 - cells.pixels if warned else cells.pixels)).astype(np.uint8))
        assert light_on_dark(cells) == warned
        monkeypatch.setattr(training, "load_split", mock.Mock(return_value=cells))
        monkeypatch.setattr(training, "duplicate_pages", lambda *_: [])
        training.load_data(argparse.Namespace(data=built.data, batch_size=2))
        assert ("/train are light on dark: " in capsys.readouterr().out) == warned


def test_a_file_name_gives_board_and_place():
    names = {"000012_cam_80.png": ("000012_cam", 80), "my_board_07.png": ("my_board", 7), "five.png": ("five", -1)}
    names |= {"my_board_81.png": ("my_board_81", -1), "img_٣.png": ("img_٣", -1)}
    assert {name: parse_name(name) for name in names} == names


def test_grey_that_is_stored_as_rgb_is_read_as_grey_with_a_note(folder, capsys):
    plain = load_cells(folder)
    assert capsys.readouterr().out == ""
    for path, channels in ((folder / "5" / "000000_clean_00.png", 3), (folder / "6" / "000001_clean_00.png", 4)):
        image = np.repeat(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None], channels, axis=2)
        image[..., 3:] = 255
        cv2.imwrite(str(path), image)
    assert (load_cells(folder).pixels == plain.pixels).all()
    first = folder / "5" / "000000_clean_00.png"
    note = f"{folder}: 2 images store grey as RGB and are read as grey, such as {first}\n"
    assert capsys.readouterr().out == note


@pytest.mark.parametrize(("channels", "value"), [(3, 199), (4, 200)])
def test_one_pixel_in_colour_and_grey_that_is_not_opaque_are_refused(folder, channels, value):
    """tests/bad_input.py has every other kind of bad image and folder."""
    image = np.full((28, 28, channels), 200, np.uint8)
    image[3, 4, 1] = value
    cv2.imwrite(f"{folder}/5/c.png", image)
    with pytest.raises(UserError, match=f"c.png is 28x28x{channels} uint8"):
        load_cells(folder)


def test_rectify_and_cut_find_each_cell_at_its_place():
    board = np.kron(np.arange(81, dtype=np.uint8).reshape(9, 9), np.ones((50, 50), np.uint8))
    page = np.pad(board, ((30, 40), (20, 60)), constant_values=255)
    corners = np.array([(20, 30), (470, 30), (470, 480), (20, 480)], np.float32)
    for margin in (0, 0.06, 0.12):
        cells = cut_cells(rectify(page, corners, 450), margin)
        assert cells.shape == (81, 28, 28)
        assert (cells == np.arange(81)[:, None, None]).all()


def augmented(pixels, seed, **strength):
    cells = normalize(torch.from_numpy(pixels)[:, None])
    return augment(cells, *draw_augmentation(len(cells), torch.Generator().manual_seed(seed), **strength))


def test_augmentation_leaves_white_paper_white():
    strength = dict(degrees=20, translate=0.2, scale=0.3, shear=0.1, blur_probability=0.5, unchanged=0.1)
    x = augmented(np.full((64, 28, 28), 255, np.uint8), 0, **strength)
    assert x.shape == (64, 1, 28, 28)
    torch.testing.assert_close(x, torch.ones_like(x))  # a constant fill would leave grey wedges


def test_augmentation_repeats_with_the_seed_and_leaves_a_fraction_of_the_cells_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), np.uint8)
    strength = dict(degrees=5, translate=0.1, scale=0.25, shear=0.1, blur_probability=0.3, unchanged=0.2)
    x, same, other = (augmented(pixels, seed, **strength) for seed in (0, 0, 1))
    assert torch.equal(x, same) and not torch.equal(x, other)
    change = (x - normalize(torch.from_numpy(pixels)[:, None])).abs().amax((1, 2, 3))
    assert (change < 1e-3).float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert ((change < 1e-3) | (change > 0.1)).all()


def page(name, digits, seed):
    """Return a page's cells with `digits` (81 numbers), their pixels drawn from `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (81, 28, 28), np.uint8)
    return label_boards([pixels], ["".join(map(str, digits))], [name])


def join(*parts):
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def test_pages_in_both_sets_are_found_under_any_name_and_equal_cells_are_not():
    digits, blank = [*range(1, 10), *[0] * 72], [0] * 81
    train = join(page("000000_cam", digits, 0), page("000001_cam", digits, 1), page("000002_cam", blank, 2))
    renamed = page("000007_cam", digits, 1)
    other = page("000000_cam", digits, 3)
    other.pixels[:8] = train.pixels[:8]  # eight of its nine digits are printed alike
    val = join(other, renamed, page("000002_cam", blank, 2))
    assert duplicate_pages(train, val) == ["000007_cam"]
    assert duplicate_pages(train, other) == []
