"""The eight rotations and reflections of a board."""

import numpy as np

SYMMETRIES = range(8)
"""Symmetry s turns a board by s % 4 quarter turns against the clock; from 4 on it is mirrored left to right before."""


def transform(boards: np.ndarray, symmetry: int) -> np.ndarray:
    """The last two dimensions (rows, columns) under a symmetry; a view."""
    mirrored = boards[..., ::-1] if symmetry >= 4 else boards
    return np.rot90(mirrored, symmetry % 4, axes=(-2, -1))


def restore(boards: np.ndarray, symmetry: int) -> np.ndarray:
    """Undo `transform`; a view."""
    turned = np.rot90(boards, -(symmetry % 4), axes=(-2, -1))
    return turned[..., ::-1] if symmetry >= 4 else turned
