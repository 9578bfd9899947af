"""Moves and positions as Python sees them, and their compact forms."""

from collections.abc import Iterable

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go import chains

Point = tuple[int, int]
"""Row and column; row 0 is the top line."""
Move = tuple[str, Point | None]
"""Colour "B" or "W" and where; None is a pass."""

COLOURS = {"B": chains.BLACK, "W": chains.WHITE}
# An encoded move: the point row by row, PASS for a pass, WHITE added for White's.
PASS, WHITE = 0x7FFF, 0x8000
LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"


def encode(moves: Iterable[Move], size: int = 19) -> np.ndarray:
    """Moves in two bytes each: row * size + column, or PASS, with WHITE added for White's; uint16 [n].

    Raises InputError for a colour or a point that is none.
    """
    codes = []
    for colour, point in moves:
        if colour not in COLOURS:
            raise InputError(f"A move's colour is B or W, got {colour!r}.")
        if point is None:
            code = PASS
        else:
            check_point(point, size)
            code = point[0] * size + point[1]
        codes.append(code + WHITE * (colour == "W"))
    return np.array(codes, np.uint16)


def decode(codes: np.ndarray, size: int = 19) -> list[Move]:
    """The moves that `encode` turned into `codes`."""
    moves: list[Move] = []
    for code in codes.tolist():
        point = code & PASS
        moves.append(("W" if code & WHITE else "B", None if point == PASS else divmod(point, size)))
    return moves


def turns_of(codes: np.ndarray, size: int) -> np.ndarray:
    """Encoded moves as `rules` plays them: int64 [n, 2] of colour and index of the point, 0 for a pass."""
    codes = np.asarray(codes, np.int64).reshape(-1)
    points = codes & PASS
    if (points[points != PASS] >= size * size).any():
        raise InputError(f"An encoded move lies off the board of {size} lines.")
    places = np.where(points == PASS, 0, (points // size + 1) * (size + 1) + points % size)
    return np.stack([np.where(codes & WHITE, chains.WHITE, chains.BLACK), places], 1)


def new_position(size: int = 19, setup: np.ndarray | None = None) -> np.void:
    """A `chains.POSITION` with encoded set-up stones on it and nothing played.

    Raises InputError if the size is not 5 to 25, or the stones share a point or have no liberty.
    """
    if not chains.SMALLEST <= size <= chains.LARGEST:
        raise InputError(f"Boards have {chains.SMALLEST} to {chains.LARGEST} lines, got {size}.")
    position = np.zeros(1, chains.POSITION)[0]
    chains.clear(position, size)
    if setup is not None and len(setup):
        turns = turns_of(setup, size)
        if len(np.unique(turns[:, 1])) < len(turns) or not turns[:, 1].all():
            raise InputError("A set-up has one stone a point and no passes.")
        position["colour"][turns[:, 1]] = turns[:, 0]
        dead = chains.arrange(position)
        if dead:
            raise InputError(f"The set-up stone at {vertex(point_at(dead, size), size)} has no liberty.")
    return position


def why_illegal(position: np.void, index: int) -> str:
    """The rule that the illegal move at `index` breaks."""
    if position["colour"][index] != chains.EMPTY:
        return "the point is occupied"
    return "the ko forbids it" if index == position["ko"] else "it is suicide"


def point_index(point: Point, size: int) -> int:
    """Where a POSITION keeps the point. Raises InputError if it is off the board."""
    check_point(point, size)
    return (point[0] + 1) * (size + 1) + point[1]


def point_at(index: int, size: int) -> Point:
    """The point that a POSITION keeps at `index`."""
    return index // (size + 1) - 1, index % (size + 1)


def check_point(point: Point, size: int) -> None:
    row, column = point
    if not (0 <= row < size and 0 <= column < size):
        raise InputError(f"Row {row}, column {column} is off the board of {size} lines.")


def vertex(point: Point | None, size: int) -> str:
    """The name of a point on the board's rim, as GTP and people say it: Q16; the column I is skipped."""
    return "pass" if point is None else f"{LETTERS[point[1]]}{size - point[0]}"
