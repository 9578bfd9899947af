"""Save what loggers have logged from time to time: Lightning asks for it after every logged step."""

import time
from abc import abstractmethod
from collections.abc import Iterable

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

SECONDS = 5.0
"""Shortest time between two saves, in seconds."""
SHARE = 0.02
"""Largest share of the time spent on saving."""


class ThrottledLogger(Logger):
    """A logger whose `save` calls `write` at most every SECONDS, and less often if writing takes long."""

    _next_save = 0.0

    @abstractmethod
    def write(self) -> None:
        """Write everything logged so far to the disk."""

    @rank_zero_only
    def save(self) -> None:
        began = time.monotonic()
        if began >= self._next_save:
            self.write()
            ended = time.monotonic()
            self._next_save = ended + max(SECONDS, (ended - began) / SHARE)


def save_now(loggers: Iterable[Logger]) -> None:
    """Write everything that the loggers have logged so far to the disk."""
    for logger in loggers:
        logger.write() if isinstance(logger, ThrottledLogger) else logger.save()
