"""Convert moves and positions between Python values and their compact forms."""

from collections.abc import Iterable

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go import chains

Point = tuple[int, int]
"""Row and column of a point; row 0 is the top line."""
Move = tuple[str, Point | None]
"""Colour "B" or "W", and the point; None is a pass."""

COLOURS = {"B": chains.BLACK, "W": chains.WHITE}
# Flags of an encoded move, see `encode`.
PASS, WHITE = 0x7FFF, 0x8000
LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"


def encode(moves: Iterable[Move], size: int = 19) -> np.ndarray:
    """Encode moves in two bytes each: row * size + column, or PASS; plus WHITE for White's moves. Returns uint16 [n].

    Raises InputError for an invalid colour or a point off the board.
    """
    codes = []
    for colour, point in moves:
        if colour not in COLOURS:
            raise InputError(f"The colour of a move must be B or W, got {colour!r}.")
        if point is None:
            code = PASS
        else:
            check_point(point, size)
            code = point[0] * size + point[1]
        codes.append(code + WHITE * (colour == "W"))
    return np.array(codes, np.uint16)


def decode(codes: np.ndarray, size: int = 19) -> list[Move]:
    """Return the moves that `encode` encoded."""
    moves: list[Move] = []
    for code in codes.tolist():
        point = code & PASS
        moves.append(("W" if code & WHITE else "B", None if point == PASS else divmod(point, size)))
    return moves


def turns_of(codes: np.ndarray, size: int) -> np.ndarray:
    """Convert encoded moves to the form that `rules` plays: int64 [n, 2] of colour and point index, 0 for a pass."""
    codes = np.asarray(codes, np.int64).reshape(-1)
    points = codes & PASS
    if (points[points != PASS] >= size * size).any():
        raise InputError(f"An encoded move is off the board of {size} lines.")
    places = np.where(points == PASS, 0, (points // size + 1) * (size + 1) + points % size)
    return np.stack([np.where(codes & WHITE, chains.WHITE, chains.BLACK), places], 1)


def new_position(size: int = 19, setup: np.ndarray | None = None) -> np.void:
    """Return a `chains.POSITION` with the encoded set-up stones and no move played.

    Raises InputError if the size is outside 5 to 25, or if set-up stones share a point or have no liberty.
    """
    if not chains.SMALLEST <= size <= chains.LARGEST:
        raise InputError(f"A board must have {chains.SMALLEST} to {chains.LARGEST} lines, got {size}.")
    position = np.zeros(1, chains.POSITION)[0]
    chains.clear(position, size)
    if setup is not None and len(setup):
        turns = turns_of(setup, size)
        if len(np.unique(turns[:, 1])) < len(turns) or not turns[:, 1].all():
            raise InputError("A set-up must have at most one stone on a point and no passes.")
        position["colour"][turns[:, 1]] = turns[:, 0]
        dead = chains.arrange(position)
        if dead:
            raise InputError(f"The set-up stone at {vertex(point_at(dead, size), size)} has no liberty.")
    return position


def why_illegal(position: np.void, index: int) -> str:
    """Return which rule the illegal move at `index` breaks."""
    if position["colour"][index] != chains.EMPTY:
        return "the point is occupied"
    return "the ko forbids it" if index == position["ko"] else "it is suicide"


def point_index(point: Point, size: int) -> int:
    """Return the index of a point in a POSITION; raise InputError if it is off the board."""
    check_point(point, size)
    return (point[0] + 1) * (size + 1) + point[1]


def point_at(index: int, size: int) -> Point:
    """Return the point at `index` of a POSITION."""
    return index // (size + 1) - 1, index % (size + 1)


def check_point(point: Point, size: int) -> None:
    row, column = point
    if not (0 <= row < size and 0 <= column < size):
        raise InputError(f"Row {row}, column {column} is off the board of {size} lines.")


def vertex(point: Point | None, size: int) -> str:
    """Return the name of a point as in GTP, such as Q16 (columns skip the letter I), or "pass"."""
    return "pass" if point is None else f"{LETTERS[point[1]]}{size - point[0]}"
