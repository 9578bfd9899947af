"""A player that chooses sensible moves from the probabilities of a policy network."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go.board import Board
from cnnlab.go.positions import Point
from cnnlab.go.symmetries import SYMMETRIES, restore, transform

Policy = Callable[[np.ndarray], np.ndarray]
"""Function of uint8 planes [N, features, size, size] that returns move probabilities [N, size * size], row by row."""


class Player:
    """Chooses moves according to a policy."""

    def __init__(
        self, policy: Policy, temperature: float = 0.0, symmetries: int = 1, seed: int = 0, **options: Any
    ) -> None:
        """Create a player.

        temperature T: 0 plays the most probable move; otherwise moves are sampled with probability ** (1 / T).
        symmetries: 1, or 8 to average over the rotations and reflections of the board (the "symmetries" of Extended
        Data Table 3). options: of the planes, as in cnnlab.go.planes.game_planes.
        Raises InputError for an invalid temperature or number of symmetries.
        """
        if not temperature >= 0 or temperature == float("inf"):
            raise InputError(f"temperature={temperature}: use 0 for the most probable move, or a positive number.")
        if symmetries not in (1, 8):
            raise InputError(f"symmetries={symmetries}: use 1 or 8.")
        self.policy, self.temperature, self.options = policy, temperature, options
        self.symmetries = SYMMETRIES[:symmetries]
        self.random = np.random.default_rng(seed)

    def probabilities(self, board: Board, colour: str) -> np.ndarray:
        """Return the policy's probability of every point, sensible or not: float64 [size, size]."""
        planes = board.planes(colour, **self.options)
        batch = np.stack([transform(planes, symmetry) for symmetry in self.symmetries])
        answers = np.asarray(self.policy(batch), np.float64)
        if answers.shape != (len(batch), board.size**2):
            wanted = (len(batch), board.size**2)
            raise InputError(f"The policy returned shape {answers.shape}; this board needs {wanted}.")
        boards = answers.reshape(-1, board.size, board.size)
        return np.mean([restore(one, s) for one, s in zip(boards, self.symmetries, strict=True)], axis=0)

    def choose(self, board: Board, colour: str) -> Point | None:
        """Return a legal move that does not fill an own eye; None (a pass) if none exists or the opponent passed."""
        opponent = "W" if colour == "B" else "B"
        sensible = board.planes(colour)[46].astype(bool)
        if board.moves[-1:] == [(opponent, None)] or not sensible.any():
            return None
        weights = np.where(sensible, np.nan_to_num(self.probabilities(board, colour), posinf=0.0).clip(0), 0)
        if weights.max() == 0:  # the policy gives every sensible move probability 0
            weights = sensible.astype(np.float64)
        if self.temperature == 0:
            return divmod(int(weights.argmax()), board.size)
        with np.errstate(divide="ignore"):
            logits = np.log(weights / weights.max()) / self.temperature
        shares = np.exp(logits).ravel()
        return divmod(int(self.random.choice(len(shares), p=shares / shares.sum())), board.size)
