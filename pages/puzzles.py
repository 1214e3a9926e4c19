# SPDX-License-Identifier: Apache-2.0
"""Sudoku puzzles with exactly one solution: drawn at random, or read from the user's own file.

Own code because no maintained generator on PyPI has both aarch64 wheels (or pure Python), a seed and
unique solutions. A puzzle is a string of 81 characters, row by row, 0 = blank.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import count, islice, tee, zip_longest
from pathlib import Path

import numpy as np

from digitnet_boards import read_lines
from digitnet_cli import UserError

# Of a search; a step takes 25 to 40 microseconds (x86-64), a hard puzzle some 10,000 steps.
MOST_STEPS = 100_000
GIVENS = 17, 40  # drawn evenly; a puzzle keeps more if fewer would allow a second solution

# A search state is a list of 81 bit masks: the digits that a cell can still be (bit d - 1 for digit d).

FRAME = dict.fromkeys(range(0x2500, 0x2580), "-") | dict.fromkeys(map(ord, "│┃┆┇┊┋╎╏║"), "|")  # Unicode's box drawing
RULE = re.compile(r"\s*|[\s|+=:*.'-]*[=-][\s|+=:*.'-]*")  # drawn between boxes, or empty
BELOW_TITLES = re.compile(r"\s*\|?(\s*(:?--+:?|:-:?|-:)\s*(\||$)){9}\s*")
COMMENT = re.compile(r"\s*(#|%|//)")

UNITS = [{9 * i + j for j in range(9)} for i in range(9)]
UNITS += [{9 * j + i for j in range(9)} for i in range(9)]
UNITS += [{27 * (i // 3) + 3 * (i % 3) + 9 * (j // 3) + j % 3 for j in range(9)} for i in range(9)]
PEERS = [sorted(set().union(*(unit for unit in UNITS if cell in unit)) - {cell}) for cell in range(81)]


def place(state: list[int], cell: int, bit: int) -> bool:
    """Set a digit in `state`, in place, with all that follows from it; return False on a contradiction."""
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
    """The search for solutions has used up its steps."""


def search(state: list[int], digits: Sequence[int], steps: Iterator[int]) -> Iterator[list[int]]:
    """Yield every solution of `state`; try the cell with the fewest digits first, digits in the given order.

    Each state takes one of `steps`. Raises SearchLimitError when none is left.
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
    """Yield every solution (a list of 81 digits) of the puzzle {cell: digit}; try `digits` in that order.

    `steps` limits the search; None: no limit.
    """
    state = [511] * 81
    if all(place(state, cell, 1 << (digit - 1)) for cell, digit in givens.items()):
        yield from search(state, digits, count() if steps is None else steps)


def draw_puzzle(rng: np.random.Generator) -> str:
    """Draw a puzzle with exactly one solution, 81 characters, 0 = blank.

    Givens are added to a sparse start wherever a second solution differs, then removed at random while
    the solution stays unique, until the drawn number is reached.
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
    """Rename the digits of `puzzle`, turn or mirror it, and add cells of its solution up to `givens`."""
    board = np.array([int(digit) for digit in puzzle])
    truth = np.array(next(solutions({cell: int(digit) for cell, digit in enumerate(puzzle) if digit != "0"})))
    missing = rng.permutation(np.flatnonzero(board == 0))[: max(0, givens - np.count_nonzero(board))]
    board[missing] = truth[missing]
    board = np.append(0, rng.permutation(9) + 1)[board].reshape(9, 9)
    board = np.rot90(board, int(rng.integers(4)))
    board = board.T if rng.random() < 0.5 else board
    return "".join(map(str, board.ravel()))


def judge_puzzle(puzzle: str) -> str:
    """Return why `puzzle` cannot be used, or "" if it has exactly one solution."""
    givens = {cell: int(digit) for cell, digit in enumerate(puzzle) if digit != "0"}
    found = solutions(givens, steps=iter(range(MOST_STEPS)))
    try:
        if next(found, None) is None:
            return "the givens contradict each other, there is no solution"
        return "" if next(found, None) is None else "the puzzle has more than one solution"
    except SearchLimitError:
        return f"it is not solved in {MOST_STEPS:,} steps"


# --- puzzles as people write them -------------------------------------------------------------


def read_puzzles(path: Path) -> dict[str, int]:
    """Read the user's own puzzles, each once, with the number of its last line; judge_puzzle checks them.

    A puzzle is 81 cells in a line, alone or beside other columns, or nine lines of nine; a blank is 0 or another mark,
    the same throughout a puzzle. Skips empty lines, titles and comments. Raises UserError for other lines.
    """
    from tqdm import tqdm  # here: reading a photo does without it

    puzzles: dict[str, int] = {}
    rows = ""  # of a puzzle in nine lines, so far
    with_next = zip_longest(*(islice(copy, n, None) for n, copy in enumerate(tee(framed_lines(path), 4))), fillvalue="")
    for number, (line, *following) in enumerate(tqdm(with_next, "read puzzles", unit=" lines", delay=2), 1):
        row_of_blanks = len(line) == 9 and set(line) <= set(rows)
        comment = COMMENT.match(line) and len(line.strip()) not in (9, 81)  # then # is a blank
        titles = "|" in line and not rows and is_below_titles(following)
        if comment or titles or (RULE.fullmatch(line) and not row_of_blanks):
            continue
        puzzle = "" if rows else find_puzzle(line)
        if not puzzle and len(row := join_row(line)) == 9:
            rows += row
            if len(rows) < 81:
                continue
            puzzle, rows = find_puzzle(rows), ""
        if puzzle:
            puzzles.setdefault(puzzle, number)
        elif rows or len(set(filter(str.isalpha, line.lower()))) < 2 or sum(map(str.isdigit, line)) > 8:  # no title
            raise UserError(
                f"{path}, line {number}: a puzzle is 81 characters, or nine lines of nine: 1-9 for givens, "
                f"0 or one other mark for blanks: {line[:90]!r}"
            )
    if rows:
        raise UserError(f"{path} ends after {len(rows) // 9} of a puzzle's nine lines: complete or remove it")
    return puzzles


def framed_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of puzzles, frames in ASCII. Raises UserError if it cannot be read."""
    try:
        yield from (line.translate(FRAME) for line in read_lines(path))
    except (OSError, UserError) as error:
        raise UserError(
            f"cannot read the puzzles: {error}; --puzzles (make PUZZLES=) names a text file of puzzles, "
            "--train and --val (make TRAIN= VAL=) say how many"
        ) from None


def is_below_titles(lines: list[str]) -> bool:
    """Return whether the first line is the rule below a Markdown table's titles: there is none between its rows."""
    return [BELOW_TITLES.fullmatch(line) is not None for line in lines[::2]] == [True, False]


def find_puzzle(line: str) -> str:
    """Return a line's puzzle, 81 characters, 0 = blank; of several, the one with the fewest givens; "" if none."""
    found = []
    joined = join(line, 81)
    for mark in sorted(set(joined) - set("123456789,;:|\t\"'")) or ["0"]:
        end = "[,;:|\t#]|$" if mark == " " else "[\\s,;:|\"'#]|$"  # with blanks as blanks, a puzzle begins the line
        cells = f"[1-9{re.escape(mark)}]{{81}}(?={end})"
        matches = [re.match(cells, joined)] if mark == " " else re.finditer(f"(?<![^\\s,;:|\"']){cells}", joined)
        found += [match.group().replace(mark, "0") for match in matches if match]
    return min(found, key=lambda puzzle: 81 - puzzle.count("0"), default="")


def join_row(line: str) -> str:
    """Return a line of nine cells without separators, 0 for what a table leaves empty; return other lines unchanged."""
    framed = line.count("|") in (4, 10) and re.fullmatch(r"\s*\|(.*)\|\s*", line)
    line = framed[1] if framed else line
    for comma in ",;\t|":
        if line.count(comma) == 8:
            line = " ".join(field.strip() or "0" for field in line.split(comma))
    if framed and line.count("|") == 2:
        line = " ".join(map(join_box, line.split("|")))
    row = join(line.replace("|", " "), 9)
    return row if len(set(row) - set("123456789")) < 2 else ""


def join_box(part: str) -> str:
    """Return three cells at equal distances, 0 for a space; return other parts unchanged."""
    step = max(1, (len(part) + 1) // 3)
    cells = part[max(0, len(part) - 2 * step - 1) // 2 :: step]
    complete = len(cells) == 3 and "".join(cells.split()) == "".join(part.split())
    return cells.replace(" ", "0") if complete else part


def join(line: str, count: int) -> str:
    """Join `count` cells that are separated, one by one or in threes; return other lines unchanged."""
    parts = re.split(r"[\s,;|]+", line.strip(" |\t"))
    apart = len(parts) == count or len(parts) == 3 == count // 3
    return "".join(parts) if apart and len("".join(parts)) == count else line
