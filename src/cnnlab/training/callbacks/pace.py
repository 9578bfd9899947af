"""Decide how often a callback draws, so that drawing takes little of a run's time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

SHARE = 0.01
"""Largest share of the time that one callback draws; a run has about five that do."""


class Pace:
    """Says in which epochs a callback draws: in every `every_n_epochs`-th, or with None as often as SHARE allows.

    With None it draws in the first epoch, in the last one, and in between if all its drawings so far and one more take
    at most SHARE of the time since the first.
    """

    def __init__(self, every_n_epochs: int | None) -> None:
        self.every_n_epochs = every_n_epochs
        self._began: float | None = None
        self._spent = 0.0
        self._longest = 0.0

    def due(self, trainer: L.Trainer, count: int) -> bool:
        """Return whether to draw now; count: number of the epoch, 0 for the first, or of the epochs that have ended."""
        if self.every_n_epochs is not None:
            return count % self.every_n_epochs == 0
        now = time.perf_counter()
        if self._began is None:
            self._began = now
            return True
        ends = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        return ends or self._spent + self._longest <= SHARE * (now - self._began)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block as drawing."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self._spent += seconds
            self._longest = max(self._longest, seconds)
