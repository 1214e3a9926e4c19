# SPDX-License-Identifier: Apache-2.0
"""Propose places of a board: quadrilaterals around print, and around cells in rows and columns.

Proposals are cheap and many, and most are wrong: reading/grid.py scores them.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from digitnet_boards import rectangle
from reading.grid import Board, fit_bend, is_convex, noise_of, sort_corners

MIN_BOARD = 1 / 8  # least side of a board, of the photo's longer side: smaller cells have too few pixels
MIN_CELLS = 8  # least cells in rows and columns: fewer may be aligned by chance
MIN_BENT_CELLS = 40  # least cells that show the paper's bend: half of a board
MAX_HOLES = 500  # most holes of the print that are compared, in pairs: a board has 81
MAX_OUTLINES = 6  # most outlines, of the largest pieces of print and of paper


def ink_masks(grey: np.ndarray) -> Iterator[np.ndarray]:
    """Yield masks of pixels darker than their neighbourhood, uint8 0 or 255, for photos of very different kinds.

    A small neighbourhood separates thin lines from shadows and dark pages, a large one keeps wide ones whole. The third
    mask has all that is narrow: pale lines beside dark digits, too.
    """
    side = max(grey.shape)
    soft = cv2.GaussianBlur(grey, (3, 3), 0)
    pale = max(3.0, 2 * noise_of(grey))
    fine = darker_than(soft, side // 50, pale)
    yield fine
    yield darker_than(soft, side // 20, 10)
    narrow = cv2.morphologyEx(soft, cv2.MORPH_BLACKHAT, np.ones((side // 50 | 1,) * 2, np.uint8))
    yield cv2.threshold(narrow, pale - 1, 255, cv2.THRESH_BINARY)[1]


def darker_than(grey: np.ndarray, neighbourhood: int, threshold: float) -> np.ndarray:
    """Mark with 255 pixels darker by `threshold` than the mean of a square of about `neighbourhood` pixels."""
    return cv2.adaptiveThreshold(
        grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, max(3, neighbourhood | 1), threshold
    )


def propose(ink: np.ndarray) -> list[Board]:
    """List possible boards in a mask of ink."""
    _, ink_labels, ink_stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(ink, 8, cv2.CV_32S, cv2.CCL_GRANA)
    paper = cv2.bitwise_not(ink)
    _, paper_labels, paper_stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(paper, 4, cv2.CV_32S, cv2.CCL_WU)
    boards = [Board(corners) for corners in outlines(ink_labels, ink_stats) + outlines(paper_labels, paper_stats)]
    boards += lattices(paper_stats, max(ink.shape))
    least = MIN_BOARD * max(ink.shape)
    return [board for board in boards if is_convex(board.corners) and 9 * board.cell > least]


# --- outlines ----------------------------------------------------------------------------------


def outlines(labels: np.ndarray, stats: np.ndarray) -> list[np.ndarray]:
    """Return quadrilaterals around the largest components whose hulls have four corners; float32 [4, 2] each."""
    least = MIN_BOARD * max(labels.shape)
    width, height = stats[:, 2], stats[:, 3]
    large = np.flatnonzero(np.minimum(width, height)[1:] > least) + 1
    quads = []
    for k in large[np.argsort(-width[large] * height[large])][:MAX_OUTLINES]:
        x, y, width, height, _ = stats[k]
        inside = labels[y : y + height, x : x + width] == k
        first, last = inside.argmax(axis=1), width - 1 - inside[:, ::-1].argmax(axis=1)
        rows = np.arange(height)
        ends = np.stack([np.concatenate([first, last]) + x, np.concatenate([rows, rows]) + y], axis=1)
        hull = cv2.convexHull(ends.astype(np.int32))
        for tolerance in (0.02, 0.04, 0.07, 0.1):  # of the hull's length: the smallest that leaves four corners
            corners = cv2.approxPolyDP(hull, tolerance * cv2.arcLength(hull, True), True)[:, 0]
            if len(corners) <= 4:
                break
        if len(corners) == 4:
            quads.append(sort_corners(corners))
    return quads


# --- lattices of cells -------------------------------------------------------------------------


def lattices(stats: np.ndarray, photo_side: int) -> list[Board]:
    """Propose boards whose cells are among the holes in the print; `stats` are OpenCV's of these components.

    Works where outlines fail: with text or a finger on the frame, without a frame, with some lines lost.
    """
    x, y, width, height, area = stats[1:].T.astype(np.float32)
    small, large = np.minimum(width, height), np.maximum(width, height)
    fits = (small > MIN_BOARD * photo_side / 13) & (large < photo_side / 3)  # from a cell without its lines to a box
    fits &= (large < 2.2 * small) & (area > 0.3 * width * height)  # a turned square fills half of its upright box
    chosen = np.flatnonzero(fits)[:MAX_HOLES]
    width, height = width[chosen], height[chosen]
    centres = np.stack([x[chosen] + width / 2, y[chosen] + height / 2], axis=1)

    size = np.sqrt(width * height)
    ratio = distances(centres) / (0.5 * np.add.outer(size, size))
    near = (ratio > 0.5) & (ratio < 1.5) & alike(width) & alike(height)
    left = near.sum(axis=1) >= 2
    boards = []
    for start in range(len(chosen)):
        if left[start]:
            group = connected(near, start, left)
            if len(group) >= MIN_CELLS:
                boards += boards_of_cells(centres[group], near[np.ix_(group, group)])
    return boards


def distances(points: np.ndarray) -> np.ndarray:
    """Return all distances between points [N, 2]; [N, N]."""
    away = points[None] - points[:, None]
    return np.hypot(away[..., 0], away[..., 1])


def alike(sizes: np.ndarray) -> np.ndarray:
    """Return which pairs of sizes differ by less than a quarter of their mean; bool [N, N]."""
    return np.abs(np.subtract.outer(sizes, sizes)) < 0.125 * np.add.outer(sizes, sizes)


def connected(near: np.ndarray, start: int, left: np.ndarray) -> np.ndarray:
    """Return the indices reachable from `start` through `near`, and remove them from `left`."""
    group, front = [start], [start]
    left[start] = False
    while front:
        fresh = np.flatnonzero(near[front.pop()] & left)
        left[fresh] = False
        group += fresh.tolist()
        front += fresh.tolist()
    return np.array(group)


def boards_of_cells(centres: np.ndarray, near: np.ndarray) -> list[Board]:
    """Propose every board of 9 x 9 cells that contains all cells at `centres`, or as many as possible."""
    places = number_cells(centres, near)
    if len(places) < MIN_CELLS:
        return []
    at, spots = np.array(list(places.values()), np.float32) + 0.5, centres[list(places)].astype(np.float32)
    pitch = np.sort(distances(spots), axis=1)[:, 1].mean()
    transform, fitting = cv2.findHomography(at, spots, cv2.RANSAC, 0.25 * pitch, maxIters=200)
    if transform is None or fitting.sum() < MIN_CELLS:
        return []
    low, high = (edge(at[fitting[:, 0] > 0], axis=0) for edge in (np.min, np.max))
    spare = (high - low).astype(int) - 8  # negative: cells are missing, and may be on either side
    first = [[low[k] - 0.5 + i for i in range(min(0, spare[k]), max(0, spare[k]) + 1)][:9] for k in (0, 1)]
    windows = [(x, y, 9) for x in first[0] for y in first[1]]
    if (spare == -6).all():  # the holes may be boxes that lost their thin lines
        windows.append((low[0] - 0.5, low[1] - 0.5, 3))
    boards = []
    for x, y, n in windows:
        corners = cv2.perspectiveTransform(rectangle(x, y, n, n)[None], transform)[0]
        if np.isfinite(corners).all() and is_convex(corners):
            boards.append(Board(sort_corners(corners)))
            if len(places) > MIN_BENT_CELLS and n == 9:
                boards.append(bent_board(corners, at - (x, y), spots))
    return boards


def bent_board(corners: np.ndarray, at: np.ndarray, spots: np.ndarray) -> Board:
    """Return the board with these corners, bent so that its points `at`, in cells, are at `spots` in the photo."""
    back = cv2.getPerspectiveTransform(corners, rectangle(0, 0, 9, 9))
    offset = cv2.perspectiveTransform(spots[None], back)[0] - at
    return fit_bend(Board(corners.astype(np.float32)), at, offset, np.ones(len(at)))


def number_cells(centres: np.ndarray, near: np.ndarray) -> dict[int, tuple[int, int]]:
    """Assign column and row to the cells, from neighbour to neighbour: index -> (column, row)."""
    away = centres[None] - centres[:, None]
    nearest = np.where(near, distances(centres), np.inf).argmin(axis=1)
    step = away[np.arange(len(centres)), nearest]
    turn = np.angle(np.exp(4j * np.arctan2(step[:, 1], step[:, 0])).mean()) / 4  # angle of the rows, within 45 degrees
    pitch = np.median(np.hypot(step[:, 0], step[:, 1]))
    along = away @ np.array([np.cos(turn), np.sin(turn)]) / pitch
    across = away @ np.array([-np.sin(turn), np.cos(turn)]) / pitch
    beside = near & (np.abs(along) > 2 * np.abs(across)) & (np.abs(along) < 1.7)
    below = near & (np.abs(across) > 2 * np.abs(along)) & (np.abs(across) < 1.7)
    start = int((beside | below).sum(axis=1).argmax())
    places, taken, front = {start: (0, 0)}, {(0, 0)}, [start]
    while front:
        cell = front.pop(0)
        column, row = places[cell]
        for links, lengths, step in ((beside, along, (1, 0)), (below, across, (0, 1))):
            for other in np.flatnonzero(links[cell]).tolist():
                sign = 1 if lengths[cell, other] > 0 else -1
                place = column + sign * step[0], row + sign * step[1]
                if other not in places and place not in taken:
                    places[other] = place
                    taken.add(place)
                    front.append(other)
    return places
