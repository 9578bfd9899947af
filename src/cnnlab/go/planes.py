"""Compute the feature planes of games and positions (cnnlab.go.point_features defines each plane)."""

from collections.abc import Iterable, Sequence

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go.point_features import planes_of, replay
from cnnlab.go.positions import (
    COLOURS,
    PASS,
    Move,
    Point,
    encode,
    new_position,
    point_at,
    point_index,
    turns_of,
    vertex,
    why_illegal,
)

FEATURES = (4, 12, 20, 48)
CAPTURE_ENCODINGS = ("0to7", "1to8")
EYES = ("recursive", "simple")


def game_planes(
    moves: Iterable[Move],
    size: int = 19,
    setup: Iterable[Move] | None = None,
    features: int = 48,
    capture_encoding: str = "0to7",
    eye: str = "recursive",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the planes before every move of a game except passes, as seen by the player to move, and these moves.

    moves: (colour "B" or "W", (row, column) or None for a pass), row 0 at the top; colours in any order.
    setup: stones on the board before the first move, in the same form; they count as the oldest.
    Returns uint8 [N, features, size, size] of 0 and 1, and int64 [N], row * size + column.
    Raises InputError for an illegal move or set-up, an unknown option, or a size outside 5 to 25.
    """
    encoded = encode(moves, size)
    numbers = np.flatnonzero(encoded & PASS != PASS)
    return planes_at(encoded, numbers, size, encode(setup or [], size), features, capture_encoding, eye)


def planes_at(
    moves: np.ndarray,
    numbers: Sequence[int] | np.ndarray,
    size: int = 19,
    setup: np.ndarray | None = None,
    features: int = 48,
    capture_encoding: str = "0to7",
    eye: str = "recursive",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the planes before chosen moves of one game; the other moves are only played.

    moves, setup: as encoded by `encode`. numbers: ascending indices into `moves`, none of them of a pass.
    Returns and raises as `game_planes` does; moves after the last number are ignored.
    """
    encoding, recursive = _checked(features, capture_encoding, eye)
    position = new_position(size, setup)
    turns = turns_of(moves, size)
    chosen = np.asarray(numbers, np.int64).reshape(-1)
    if len(chosen) and (chosen[0] < 0 or chosen[-1] >= len(turns) or (np.diff(chosen) <= 0).any()):
        raise InputError(f"Move numbers must be ascending and below {len(turns)}, got {chosen.tolist()}.")
    if not turns[chosen, 1].all():
        raise InputError(f"Move {chosen[turns[chosen, 1] == 0][0]} is a pass, which has no point to predict.")
    planes = np.zeros((len(chosen), features, size, size), np.uint8)
    labels = np.zeros(len(chosen), np.int64)
    wrong = replay(position, turns, chosen, planes, labels, encoding, recursive)
    if wrong >= 0:
        colour, index = turns[wrong]
        where = f"Move {wrong} ({'BW'[colour - 1]} at {vertex(point_at(index, size), size)})"
        raise InputError(f"{where} is illegal: {why_illegal(position, index)}.")
    return planes, labels


def board_planes(
    rows: Sequence[str],
    to_play: str,
    ko: Point | None = None,
    moves: Sequence[Point | None] | None = None,
    features: int = 48,
    capture_encoding: str = "0to7",
    eye: str = "recursive",
) -> np.ndarray:
    """Return the planes of a position given as a diagram.

    rows: one string for each line of the board, top line first, of X (Black), O (White) and . (empty).
    to_play: "X" or "B" for Black, "O" or "W" for White. ko: the point that the simple ko forbids.
    moves: the points played so far (None: a pass), which give the stones their ages; other stones count as the oldest.
    Returns uint8 [features, size, size]. Raises InputError as `game_planes` does.
    """
    size = len(rows)
    colours = {"X": "B", "B": "B", "O": "W", "W": "W"}
    if any(len(row) != size or set(row) - set("XO.") for row in rows):
        raise InputError(f"Rows must form a square of X, O and . characters, got {list(rows)}.")
    if to_play not in colours:
        raise InputError(f"to_play={to_play!r}: use X (or B) or O (or W).")
    stones = [(colours[kind], (r, c)) for r, row in enumerate(rows) for c, kind in enumerate(row) if kind != "."]
    position = new_position(size, encode(stones, size))
    if ko is not None:
        position["ko"], position["ko_colour"] = point_index(ko, size), COLOURS[colours[to_play]]
    for point in moves or []:
        position["turn"] += 1
        if point is not None:
            position["played"][point_index(point, size)] = position["turn"]
    return position_planes(position, colours[to_play], features, capture_encoding, eye)


def position_planes(
    position: np.void, colour: str, features: int = 48, capture_encoding: str = "0to7", eye: str = "recursive"
) -> np.ndarray:
    """Return the planes of a `chains.POSITION` with `colour` ("B" or "W") to move: uint8 [features, size, size]."""
    encoding, recursive = _checked(features, capture_encoding, eye)
    planes = np.zeros((features, position["size"], position["size"]), np.uint8)
    planes_of(position, COLOURS[colour], planes, encoding, recursive)
    return planes


def _checked(features: int, capture_encoding: str, eye: str) -> tuple[int, bool]:
    """Check the options; return the number of captures that plane 20 stands for, and whether eyes are recursive."""
    if features not in FEATURES:
        raise InputError(f"features={features}: use 4, 12, 20 or 48.")
    if capture_encoding not in CAPTURE_ENCODINGS:
        raise InputError(f"capture_encoding={capture_encoding}: use 0to7 or 1to8.")
    if eye not in EYES:
        raise InputError(f"eye={eye}: use recursive or simple.")
    return CAPTURE_ENCODINGS.index(capture_encoding), eye == "recursive"
