"""A Go board on which moves are played and taken back one at a time."""

from typing import Any

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go import chains, rules
from cnnlab.go.planes import position_planes
from cnnlab.go.positions import (
    COLOURS,
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


class Board:
    """A game in progress: set-up stones, the moves played since, and the resulting position."""

    def __init__(self, size: int = 19, setup: list[Move] | None = None) -> None:
        """Set up the board.

        Raises InputError if the size is outside 5 to 25, or a set-up stone is off the board or has no liberty.
        """
        self.size = size
        self.setup = list(setup or [])
        self.moves: list[Move] = []
        self._position = new_position(size, encode(self.setup, size))

    def play(self, colour: str, point: Point | None) -> None:
        """Play a move of "B" or "W" (None: a pass), in turn or not; raise InputError that says why if it is illegal."""
        turns = turns_of(encode([(colour, point)], self.size), self.size)
        if rules.play_through(self._position, turns) == 0:
            reason = why_illegal(self._position, turns[0, 1])
            raise InputError(f"{colour} at {vertex(point, self.size)} is illegal: {reason}.")
        self.moves.append((colour, point))

    def undo(self) -> None:
        """Take back the last move; raise InputError if no move has been played."""
        if not self.moves:
            raise InputError("No move has been played, so none can be taken back.")
        self.moves.pop()
        self._position = new_position(self.size, encode(self.setup, self.size))
        rules.play_through(self._position, turns_of(encode(self.moves, self.size), self.size))

    def legal(self, colour: str) -> np.ndarray:
        """Return where `colour` may play: bool [size, size]."""
        points = np.zeros((self.size, self.size), bool)
        rules.legal_points(self._position, COLOURS[colour], points)
        return points

    def stone(self, point: Point) -> str | None:
        """Return the colour of the stone at `point`: "B", "W" or None."""
        return {chains.BLACK: "B", chains.WHITE: "W"}.get(int(self._position["colour"][point_index(point, self.size)]))

    def liberties(self, point: Point) -> int:
        """Return the number of liberties of the chain at `point`; 0 if the point is empty."""
        index = point_index(point, self.size)
        empty = self._position["colour"][index] == chains.EMPTY
        return 0 if empty else int(self._position["liberties"][self._position["chain"][index]])

    @property
    def ko(self) -> Point | None:
        """The point that the ko forbids to the player whose stone was just captured; None without a ko."""
        ko = int(self._position["ko"])
        return point_at(ko, self.size) if ko else None

    def rows(self) -> list[str]:
        """Return one string for each line of the board, top line first, of X (Black), O (White) and . (empty)."""
        stride = self.size + 1
        colours = self._position["colour"]
        lines = [colours[row * stride : row * stride + self.size] for row in range(1, self.size + 1)]
        return ["".join(".XO"[colour] for colour in line) for line in lines]

    def planes(self, colour: str, **options: Any) -> np.ndarray:
        """Return the planes with `colour` to move: uint8 [features, size, size].

        options: features, capture_encoding and eye, as in cnnlab.go.planes.game_planes.
        """
        return position_planes(self._position, colour, **options)
