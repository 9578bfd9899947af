"""Time settings of a run's speed against each other, within a small share of the time that the run will take."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cnnlab.training.speed import Candidates, Speed

log = logging.getLogger(__name__)
SHARE = 0.03
"""Largest share of the run's expected time that the timing may take."""
WORST = 8
"""Factor by which the first step of a candidate may be slower than a step of the best: no more is risked."""
FEWEST = (2 + WORST) / SHARE
"""Shortest run, in steps, in which timing two candidates is affordable."""
MARGIN = 1.05
"""Factor by which a candidate must be faster than the settings before it."""
ROUNDS = 3
"""Number of times that two candidates are timed in turn; the shortest time of each counts."""
CLEAR = 1.5
"""Ratio of two times from which one round decides."""
LAP = 0.010
"""Seconds that are timed at once; a step that is shorter is repeated."""
COMPILATION = 60.0
"""Seconds that compiling may take."""


class Steps(Protocol):
    """Takes training steps; see `TrialSteps`."""

    def switch(self, speed: Speed) -> None:
        """Use these settings from the next step on."""

    def take(self) -> None:
        """Take one step."""


@dataclass
class Timing:
    """What was timed: seconds of a step with each of the settings; the first ones are those to start from."""

    best: Speed
    seconds: dict[Speed, float] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the times in milliseconds, the best first, each named by what differs from the best."""
        own = self.best.words()
        shown = [f"{_shown(self.seconds[self.best])} ms a step"]
        for speed, seconds in sorted(self.seconds.items(), key=lambda item: item[1]):
            if differing := [name for name, value in speed.words().items() if value != own[name]]:
                shown.append(
                    f"{', '.join(speed.words()[name] or 'not compiled' for name in differing)} {_shown(seconds)}"
                )
        return ", ".join(shown)


def choose(options: Candidates, steps: Steps, count: float, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Time the candidates and return the fastest settings.

    Each setting is varied in turn, beginning with the best so far. options: see `candidates`. count: number of steps of
    the run. The timing takes at most SHARE of their time, as far as a step that has not been taken can be foreseen.
    """
    race = Race(Speed(**{name: values[0] for name, values in options.items()}), steps, count, clock)
    for name, values in options.items():
        for value in values[1:]:
            race.challenge(replace(race.best, **{name: value}))
    return Timing(race.best, race.seconds)


class Race:
    """Times settings in turn within a share of the time that `count` steps would take; `best` are the fastest yet."""

    def __init__(self, start: Speed, steps: Steps, count: float, clock: Callable[[], float]) -> None:
        self.steps = steps
        self.count = count
        self.clock = clock
        self.best = start
        self.seconds: dict[Speed, float] = {}
        self._lap = 1
        """Number of steps that are timed at once."""
        self._began = clock()
        self._first_step(start)
        self._time(start)
        self._lap = max(1, min(math.ceil(LAP / max(self.seconds[start], 1e-9)), int(SHARE * count / 20)))

    def challenge(self, speed: Speed) -> None:
        """Time `speed` and the best in turn, if there is time; `speed` becomes the best if it is faster by MARGIN."""
        if not self._has_time(WORST * self.seconds[self.best] + COMPILATION * speed.compile):
            return
        try:
            first = self._first_step(speed)
            self._time_both(speed, first)
        except RuntimeError as error:  # an operation that the precision lacks, or too little memory
            log.debug("%s cannot be timed: %s", speed, error)
            self.seconds.pop(speed, None)
        if speed in self.seconds and self.seconds[speed] * MARGIN < self.seconds[self.best]:
            saved = (self.seconds[self.best] - self.seconds[speed]) * self.count
            if not speed.compile or saved > first:
                self.best = speed

    def _time_both(self, speed: Speed, expected: float) -> None:
        """Time `speed` and the best up to ROUNDS times; expected: seconds of a step of `speed`, at most."""
        for _ in range(ROUNDS):
            if not self._has_time(self._lap * (expected + self.seconds[self.best])):
                return
            self._time(speed)
            self._time(self.best)
            expected = self.seconds[speed]
            if not 1 / CLEAR < expected / self.seconds[self.best] < CLEAR:
                return

    def _first_step(self, speed: Speed) -> float:
        """Take a step that prepares memory and kernels; return its seconds."""
        self.steps.switch(speed)
        began = self.clock()
        self.steps.take()
        return self.clock() - began

    def _time(self, speed: Speed) -> None:
        self.steps.switch(speed)
        began = self.clock()
        for _ in range(self._lap):
            self.steps.take()
        seconds = (self.clock() - began) / self._lap
        self.seconds[speed] = min(seconds, self.seconds.get(speed, math.inf))

    def _has_time(self, seconds: float) -> bool:
        """Return whether so many seconds more are within the share of the run's time, at the best speed so far."""
        return self.clock() - self._began + seconds <= SHARE * self.count * self.seconds[self.best]


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"
