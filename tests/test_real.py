# SPDX-License-Identifier: Apache-2.0
"""Real boards and photos from a clone of the public data set, here a tiny one in its form, drawn by our generator."""

import csv
import shutil

import cv2
import numpy as np
import pytest
from conftest import PYTHON, ROOT, call, run
from PIL import Image

from digitnet_boards import CORNER_COLUMNS, load_boards, read_photos, rectify
from pages.camera import draw_photos

ROTATE = {1: None, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # how EXIF's value is undone when saved
# name: (EXIF's orientation, quarter turns of the board, factor of size)
PHOTOS = {"image1": (1, 0, 1), "image2": (6, 0, 1), "image3": (8, 0, 3), "image1031": (1, 1, 1), "image1083": (1, 2, 1)}


def save(path, view, orientation):
    """Save a photo that is upright only if its EXIF orientation is applied."""
    image = Image.fromarray(view).convert("RGB")
    image = image if ROTATE[orientation] is None else image.transpose(ROTATE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=95, exif=exif)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The clone: five good photos, a twin, one without corners, one with other digits; a photo of the test part."""
    folder = tmp_path_factory.mktemp("data") / "clone"
    for name in ("images", "datasets"):
        (folder / name).mkdir(parents=True)
    outlines, truth = [], {}
    names = [*PHOTOS, "image28", "image103", "image4", "image5"]
    drawn = list(draw_photos(len(names)))
    for name, (givens, photo) in zip(names, drawn, strict=True):
        orientation, turn, factor = PHOTOS.get(name, (1, 0, 1))
        view = cv2.resize(photo.view, None, fx=factor, fy=factor)
        corners = factor * (photo.corners + 0.5) - 0.5
        side = len(view)
        for _ in range(turn):  # a quarter turn clockwise; the outline starts at the picture's top left all the same
            view = np.ascontiguousarray(np.rot90(view, -1))
            corners = np.stack([side - 1 - corners[:, 1], corners[:, 0]], axis=1)
        outline = np.roll(corners, turn, axis=0)
        save(folder / "images" / f"{name}.jpg", view, orientation)
        truth[name] = givens, corners, view
        if name == "image4":  # as if the board had been turned
            givens = "".join(np.rot90(np.array([*givens]).reshape(9, 9)).ravel())
        rows = "\n".join(" ".join(givens[i : i + 9]) for i in range(0, 81, 9))
        (folder / "images" / f"{name}.dat").write_text(f"a phone\n{side}x{side}:24 JPG\n{rows}\n")
        if name != "image103":
            outlines.append([f"./images/{name}.jpg", *outline.ravel().round(2)])
    with (folder / "outlines_sorted.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([["filepath", *(f"p{i}_{axis}" for i in range(1, 5) for axis in "xy")], *outlines])
    for part, of in (("train", names[:-1]), ("test", names[-1:])):
        (folder / "datasets" / f"v2_{part}.desc").write_text("".join(f"images/{name}.jpg\n" for name in of))
    return folder, truth


@pytest.fixture(scope="module")
def real(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "out"
    result = call("tools/real.py", dataset[0], "--out", folder).ok()
    return folder, result


def test_photos_come_upright_with_their_digits_corners_and_turns(dataset, real):
    folder, result = real
    assert result.out == f"5 boards and photos in {folder}; left out: image28, image103, image4\n"
    photos = {photo.file.removesuffix(".jpg"): photo for photo in read_photos(folder / "photos" / "photos.csv")}
    assert list(photos) == list(PHOTOS)
    for name, photo in photos.items():
        givens, corners, view = dataset[1][name]
        image = cv2.imread(str(folder / "photos" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        scale = min(1, 1000 / len(view))
        assert (photo.givens, photo.turn, photo.kind) == (givens, 90 * PHOTOS[name][1], "newspaper")
        assert len(image) == round(scale * len(view)) <= 1000
        assert np.abs(photo.corners - scale * corners).max() < 1
        assert np.abs(image - cv2.resize(view, image.shape[::-1], interpolation=cv2.INTER_AREA).astype(int)).mean() < 4
    assert max(len(view) for _, _, view in dataset[1].values()) > 1000  # one had to be shrunk
    with (folder / "photos" / "photos.csv").open() as file:
        row = next(csv.DictReader(file))
    assert list(row) == ["photo", "givens", *CORNER_COLUMNS, "turn", "kind", "source", "licence"]
    assert (row["source"], row["licence"]) == ("github:wichtounet/sudoku_dataset:images/image1.jpg", "CC-BY-4.0")
    assert "CC-BY-4.0" in (folder / "README.md").read_text()


def test_boards_are_straightened_upright_with_their_digits(dataset, real):
    cells = load_boards(real[0], 0)
    assert cells.pixels.shape == (5 * 81, 28, 28)
    for i, name in enumerate(PHOTOS):
        givens, corners, view = dataset[1][name]
        assert "".join(map(str, cells.labels[81 * i : 81 * i + 81])) == givens
        board = cv2.imread(str(real[0] / "boards" / f"{name}.jpg"), cv2.IMREAD_UNCHANGED)
        assert board.shape == (450, 450) and np.abs(rectify(view, corners, 450) - board.astype(int)).mean() < 4


def test_the_test_part_can_be_chosen_and_nothing_is_overwritten(dataset, tmp_path, snapshot):
    out = tmp_path / "data" / "real"
    result = call("tools/real.py", dataset[0], "--part", "test", "--out", out)
    assert result.code == 0 and result.out == f"1 boards and photos in {out}\n"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "boards", "labels.csv", "photos"]
    assert [path.name for path in (out / "boards").iterdir()] == ["image5.jpg"]
    before = snapshot(tmp_path)
    result = call("tools/real.py", dataset[0], "--out", out)
    assert result.code == 1 and f"{out} already exists: remove it" in result.err
    assert snapshot(tmp_path) == before


# A file of the clone, what it holds (None: it is missing), and the message.
DAMAGE = {
    "no list": ("datasets/v2_train.desc", None, "cannot read {}/datasets/v2_train.desc: give a complete"),
    "an empty list": ("datasets/v2_train.desc", b"", "{} has no photo with digits and"),
    "wrong corners": ("outlines_sorted.csv", b"a\nx/image1.jpg,1,2\n", "{}/outlines_sorted.csv is not a list"),
    "an empty table": ("outlines_sorted.csv", b"", "{}/outlines_sorted.csv is not a list of"),
    "no photo": ("images/image1.jpg", None, "No such file or directory: {}/images/image1.jpg"),
    "a broken photo": ("images/image1.jpg", b"\xff\xd8", "{}/images/image1.jpg is not a readable image"),
    "too few digits": ("images/image1.dat", b"a\nb\n1 2\n", "{}/images/image1.dat does not end in 9 rows of 9 digits"),
    "digits as bytes": ("images/image1.dat", b"\xff\xfe", "cannot read {}/images/image1.dat"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_folder_that_is_no_clone_is_reported_in_one_line(dataset, tmp_path, name):
    clone = shutil.copytree(dataset[0], tmp_path / "clone")
    file, content, message = DAMAGE[name]
    (clone / file).unlink()
    if content is not None:
        (clone / file).write_bytes(content)
    result = call("tools/real.py", clone, "--out", tmp_path / "out")
    assert result.code == 1 and message.format(clone) in result.err and result.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"clone"}  # nothing is left over


def test_make_real_asks_for_the_clone_and_make_clean_keeps_what_it_makes(dataset, tmp_path, snapshot):
    for path in ("Makefile", *(path.name for path in ROOT.glob("digitnet_*.py")), "tools/real.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    result = run("make", "real", "VENV=", cwd=tmp_path)
    assert result.code == 2 and "make real needs DATASET=" in result.err and not (tmp_path / "data").exists()
    result = run("make", "real", f"DATASET={dataset[0]}", f"PYTHON={PYTHON}", cwd=tmp_path).ok()
    made = snapshot(tmp_path / "data" / "real")
    assert len(made) == 5 + 5 + 3
    for profile in ("tutorial", "photo"):
        data = tmp_path / ("data" if profile == "tutorial" else "data/photo")
        (data / "train").mkdir(parents=True)
        (data / ".made-by-02_PrepareData.py").touch()
        run("make", "clean", f"PROFILE={profile}", cwd=tmp_path).ok()
        assert not (data / "train").exists()
    assert snapshot(tmp_path / "data" / "real") == made
