"""The eight rotations and reflections of a board."""

import numpy as np

SYMMETRIES = range(8)
"""Symmetry s rotates a board by s % 4 quarter turns counterclockwise; from s = 4 on it mirrors left to right first."""


def transform(boards: np.ndarray, symmetry: int) -> np.ndarray:
    """Apply a symmetry to the last two dimensions (rows, columns); returns a view."""
    mirrored = boards[..., ::-1] if symmetry >= 4 else boards
    return np.rot90(mirrored, symmetry % 4, axes=(-2, -1))


def restore(boards: np.ndarray, symmetry: int) -> np.ndarray:
    """Undo `transform`; returns a view."""
    turned = np.rot90(boards, -(symmetry % 4), axes=(-2, -1))
    return turned[..., ::-1] if symmetry >= 4 else turned
