"""A policy that plays: from the probabilities of a network to a sensible move."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnlab.errors import InputError
from cnnlab.go.board import Board
from cnnlab.go.positions import Point
from cnnlab.go.symmetries import SYMMETRIES, restore, transform

Policy = Callable[[np.ndarray], np.ndarray]
"""uint8 planes [N, features, size, size] -> probabilities of the moves [N, size * size], row by row."""


class Player:
    """Chooses moves by a policy."""

    def __init__(
        self, policy: Policy, temperature: float = 0.0, symmetries: int = 1, seed: int = 0, **options: Any
    ) -> None:
        """temperature T: 0 takes the most probable move, others draw by the probabilities to the power of 1 / T.

        symmetries: 1, or 8 to average over the rotations and reflections of the board (the "symmetries" of Extended
        Data Table 3). options: of the planes, as in cnnlab.go.planes.game_planes.
        Raises InputError for a value that is none of these.
        """
        if not temperature >= 0 or temperature == float("inf"):
            raise InputError(f"temperature={temperature}: use 0 for the most probable move, or a positive number.")
        if symmetries not in (1, 8):
            raise InputError(f"symmetries={symmetries}: use 1 or 8.")
        self.policy, self.temperature, self.options = policy, temperature, options
        self.symmetries = SYMMETRIES[:symmetries]
        self.random = np.random.default_rng(seed)

    def probabilities(self, board: Board, colour: str) -> np.ndarray:
        """What the policy says of every point, whether or not a move there is sensible: float64 [size, size]."""
        planes = board.planes(colour, **self.options)
        batch = np.stack([transform(planes, symmetry) for symmetry in self.symmetries])
        answers = np.asarray(self.policy(batch), np.float64)
        if answers.shape != (len(batch), board.size**2):
            wanted = (len(batch), board.size**2)
            raise InputError(f"The policy answers with shape {answers.shape}; {wanted} is needed on this board.")
        boards = answers.reshape(-1, board.size, board.size)
        return np.mean([restore(one, s) for one, s in zip(boards, self.symmetries, strict=True)], axis=0)

    def choose(self, board: Board, colour: str) -> Point | None:
        """A legal move that fills no own eye; None, a pass, after the opponent's pass or if there is no such move."""
        opponent = "W" if colour == "B" else "B"
        sensible = board.planes(colour)[46].astype(bool)
        if board.moves[-1:] == [(opponent, None)] or not sensible.any():
            return None
        weights = np.where(sensible, np.nan_to_num(self.probabilities(board, colour), posinf=0.0).clip(0), 0)
        if weights.max() == 0:  # the policy rules out all that is sensible
            weights = sensible.astype(np.float64)
        if self.temperature == 0:
            return divmod(int(weights.argmax()), board.size)
        with np.errstate(divide="ignore"):
            logits = np.log(weights / weights.max()) / self.temperature
        shares = np.exp(logits).ravel()
        return divmod(int(self.random.choice(len(shares), p=shares / shares.sum())), board.size)
