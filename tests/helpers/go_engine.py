"""A GTP engine whose answers are known, and the record of a short game."""

import numpy as np

from cnnlab.go.gtp import Engine
from cnnlab.go.player import Player

GOOD = b"(;GM[1]FF[4]SZ[9]KM[6.5]PB[Ann]PW[Ben]BR[9d]WR[1d]RE[B+R]DT[2016-07-01];B[ee];W[cc];B[])"
MOVES = [("B", (4, 4)), ("W", (2, 2)), ("B", None)]
"""The moves of GOOD."""


def by_rows(planes):
    """A policy that likes points the better, the earlier they come row by row."""
    points = planes.shape[-1] ** 2
    return np.repeat(np.arange(points, 0, -1.0)[None] / (points * (points + 1) / 2), len(planes), 0)


def engine(size=5, **options):
    """An engine that plays by `by_rows`."""
    return Engine(Player(by_rows, **options), size, sizes=range(5, 26))
