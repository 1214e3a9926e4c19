#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Count and draw the errors of an ONNX file: on held-out cells, pages and real newspapers. Needs no torch.

validation cells   every cell of data/val
camera pages       the camera's validation pages, straightened at slightly wrong corners, as a grid detector
                   would find them, with the crop margin of the later chapters' grid processor, 12 %
real boards        data/real/boards, from photos of newspapers, at crop margins 0 %, 6 % and 12 %
real photos        data/real/photos, whole photos, in which reading/ finds and reads the board

Nothing is trained on real boards and photos, and no epoch is chosen by them. Those that `make real` makes by default
are development boards and photos: pages, recipes and the reader's thresholds were chosen while looking at them.

Counts cells twice: with each cell whose best probability is below 0.65 taken as blank, as later chapters' clients do,
and without. Writes artifacts/evaluation.json, its summary as evaluation.txt, and pictures: confusion_matrix.png,
misread_cells.png, learning_curve.png from the training.json beside the ONNX file, and
misread_photos.png. Reports what falls short: less than --min-accuracy of the validation cells is right, more than one
camera page in a hundred is misread, or any photo that is called verified.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.realpath(__file__)))  # PYTHONSAFEPATH leaves it out
from digitnet_cli import UserError, argument_parser, keep_inputs, positive_float, positive_int, run_script, seed

# isort: split
import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from tqdm import tqdm

import digitnet_boards as boards
import digitnet_pictures as pictures
import digitnet_scores as scores
from digitnet_data import CONFIDENCE_THRESHOLD, REAL_BOARDS, Cells, remake
from digitnet_machine import sha256, write_file, write_json
from digitnet_onnx import classify, open_session
from digitnet_pictures import CLASS_NAMES, PhotoReading
from digitnet_scores import KINDS, Predictions, describe_run
from reading.board import read_board

# --- settings: those of the command line stand in parse_args -----------------------------------
MIN_ACCURACY = 99.28  # percent of the validation cells: what the chapter reaches
CORNER_ERROR = 0.006  # standard deviation of each coordinate of a corner, as a fraction of the board's side
VALIDATION, REAL = "validation cells", "real boards"  # the last: all crop margins together
CAMERA, PHOTO = "camera pages", "photo pages"  # of the chapter's pages, of the photo style's
WHERE = "`make real` makes them from a clone of https://github.com/wichtounet/sudoku_dataset"


def parse_args() -> argparse.Namespace:
    """Read the command line; args.real stays None without --real, as a missing default folder is no error."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--onnx", type=Path, default=Path("artifacts/sudoku_digitnet.onnx"), metavar="FILE", help="the exported model")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with val/ and grids/")
    add("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="folder to write to")
    add("--real", type=Path, metavar="DIR", help="real boards and photos, by tools/real.py (data/real if not given)")
    add("--seed", type=seed, default=0, help="of the wrong corners")
    add("--draws", type=positive_int, default=5, metavar="N", help="wrong corners drawn for each page")
    add("--min-accuracy", type=positive_float, default=MIN_ACCURACY, metavar="PERCENT", help="of validation cells")
    add("--check", action="store_true", help="end with exit code 1 if something falls short, see above")
    return parser.parse_args()


def predict(session: onnxruntime.InferenceSession, cells: Cells) -> Predictions:
    """Classify every cell."""
    return Predictions(cells, *classify(session, cells.pixels))


def cut_pages(folder: Path, rng: np.random.Generator, draws: int) -> Cells:
    """Cut the camera pages of `folder`/val, each page straightened `draws` times at slightly wrong corners."""
    pages = [page for page in boards.read_pages(folder / "val.csv") if page.file.endswith("_cam.png")]
    pixels, givens, names = [], [], []
    for page in tqdm(pages, desc="pages"):
        image = boards.load_photo(folder / "val" / page.file)
        side = np.linalg.norm(page.corners - np.roll(page.corners, 1, axis=0), axis=1).mean()
        for draw in range(draws):
            found = page.corners + rng.normal(0, CORNER_ERROR * side, (4, 2))
            pixels.append(boards.cut_cells(boards.rectify(image, found, boards.BOARD_SIDE), boards.CROP_MARGINS[-1]))
            givens.append(page.givens)
            names.append(f"{Path(page.file).stem}-{draw}")
    return boards.label_boards(pixels, givens, names)


def predict_sets(session: onnxruntime.InferenceSession, args: argparse.Namespace) -> dict[str, Predictions]:
    """Classify every set that exists, by name; print which are skipped."""
    predictions = {VALIDATION: predict(session, boards.load_split(args.data, "val"))}
    grids = args.data / "grids"
    if (grids / "val.csv").exists():
        kind = CAMERA if any((grids / "val").glob("*_clean.png")) else PHOTO
        predictions[kind] = predict(session, cut_pages(grids, np.random.default_rng(args.seed), args.draws))
    else:
        print(f"skipping camera pages: no {grids / 'val.csv'}")
    if (args.real / "labels.csv").exists():
        margins = {f"{margin:.0%} cut": margin for margin in boards.CROP_MARGINS}
        cropped = {name: predict(session, boards.load_boards(args.real, margin)) for name, margin in margins.items()}
        predictions |= {f"{REAL}, {name}": part for name, part in cropped.items()}
        predictions[REAL] = scores.concatenate(cropped)
    else:
        print(f"skipping real boards: no {args.real / 'labels.csv'}; {WHERE}")
    return predictions


def read_whole_photos(args: argparse.Namespace) -> list[PhotoReading]:
    """Find and read the board in every photo, with one thread; print if there are no photos."""
    table = args.real / "photos" / "photos.csv"
    if not table.exists():
        print(f"skipping real photos: no {table}")
        return []
    session = open_session(args.onnx)
    cv2.setNumThreads(1)
    readings = []
    for photo in tqdm(boards.read_photos(table), desc="photos"):
        start = time.perf_counter()
        reading = read_board(session, boards.load_photo(table.with_name(photo.file)))
        readings.append(PhotoReading(photo, reading, time.perf_counter() - start))
    return readings


def print_report(report: dict[str, dict]) -> None:
    """Print the counts for people, a line per set."""
    print(f"Errors, with cells below {CONFIDENCE_THRESHOLD} taken as blank{'and without that rule':>63}")
    print(f"{'':22}" + "".join(f"{kind:>15}" for kind in KINDS) + f"{'cells':>10}{'boards':>8}")
    for name, entry in report.items():
        rule, plain = entry["thresholded"], entry["best_class"]
        counts = [f"{rule[f'wrong_{kind}']:,}/{rule[kind]:,}" for kind in KINDS]
        print(
            f"{name:22}{''.join(f'{text:>15}' for text in counts)}{plain['wrong_cells']:10,}{plain['wrong_boards']:8,}"
        )
    print("Confidence: mean probability of right cells, right digits that the rule makes blank; worst mistakes")
    for name, entry in report.items():
        mean, lost = entry["confidence"]["mean_of_right_cells"], entry["confidence"]["right_digits_below"]
        mistakes = [
            f"{mistake['times']:,} x {CLASS_NAMES[mistake['truth']]} as {CLASS_NAMES[mistake['guess']]}"
            for mistake in entry["worst_confusions"][:3]
        ]
        print(f"{name:22}{mean:15.3f}{lost:15,}    {', '.join(mistakes) or 'none'}")


def summarize_evaluation(report: dict[str, dict], photos: dict | None) -> str:
    """Return the main error counts, with the threshold, as one line."""
    parts = []
    for name in (name for name in (VALIDATION, CAMERA, REAL) if name in report):
        parts.append(f"{name}: {scores.count_wrong(report[name]['thresholded'], ('cells', 'digits', 'boards'))} wrong")
    if photos:
        counts = photos["all"]
        wrong_photos = f"{counts['photos'] - counts['right']} of {counts['photos']} wrong"
        parts.append(f"real photos: {wrong_photos}, {counts['verified_wrong']} of them verified")
    return "; ".join(parts)


def draw_history(history: Path, picture: Path) -> None:
    """Draw the learning curve from training.json. Raises UserError if that is not what 03_Training.py writes."""
    if not history.exists():
        return print(f"skipping the learning curve: no {history}")
    try:
        record = json.loads(history.read_bytes())
        pictures.learning_curve(record["epochs"], record["best_epoch"], picture)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problem = f"{history} is not what 03_Training.py writes ({error!r:.200})"
        weights = next(history.parent.glob("*_best.pth"), history.with_name("digitnet_best.pth"))
        raise UserError(f"{problem}: {remake(weights, 'train')}") from None


def draw_pictures(predictions: dict[str, Predictions], photos: list[PhotoReading], args: argparse.Namespace) -> None:
    """Draw the pictures whose sources exist."""
    draw_history(args.onnx.with_name("training.json"), args.out / "learning_curve.png")  # first: it may raise
    shown = {name: predictions[name] for name in (VALIDATION, REAL) if name in predictions}
    tables = {name: scores.confusion(part.cells.labels, part.thresholded) for name, part in shown.items()}
    title = f"{args.onnx}, cells below {CONFIDENCE_THRESHOLD} taken as blank"
    pictures.confusion_matrices(tables, title, args.out / "confusion_matrix.png")
    name, part = list(shown.items())[-1]
    pictures.misread_cells(part, name, args.out / "misread_cells.png")
    photo_sheet = args.out / "misread_photos.png"
    photo_sheet.unlink(missing_ok=True)  # of other photos
    if photos:
        pictures.misread_photos(photos, args.real / "photos", photo_sheet)


def shortfalls(report: dict[str, dict], photos: dict | None, min_accuracy: float) -> list[str]:
    """List what falls short of --min-accuracy, of 99 in 100 camera pages, or of no wrong photo called verified."""
    cells, found = report[VALIDATION]["best_class"], []
    right = 100 * (1 - cells["wrong_cells"] / cells["cells"])
    if right < min_accuracy:
        found.append(f"{right:.2f} % of the validation cells are right, not {min_accuracy:g} %")
    if CAMERA in report and (pages := report[CAMERA]["thresholded"])["wrong_boards"] > pages["boards"] / 100:
        found.append(f"{pages['wrong_boards']} of {pages['boards']} camera pages are misread")
    if photos and photos["all"]["verified_wrong"]:
        found.append(f"{photos['all']['verified_wrong']} photos are called verified, but misread")
    return found


def main(args: argparse.Namespace) -> None:
    """Read all sets, print and write the counts, draw the pictures. Raises UserError if --check finds a shortfall."""
    if args.real and not args.real.is_dir():
        raise UserError(f"no folder {args.real}: name one that holds real boards, or leave --real out (make REAL=)")
    args.real = args.real or REAL_BOARDS
    keep_inputs([args.out / "evaluation.json", args.out / "evaluation.txt"], [args.onnx])
    predictions = predict_sets(open_session(args.onnx), args)
    photos = read_whole_photos(args)
    report = {name: scores.describe_predictions(part) for name, part in predictions.items()}
    print_report(report)
    described = pictures.describe_photos(photos) if photos else None
    if described:
        print(pictures.table_of_photos(described))
    draw_pictures(predictions, photos, args)
    found = shortfalls(report, described, args.min_accuracy)
    content: dict = {"summary": summarize_evaluation(report, described), "falls_short": found, "sets": report}
    content |= {"photos": described, "sha256": {str(args.onnx): sha256(args.onnx)}, "run": describe_run()}
    write_json(args.out / "evaluation.json", content)
    lines = [content["summary"], *(f"falls short: {shortfall}" for shortfall in found)]
    write_file(args.out / "evaluation.txt", "".join(f"{line}\n" for line in lines).encode())
    print(f"Saved: {args.out}/evaluation.json and pictures beside it")
    if args.check and found:
        raise UserError(f"{args.onnx} falls short: {'; '.join(found)}: train on more puzzles, longer, or another seed")


if __name__ == "__main__":
    run_script(main, parse_args())
