"""Watch the other processes of a run on this machine, and end the run with a message when one of them fails."""

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
"""Seconds between two checks of the other processes."""
PATIENCE = 10.0
"""Seconds for this process to notice a failure by itself: most collectives raise immediately."""


class RankMonitor(L.Callback):
    """A callback that watches the processes Lightning starts; Lightning's own observer would kill this one silently.

    on_lost: called with the error of a failed process if this process does not notice the failure by itself and would
        wait forever; then this process exits.
    """

    def __init__(self, on_lost: Callable[[CnnlabError], None] = lambda error: None) -> None:
        self.on_lost = on_lost
        self.others: list[subprocess.Popen] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self.others and (started := take_over_processes(trainer)):
            self.others = started
            threading.Thread(target=self._watch, daemon=True).start()

    def failure(self, wait: float = 0.0) -> CnnlabError | None:
        """Return the error of another process that has failed, or fails within `wait` seconds; None if none does."""
        end = time.monotonic() + wait
        while True:
            for rank, process in enumerate(self.others, start=1):
                if code := process.poll():
                    return _lost(rank, code)
            if not self.others or time.monotonic() >= end:
                return None
            time.sleep(LOOK_EVERY)

    def end(self) -> None:
        """Kill the other processes, which would wait for this one forever."""
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
        os._exit(error.exit_code)  # the main thread is blocked in a library, where no exception reaches it


def _lost(rank: int, code: int) -> CnnlabError:
    """Return an error with the exit code of the failed process, which has already printed its own message."""
    if code < 0:
        return DataError(
            f"Process {rank} of the run was killed ({signal.Signals(-code).name}), most likely because memory ran out. "
            "Lower data.batch_size."
        )
    kind = next((each for each in (InputError, DataError, DivergedError) if each.exit_code == code), CnnlabError)
    return kind(f"Process {rank} of the run ended with exit code {code}; see its message above.")
