"""The other processes of a run on this machine: when one of them fails, the run ends and says so."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import lightning as L

from cnnlab.errors import CnnlabError, DataError, DivergedError, InputError
from cnnlab.training.lightning_compat import take_over_processes

LOOK_EVERY = 0.5
"""Seconds between two looks at the other processes."""
PATIENCE = 10.0
"""Seconds in which this process may notice by itself that another has failed: most collectives say so at once."""


class RankMonitor(L.Callback):
    """Takes over the watch that Lightning keeps on the processes it starts, which would kill this one without a word.

    on_lost: is told of a process that failed while this one, which waits for it forever, does not notice; then this
        process ends.
    """

    def __init__(self, on_lost: Callable[[CnnlabError], None] = lambda error: None) -> None:
        self.on_lost = on_lost
        self.others: list[subprocess.Popen] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self.others and (started := take_over_processes(trainer)):
            self.others = started
            threading.Thread(target=self._watch, daemon=True).start()

    def failure(self, wait: float = 0.0) -> CnnlabError | None:
        """What to say of another process that has failed, or does so within `wait` seconds; None if none has."""
        end = time.monotonic() + wait
        while True:
            for rank, process in enumerate(self.others, start=1):
                if code := process.poll():
                    return _lost(rank, code)
            if not self.others or time.monotonic() >= end:
                return None
            time.sleep(LOOK_EVERY)

    def end(self) -> None:
        """End the others, which would wait for this process forever."""
        for process in self.others:
            process.kill()

    def _watch(self) -> None:
        while (error := self.failure()) is None:
            if all(process.poll() == 0 for process in self.others):
                return
            time.sleep(LOOK_EVERY)
        time.sleep(PATIENCE)
        self.on_lost(error)
        self.end()
        os._exit(error.exit_code)  # the main thread waits within a library, where no exception reaches it


def _lost(rank: int, code: int) -> CnnlabError:
    """An error with the exit code of the process, whose own message has been printed."""
    if code < 0:
        return DataError(
            f"Process {rank} of the run was killed ({signal.Signals(-code).name}), most likely because memory ran out. "
            "Smaller batches take less: data.batch_size."
        )
    kind = next((each for each in (InputError, DataError, DivergedError) if each.exit_code == code), CnnlabError)
    return kind(f"Process {rank} of the run ended with exit code {code}; what it said of that stands above.")
