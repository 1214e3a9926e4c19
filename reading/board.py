# SPDX-License-Identifier: Apache-2.0
"""Read the 81 digits of a Sudoku board from a photo, and judge whether they can be trusted. Needs no torch.

    load_photo -> find_board -> straighten_page -> read_board
    grey pixels   the corners   a square           digits, and a verdict: verified, suspect, or not found

The parts are in reading/: candidate places (proposals.py), likeness to a grid (grid.py), measures of the ink
(ink.py), the network's readings of the cells (cells.py), the rules of Sudoku (rules.py).
"""

from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime

from digitnet_boards import rectangle
from digitnet_data import BLANK
from digitnet_onnx import check_signature
from reading import grid
from reading.cells import CellReadings, changed_digits, crop_margins, possible_readings, raise_contrast, read_upright
from reading.grid import BORDER, SCORE_CELL, Board, Pyramid
from reading.ink import CELL, Ink, darkness_and_light, even_cells, levels, measure_ink, split_cells
from reading.proposals import ink_masks, propose
from reading.rules import Reason, Rules, place_of

# --- finding -----------------------------------------------------------------------------------
DETECTION_SIDE = 1000  # the photo's longer side for detection, in pixels
MIN_DETECTION_SIDE = 600  # smaller photos are enlarged to this: a thin line is then wider than a pixel
MIN_SIDE = 9 * 9  # a photo's shorter side: with fewer pixels a cell holds no digit
MAX_PULLED = 3  # the best proposals of a mask that are refined
FAR_WORSE = 0.5  # of the best score: a worse proposal, even refined, is the same board or none
MIN_SCORE = 0.55  # of a board: more than the four box lines alone, which any 3 x 3 grid has
ENOUGH = 0.65  # a score that ends the search: two thirds of a grid's lines, and none elsewhere
BENT = 0.01  # largest loss in score by a bend: the score hardly sees it, the places of the cells do
LARGER = 1.5  # times the area at which another board replaces the one that scores best

# --- reading -----------------------------------------------------------------------------------
TURN_GAP = 3.0  # least gap in log likelihood to the next best turn: 20 times as likely
SMALL_CELL = 10  # pixels of a cell in the photo: below, no digit is certain
CUT = 0.15  # of a cell: a board whose corners are further beyond the photo's edge is cut off
FAINT = 0.4  # of the contrast of the board's lines: a blank cell with fainter lines may have lost its digit
WHITE, LIGHTER = 250, 50  # grey levels: so may one that is as light as WHITE, and by LIGHTER lighter than its box

VERIFIED, SUSPECT, NOT_FOUND = "verified", "suspect", "not found"


class Reading(NamedTuple):
    """The reading of a photo's board. Cells and digits are those of the board turned upright."""

    verdict: str  # VERIFIED, SUSPECT or NOT_FOUND; in the last case only `reasons` is set
    reasons: list[Reason]  # why it is not VERIFIED
    board: Board | None = None
    corners: np.ndarray | None = None  # float32 [4, 2] x, y in the photo, clockwise from the board's own top left
    turn: int = 0  # clockwise turn of the board in the photo: 0, 90, 180 or 270 degrees
    inverted: bool = False  # light digits on dark cells
    digits: np.ndarray | None = None  # int64 [81], 0 = blank
    probabilities: np.ndarray | None = None  # float32 [81, 10]
    solution: list[int] | None = None  # 81 digits, if there is exactly one
    proposal: tuple[int, int] | None = None  # a cell, and the one other reading of it that gives exactly one solution
    cells: CellReadings | None = None
    place: tuple[Reason, ...] = ()  # those of `reasons` that doubt the board's place or its lines, not the digits


# --- finding -----------------------------------------------------------------------------------


def find_board(photo: np.ndarray) -> Board | None:
    """Find the board in a grey photo, uint8 [H, W], the largest of several; return None if there is none."""
    longer = max(photo.shape)
    if min(photo.shape) < MIN_SIDE:
        return None
    scale = min(DETECTION_SIDE / longer, max(1.0, MIN_DETECTION_SIDE / longer))
    small = photo
    if scale != 1:
        size = [max(1, round(scale * side)) for side in photo.shape[::-1]]
        small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    best = None
    for view in LINE_VIEWS:
        if view is cv2.bitwise_not and best and best.score > MIN_SCORE:
            continue  # it has dark lines
        pyramid = Pyramid(view(small))
        for mask in ink_masks(pyramid.levels[0]):
            board = best_proposal(pyramid, mask)
            if board and (best is None or board.score > best.score):
                best = board
            if best and best.score > ENOUGH:
                return best.scaled(1 / scale)
    return best.scaled(1 / scale) if best and best.score > MIN_SCORE else None


def darken_edges(grey: np.ndarray) -> np.ndarray:
    """Show every edge as a dark line on white, so that lines show in dark and in light boxes and between them."""
    return cv2.bitwise_not(cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))


LINE_VIEWS = np.copy, cv2.bitwise_not, darken_edges  # for dark lines, light ones, and both


def best_proposal(pyramid: Pyramid, mask: np.ndarray) -> Board | None:
    """Return the best board that a mask of ink proposes, refined at its lines; of several boards, the largest."""

    def scored(board: Board) -> Board:
        return board._replace(score=grid.grid_score(pyramid, board))

    tried: list[Board] = []
    found: list[Board] = []
    for board in sorted(map(scored, propose(mask)), key=lambda board: -board.score):
        if any(np.abs(board.corners - other.corners).max() < board.cell / 2 for other in tried):
            continue
        if board.score < FAR_WORSE * max((other.score for other in found), default=0):
            break
        pulled = scored(grid.pull_corners(pyramid, board) if board.bend is None else grid.bend_lines(pyramid, board))
        tried += [board, pulled]
        found.append(max(board, pulled, key=lambda board: board.score))
        if len(found) == MAX_PULLED:
            break
    if not found:
        return None
    best = max(found, key=lambda board: board.score)
    for board in found:
        if board.score > ENOUGH and board.cell**2 > LARGER * best.cell**2:
            best = board
    beside = any(board.score > ENOUGH and is_beside(board, best) for board in found)
    bent = scored(grid.bend_lines(pyramid, best))
    return (bent if bent.score > best.score - BENT else best)._replace(beside=beside)


def is_beside(board: Board, other: Board) -> bool:
    """Return whether a board of about the size of another, or a larger one, lies beside it."""
    apart = np.abs(board.corners.mean(axis=0) - other.corners.mean(axis=0)).max()
    return apart > 4 * (board.cell + other.cell) and LARGER * board.cell**2 > other.cell**2


# --- reading -----------------------------------------------------------------------------------


def read_board(
    session: onnxruntime.InferenceSession,
    photo: np.ndarray,
    board: Board | None = None,
    crop_margin: float | None = None,
) -> Reading:
    """Read the board in a grey photo, uint8 [H, W]; find it first unless `board` is given.

    `crop_margin` is cropped off each side of a cell; by default it depends on the size of the digits.
    Raises UserError if the file of `session` breaks the contract of digitnet_onnx.
    """
    check_signature(session)
    board = board or find_board(photo)
    if board is None:
        cause = f"the photo is smaller than {MIN_SIDE} pixels" if min(photo.shape) < MIN_SIDE else "no 9x9 grid found"
        return Reading(NOT_FOUND, [Reason(f"{cause}: photograph the board whole, flat, sharp and large")])
    whole = straighten_page(photo, board)
    page, ink, inverted = prepare_page(whole)
    crop = crop_margins(ink.size) if crop_margin is None else (crop_margin,)
    rules = Rules()
    cells, gap = read_upright(session, rules, page, ink, crop)
    place = grid_doubts(whole, cells.turn, cells.digits)
    if board.cell < SMALL_CELL:
        place.append(Reason(f"a cell has only {board.cell:.0f} pixels: photograph the board larger"))
    place += [Reason(f"the board is cut off at the {side} edge") for side in cut_sides(board, photo)]
    if board.beside:
        place.append(Reason("another board is in the photo: crop it to one"))
    if gap < TURN_GAP:
        place.append(Reason("its orientation is uncertain"))
    corners = np.roll(grid.photo_points(board, rectangle(0, 0, 9, 9)), -cells.turn, axis=0)
    return judge_cells(rules, Reading(SUSPECT, [], board, corners, 90 * cells.turn, inverted), cells, tuple(place))


def judge_cells(rules: Rules, reading: Reading, cells: CellReadings, place: tuple[Reason, ...]) -> Reading:
    """Return `reading` with the digits of `cells`, and the verdict on them; `place` is as in Reading."""
    verdict = rules.judge(cells.digits, cells.probabilities, possible_readings(cells))
    reasons = [*verdict.reasons, *changed_digits(cells), *place]
    return reading._replace(
        verdict=SUSPECT if reasons else VERIFIED,
        reasons=reasons,
        digits=cells.digits,
        probabilities=cells.probabilities,
        solution=verdict.solution,
        proposal=verdict.proposal,
        cells=cells,
        place=place,
    )


def cut_sides(board: Board, photo: np.ndarray) -> list[str]:
    """Name the edges of the photo beyond which the board continues."""
    low, high = board.corners.min(axis=0), np.array(photo.shape[::-1]) - 1 - board.corners.max(axis=0)
    names = ("left", "top", "right", "bottom")
    return [name for name, room in zip(names, (*low, *high), strict=True) if room < -CUT * board.cell]


def straighten_page(photo: np.ndarray, board: Board) -> np.ndarray:
    """Straighten a board with its border; shrink photos with more pixels than needed first, against aliasing."""
    scale = min(1.0, 1.4 * CELL / board.cell)
    if scale < 1:
        outline = grid.photo_points(board, rectangle(-BORDER, -BORDER, 9 + 2 * BORDER, 9 + 2 * BORDER))
        low = np.floor(outline.min(axis=0) - board.cell).clip(0).astype(int)
        high = np.ceil(outline.max(axis=0) + board.cell).clip(1).astype(int)
        photo = photo[low[1] : high[1], low[0] : high[0]]
        board = board._replace(corners=board.corners - low.astype(np.float32))
        photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return grid.straighten(photo, board.scaled(scale), CELL, BORDER)


def prepare_page(whole: np.ndarray) -> tuple[np.ndarray, Ink, bool]:
    """Return a straightened board without its border, dark on light, with enough contrast; its ink; if it was light."""
    inner = slice(BORDER * CELL, (BORDER + 9) * CELL)
    page = whole[inner, inner]
    darkness, light = darkness_and_light(page)
    inverted = light > darkness
    page = even_cells(cv2.bitwise_not(page) if inverted else page)
    return raise_contrast(page, max(darkness, light)), measure_ink(page), inverted


def grid_doubts(whole: np.ndarray, turn: int, digits: np.ndarray) -> list[Reason]:
    """Return reasons to doubt the grid: few lines are visible, or those of a blank cell are faint or overexposed."""
    side, inner = (9 + 2 * BORDER) * SCORE_CELL, slice(BORDER * CELL, -BORDER * CELL)
    small, contrast = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), Pyramid(whole).contrast
    views = [view(small) for view in LINE_VIEWS]
    seen = (grid.edges_seen(view, SCORE_CELL, contrast)[0][:, BORDER:-BORDER].mean() for view in views)
    if all(score < MIN_SCORE for score in seen):
        return [Reason("few grid lines are visible")]
    edges = np.stack([grid.cell_edges(view, SCORE_CELL) for view in views[:2]])
    edges = np.where(np.greater(*box_medians(np.median(edges, axis=1))), *edges)  # dark ones here, light ones there
    for near, far, row in ((0, 1, np.s_[:, 0]), (1, 0, np.s_[:, -1]), (2, 3, np.s_[0]), (3, 2, np.s_[-1])):
        if np.median(edges[near][row]) < FAINT * np.median(edges):  # a board without a frame
            edges[near][row] = edges[far][row]
    light = levels(split_cells(whole[inner, inner], CELL // 4).reshape(9, 9, -1), 0.5)[0]
    faint = np.median(edges, axis=0) < FAINT * np.median(edges)
    faint |= (light >= WHITE) & (light > box_medians(light) + LIGHTER)
    cells = np.flatnonzero(np.rot90(faint, turn).ravel() & (digits == BLANK)).tolist()
    return [Reason(f"{place_of(cell)} may be covered or overexposed", (cell,)) for cell in cells]


def box_medians(cells: np.ndarray) -> np.ndarray:
    """Return, for each cell, the median of its box; [..., 9, 9]."""
    boxes = cells.reshape(*cells.shape[:-2], 3, 3, 3, 3)
    return np.median(boxes, axis=(-3, -1)).repeat(3, axis=-2).repeat(3, axis=-1)
