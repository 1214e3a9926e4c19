# SPDX-License-Identifier: Apache-2.0
"""Score how much a place looks like a 9 x 9 grid, pull corners and lines to the grid, and straighten it."""

from typing import NamedTuple

import cv2
import numpy as np

from digitnet_boards import rectangle

BORDER = 1  # cells around the board that are examined with it
LEAST_CONTRAST = 2.0  # grey levels between a line and its paper, without noise
# --- the score of a place
SCORE_CELL = 16  # pixels per cell for scoring: enough to distinguish a line from a digit
EDGE_SEEN = 0.5, 0.9  # dark fraction of an edge: below the first no line, above the second a full line
BOX_INK = 0.1  # weight of the ink of box lines: small, it only decides between places one cell apart
LINES_GO_ON = 0.2  # weight of lines that continue beyond one side: small, as text or a board may touch it
LINES_GO_ON_TWICE = 0.3  # weight of those beyond a second side: larger, as in a part of a larger grid
FAINT_REACH = 6  # pixels of SCORE_CELL: a line may be further off its place than for scoring, and is still no stroke
WEAKEST_LINE = 2.0  # times the visible part of the faintest line: it may be half covered, but not missing
UNSEEN = 0.5  # the least visible part that is assumed of a cell's edge that is not wholly in the photo
# --- pulling
PULL_CELL = 28  # pixels per cell for measuring lines
REACH = 0.42  # of a cell: largest offset at which a line is searched; from half a cell on, it is another line
LINE_LENGTH = 1.2  # cells along which a line is averaged at a crossing: about half an edge to each side
NEARER = 0.3  # score penalty at offset REACH, so the nearer of two equal lines wins
MAX_MOVES = 5  # of the corners
STILL = 0.03  # cells: a move below this ends the pulling
DEGREE = 3  # of the polynomials in x and y that describe bent paper: enough for a page that bends back at its fold
MIN_CLEAR = 0.3  # least clearness of a crossing that pulls a corner, 0 to 1
MIN_CLEAR_BEND = 0.1  # and of one that bends a line; its weight is the rest of its clearness
MIN_CROSSINGS = 20  # of the 100: with fewer, the corners stay
TRIES = 200  # of RANSAC: with half of the points wrong, one of 16 tries is right
INLIER = 0.12  # largest error of an inlier crossing, in cells: as on bent paper
LOOSE = 0.08  # distance from a smooth bend, in cells, at which a point counts half
MAPPED = 10  # points of a bent cell's side that are mapped; the pixels between them are interpolated
STIFFNESS = 0.03  # keeps the bend small where no line is visible
CROSSINGS = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=2).reshape(-1, 2).astype(np.float32)
# Both ends, x and y, of the middle three quarters of each cell's edges: upright, then level; [2, 9, 10, 2, 2].
UPRIGHT = np.stack(np.meshgrid(np.arange(10), np.arange(9), (0.125, 0.875)), axis=-1)
UPRIGHT = np.stack([UPRIGHT[..., 0], UPRIGHT[..., 1] + UPRIGHT[..., 2]], axis=-1)
EDGE_ENDS = np.stack([UPRIGHT, UPRIGHT[..., ::-1]])


class Board(NamedTuple):
    """A board's place in a photo."""

    corners: np.ndarray  # float32 [4, 2] x, y in pixels: the top left, then clockwise
    bend: np.ndarray | None = None  # displacement of its points, in cells: polynomials, float32 [4, 4, 2]; None: flat
    score: float = 0.0  # likeness to a 9 x 9 grid: 1 = every line is visible, nothing between or beyond
    beside: bool = False  # another board of about its size is in the photo

    def scaled(self, factor: float) -> "Board":
        """Return the board in the photo enlarged by `factor`; pixel centres are at whole numbers."""
        return self._replace(corners=((self.corners + 0.5) * factor - 0.5).astype(np.float32))

    @property
    def cell(self) -> float:
        """A cell's side in the photo, in pixels."""
        return max(1.0, float(np.sqrt(cv2.contourArea(self.corners))) / 9)


def sort_corners(corners: np.ndarray) -> np.ndarray:
    """Sort four corners clockwise from the one nearest the top left; float32 [4, 2]."""
    away = corners - corners.mean(axis=0)
    corners = corners[np.argsort(np.arctan2(away[:, 1], away[:, 0]))]
    return np.roll(corners, -np.argmin(corners.sum(axis=1)), axis=0).astype(np.float32)


def is_convex(corners: np.ndarray) -> bool:
    """Return whether four corners are a convex quadrilateral in clockwise order."""
    sides = corners[[1, 2, 3, 0]] - corners
    following = sides[[1, 2, 3, 0]]
    return bool((sides[:, 0] * following[:, 1] > sides[:, 1] * following[:, 0]).all())


def photo_points(board: Board, points: np.ndarray) -> np.ndarray:
    """Map points of the board, in cells from its top left, to pixels of the photo; float32 [N, 2]."""
    points = points.astype(np.float32)
    if board.bend is not None:
        points = points + bend_at(board.bend, points)
    transform = cv2.getPerspectiveTransform(rectangle(0, 0, 9, 9), board.corners)
    return cv2.perspectiveTransform(points[None], transform)[0]


def bend_at(bend: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the displacement of points [N, 2] by a bend; all in cells."""
    return bend_terms(points) @ bend.reshape(-1, 2)


def bend_terms(points: np.ndarray) -> np.ndarray:
    """Return the products of powers of y and of x that a bend weights, [N, 16], at points [N, 2] in cells."""
    return (powers(points[:, 1])[:, :, None] * powers(points[:, 0])[:, None]).reshape(len(points), -1)


def powers(at: np.ndarray) -> np.ndarray:
    """Scale positions in cells from 0..9 to -1..1, and return their powers 0 to DEGREE; float32 [N, DEGREE + 1]."""
    return np.vander(np.clip(at, 0, 9) / 4.5 - 1, DEGREE + 1, increasing=True).astype(np.float32)


def straighten(
    image: np.ndarray, board: Board, cell: int, border: int = 0, beyond: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """Straighten a board to `cell` pixels per cell, with `border` cells around it; uint8, square.

    `beyond` is OpenCV's border mode for pixels beyond the image: the last ones, or black.
    """
    side = (9 + 2 * border) * cell
    if board.bend is None:
        inner = rectangle(border * cell - 0.5, border * cell - 0.5, 9 * cell, 9 * cell)
        transform = cv2.getPerspectiveTransform(board.corners, inner)
        return cv2.warpPerspective(image, transform, (side, side), borderMode=beyond)
    at = (np.arange((9 + 2 * border) * MAPPED, dtype=np.float32) + 0.5) / MAPPED - border
    terms = powers(at)
    h = cv2.getPerspectiveTransform(rectangle(0, 0, 9, 9), board.corners).astype(np.float32)
    x, y, depth = (
        terms @ (board.bend @ h[k, :2]) @ terms.T + (h[k, 0] * at + (h[k, 1] * at[:, None] + h[k, 2])) for k in range(3)
    )
    x, y = (cv2.resize(part / depth, (side, side)) for part in (x, y))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=beyond)


def noise_of(grey: np.ndarray) -> float:
    """Estimate the noise's standard deviation, in grey levels, from the smoothest three quarters of the photo."""
    change = cv2.absdiff(grey, cv2.GaussianBlur(grey, (5, 5), 0))[::3, ::3].ravel()
    calm = np.partition(change, 3 * len(change) // 4)[: 3 * len(change) // 4]
    return 2 * float(calm.mean())  # of Gaussian noise


class Pyramid:
    """A grey photo in four sizes, each half of the previous, so that every board costs the same to straighten."""

    def __init__(self, grey: np.ndarray) -> None:
        self.contrast = LEAST_CONTRAST + noise_of(grey)  # of a line; small, as many pixels are averaged
        self.levels = [grey]
        for _ in range(3):
            self.levels.append(cv2.resize(self.levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))

    def straighten(self, board: Board, cell: int, beyond: int = cv2.BORDER_REPLICATE) -> np.ndarray:
        """Straighten the board and its border from the level where its cells are one to two times `cell`."""
        level = int(np.clip(np.log2(board.cell / cell), 0, 3))
        return straighten(self.levels[level], board.scaled(0.5**level), cell, BORDER, beyond)


# --- lines -------------------------------------------------------------------------------------


def line_depth(patch: np.ndarray, cell: int) -> np.ndarray:
    """Measure upright lines: how much darker each pixel is than both its sides, in grey levels; uint8 [2 * S, S].

    A side is as light as its lightest pixel within reach, so that a digit darker than the line may stand beside it.
    Level lines follow below them, as upright ones of the transposed patch: together they take half the time.
    The first and the last line are compared with the inner side only, because beyond the board may be anything.
    """
    patch = np.concatenate([patch, patch.T])
    reach = cell // 5  # lines are narrower
    left, right = (cv2.dilate(patch, np.ones((1, reach + 1), np.uint8), anchor=(at, 0)) for at in (reach, 0))
    sides = np.minimum(left, right)
    half, first, last = cell // 2, BORDER * cell, (BORDER + 9) * cell
    sides[:, first - half : first + half] = right[:, first - half : first + half]
    sides[:, last - half : last + half] = left[:, last - half : last + half]
    return cv2.subtract(sides, patch)  # from 0 to 255, not beyond


def along_edges(depth: np.ndarray, cell: int, reach: int = 4) -> np.ndarray:
    """Average the depth of lines along whole edges, longer than digits, `reach` / 2 pixels off; uint8 [2, 11, S]."""
    middles = cv2.blur(depth, (1, cell))[cell // 2 :: cell]
    return cv2.dilate(middles, np.ones((1, reach), np.uint8), anchor=(reach // 2, 0)).reshape(2, -1, depth.shape[1])


def edges_seen(patch: np.ndarray, cell: int, contrast: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the visible part of each cell's edge, 0 to 1, upright edges first, then level ones.

    Returns float32 [2, 11, 10] for the lines and [2, 11, 9] for the places between them; the first and the last of
    the 11 belong to the border's cells, where the lines should have ended. Then the ink of each line, [2, 10].
    """
    depth = line_depth(patch, cell)
    rows = along_edges(cv2.convertScaleAbs(depth, alpha=255 / contrast), cell).astype(np.float32) / 255
    rows = ((rows - EDGE_SEEN[0]) / (EDGE_SEEN[1] - EDGE_SEEN[0])).clip(0, 1)
    lines = rows[..., cell * (BORDER + np.arange(10))]
    offsets = np.array([int(part * cell) for part in (0.3, 0.5, 0.7)])
    between = rows[..., cell * (BORDER + np.arange(9))[:, None] + offsets].mean(axis=3)
    columns = depth.reshape(2, *patch.shape)[:, BORDER * cell : -BORDER * cell].mean(axis=1, dtype=np.float32)
    ink = columns[:, cell * (BORDER + np.arange(10))[:, None] + np.arange(-3, 3)].sum(axis=2)
    return lines, between, ink


def cell_edges(patch: np.ndarray, cell: int) -> np.ndarray:
    """Measure how much darker than its sides each cell's edges are, in grey levels; uint8 [4, 9, 9]."""
    depth = along_edges(line_depth(patch, cell), cell, FAINT_REACH)
    upright, level = depth[:, BORDER:-BORDER, cell * (BORDER + np.arange(10))]
    return np.stack([upright[:, :-1], upright[:, 1:], level[:, :-1].T, level[:, 1:].T])


def grid_score(photo: Pyramid, board: Board) -> float:
    """Score how much a place looks like a Sudoku's grid: its visible lines, less those between and beyond.

    Where lines differ in ink, those around boxes should have more; this rejects a board shifted by one cell.
    """
    patch = photo.straighten(board, SCORE_CELL, cv2.BORDER_CONSTANT)  # lines do not continue in black
    lines, between, ink = edges_seen(patch, SCORE_CELL, photo.contrast)
    ends = photo_points(board, EDGE_ENDS.reshape(-1, 2)).reshape(EDGE_ENDS.shape)
    beyond = ((ends < 0) | (ends > np.array(photo.levels[0].shape[::-1]) - 1)).any(axis=(3, 4))
    lines[:, 1:-1] = np.where(beyond, np.maximum(lines[:, 1:-1], UNSEEN), lines[:, 1:-1])
    second, most = np.sort(lines[:, [0, -1]].mean(axis=2), axis=None)[-2:]  # of the four sides
    boxes, others = ink[:, [3, 6]].mean(), ink[:, [1, 2, 4, 5, 7, 8]].mean()
    hint = (boxes - others) / max(boxes + others, 1)
    lines, between = lines[:, 1:-1], between[:, 1:-1]
    whole = lines.mean() - between.mean() + BOX_INK * hint - LINES_GO_ON * most - LINES_GO_ON_TWICE * second
    return float(min(whole, WEAKEST_LINE * lines.mean(axis=2).min()))


# --- pulling -----------------------------------------------------------------------------------


def crossings(photo: Pyramid, board: Board) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far the 100 crossings are off, float32 [100, 2] in cells, and how clear each is, [100]."""
    cell, reach = PULL_CELL, int(REACH * PULL_CELL)
    patch = photo.straighten(board, cell)
    shifts = np.arange(-reach, reach + 1)
    at = cell * (BORDER + np.arange(10))
    along = cv2.convertScaleAbs(line_depth(patch, cell), alpha=255 / (2 * photo.contrast))
    along = cv2.blur(along, (1, int(LINE_LENGTH * cell))).reshape(2, len(patch), -1)[:, at]
    along = cv2.GaussianBlur(along.reshape(20, -1), (3, 1), 0).astype(np.float32) / 255
    seen = along[:, at[:, None] + shifts] * (1 - NEARER * np.abs(shifts) / reach)  # [20, 10, shifts]
    best = seen.argmax(axis=2).clip(1, len(shifts) - 2)
    before, peak, after = (np.take_along_axis(seen, (best + d)[..., None], 2)[..., 0] for d in (-1, 0, 1))
    part = 0.5 * (before - after) / np.minimum(before - 2 * peak + after, -1e-4)  # the parabola's top
    x, y = ((shifts[best] + part.clip(-1, 1) + 0.5) / cell).reshape(2, 10, 10)
    middle = np.sort(seen, axis=2)[..., len(shifts) // 2]
    clear_x, clear_y = (peak - middle).reshape(2, 10, 10)
    return np.stack([x.ravel(), y.T.ravel()], axis=1).astype(np.float32), np.minimum(clear_x, clear_y.T).ravel()


def pull_corners(photo: Pyramid, board: Board) -> Board:
    """Move a board's corners until its lines are at ninths; RANSAC ignores crossings near a corner that is far off."""
    square = rectangle(0, 0, 9, 9)
    for _ in range(MAX_MOVES):
        offset, clear = crossings(photo, board)
        good = clear > MIN_CLEAR
        if good.sum() < MIN_CROSSINGS:
            break
        moved, _ = cv2.findHomography(
            CROSSINGS[good], CROSSINGS[good] + offset[good], cv2.RANSAC, INLIER, maxIters=TRIES
        )
        if moved is None:
            break
        transform = cv2.getPerspectiveTransform(square, board.corners) @ moved
        corners = cv2.perspectiveTransform(square[None], transform)[0].astype(np.float32)
        if not np.isfinite(corners).all() or not is_convex(corners):
            break
        change = np.abs(corners - board.corners).max()
        board = board._replace(corners=corners)
        if change < STILL * board.cell:
            break
    return board


def fit_bend(board: Board, at: np.ndarray, offset: np.ndarray, trust: np.ndarray) -> Board:
    """Bend a board so that points `at` [N, 2] move by `offset` [N, 2], both in cells; `trust` [N] is 0 to 1."""
    terms = bend_terms(at)
    weight, bend = trust[:, None], np.zeros((terms.shape[1], 2))
    for _ in range(3):  # outliers count less
        normal = terms.T @ (weight * terms) + STIFFNESS * np.eye(terms.shape[1])
        bend = np.linalg.solve(normal, terms.T @ (weight * offset))
        error = np.linalg.norm(offset - terms @ bend, axis=1)
        weight = (trust / (1 + (error / LOOSE) ** 2))[:, None]
    return board._replace(bend=bend.reshape(DEGREE + 1, DEGREE + 1, 2).astype(np.float32))


def bend_lines(photo: Pyramid, board: Board) -> Board:
    """Bend a board so that its lines match those of the photo."""
    for _ in range(2):
        offset, clear = crossings(photo, board)
        if board.bend is not None:
            offset = offset + bend_at(board.bend, CROSSINGS)
        board = fit_bend(board, CROSSINGS, offset, np.clip(clear - MIN_CLEAR_BEND, 0, 1))
    return board
