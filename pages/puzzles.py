"""Sudoku puzzles with exactly one solution: drawn at random, or read from the reader's own file.

Own code because no maintained generator on PyPI has both aarch64 wheels (or pure Python), a seed and
unique solutions. A puzzle is a string of 81 characters, row by row, 0 = blank.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from digitnet_cli import UserError

GIVENS = 17, 40  # drawn evenly; a puzzle keeps more where fewer would allow a second solution

# A search state is a list of 81 bit masks: the digits that a cell can still be (bit d - 1 for digit d).

UNITS = [{9 * i + j for j in range(9)} for i in range(9)]
UNITS += [{9 * j + i for j in range(9)} for i in range(9)]
UNITS += [{27 * (i // 3) + 3 * (i % 3) + 9 * (j // 3) + j % 3 for j in range(9)} for i in range(9)]
PEERS = [sorted(set().union(*(unit for unit in UNITS if cell in unit)) - {cell}) for cell in range(81)]


def place(state: list[int], cell: int, bit: int) -> bool:
    """Puts a digit into `state` (in place) with all that follows from it; False on a contradiction."""
    if not state[cell] & bit:
        return False
    state[cell] = bit
    settled = [cell]
    while settled:
        cell = settled.pop()
        bit = state[cell]
        for peer in PEERS[cell]:
            if state[peer] & bit:
                state[peer] ^= bit
                if not state[peer]:
                    return False
                if not state[peer] & (state[peer] - 1):  # one digit left
                    settled.append(peer)
    return True


class SearchLimitError(Exception):
    """The search for solutions has used up the steps that it was given."""


def search(state: list[int], digits: Sequence[int], steps: Iterator[int]) -> Iterator[list[int]]:
    """Yields every solution of `state`; tries the cell with the fewest digits first, digits in the given order.

    Takes one of `steps` for each state that it looks at, and raises SearchLimitError when there are none left.
    """
    if next(steps, None) is None:
        raise SearchLimitError
    open_cells = [cell for cell in range(81) if state[cell] & (state[cell] - 1)]
    if not open_cells:
        yield [mask.bit_length() for mask in state]
        return
    cell = min(open_cells, key=lambda c: state[c].bit_count())
    for digit in digits:
        child = state.copy()
        if place(child, cell, 1 << (digit - 1)):
            yield from search(child, digits, steps)


def solutions(
    givens: dict[int, int], digits: Sequence[int] = range(1, 10), steps: Iterator[int] | None = None
) -> Iterator[list[int]]:
    """Yields every solution (a list of 81 digits) of the puzzle {cell: digit}; tries `digits` in that order.

    `steps`: what `search` may take, some 100 microseconds each; None if it may take as long as it needs.
    """
    state = [511] * 81
    if all(place(state, cell, 1 << (digit - 1)) for cell, digit in givens.items()):
        yield from search(state, digits, count() if steps is None else steps)


def draw_puzzle(rng: np.random.Generator) -> str:
    """A random puzzle with exactly one solution, 81 characters, 0 = blank.

    Givens are added to a sparse start wherever a second solution differs, then taken away again at
    random while the solution stays the only one, until the drawn number is reached.
    """
    wanted = int(rng.integers(GIVENS[0], GIVENS[1] + 1))
    first_row = {cell: int(digit) for cell, digit in enumerate(rng.permutation(9) + 1)}
    truth = next(solutions(first_row, [int(d) for d in rng.permutation(9) + 1]))
    order = [int(cell) for cell in rng.permutation(81)]

    def second_solution() -> list[int] | None:
        return next((other for other in solutions(givens) if other != truth), None)

    givens = {cell: truth[cell] for cell in order[:24]}
    while other := second_solution():
        cell = next(cell for cell in order if other[cell] != truth[cell])
        givens[cell] = truth[cell]
    for cell in order:
        if len(givens) < wanted:
            givens[cell] = truth[cell]
        elif len(givens) > wanted and cell in givens:
            del givens[cell]
            if second_solution():
                givens[cell] = truth[cell]
    return "".join(str(givens.get(cell, 0)) for cell in range(81))


def vary_puzzle(puzzle: str, givens: int, rng: np.random.Generator) -> str:
    """`puzzle` with its digits renamed, turned or mirrored, and cells of its solution added up to `givens`."""
    board = np.array([int(digit) for digit in puzzle])
    truth = np.array(next(solutions({cell: int(digit) for cell, digit in enumerate(puzzle) if digit != "0"})))
    missing = rng.permutation(np.flatnonzero(board == 0))[: max(0, givens - np.count_nonzero(board))]
    board[missing] = truth[missing]
    board = np.append(0, rng.permutation(9) + 1)[board].reshape(9, 9)
    board = np.rot90(board, int(rng.integers(4)))
    board = board.T if rng.random() < 0.5 else board
    return "".join(map(str, board.ravel()))


def read_puzzles(path: Path) -> list[str]:
    """The reader's own puzzles: 81 characters a line, 0 or . for a blank; empty lines and repeats are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the puzzles: {error}; --puzzles (make PUZZLES=) names a text file of puzzles, "
            "--train and --val (make TRAIN= VAL=) say how many"
        ) from None
    puzzles: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        puzzle = line.strip().replace(".", "0")
        if not puzzle:
            continue
        where = f"{path}, line {number}"
        if len(puzzle) != 81 or not (puzzle.isascii() and puzzle.isdigit()):
            raise UserError(f"{where}: a puzzle is 81 characters, 1-9 for givens and 0 or . for blanks: {line[:90]!r}")
        found = solutions({cell: int(digit) for cell, digit in enumerate(puzzle) if digit != "0"})
        if next(found, None) is None:
            raise UserError(f"{where}: the givens contradict each other, there is no solution: mend or remove the line")
        if next(found, None) is not None:
            raise UserError(f"{where}: the puzzle has more than one solution: mend or remove the line")
        puzzles[puzzle] = None
    return list(puzzles)
