"""Time settings of a run's speed against each other, within a small share of the time that the run will take."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

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
T = TypeVar("T")


class Steps(Protocol):
    """Takes steps under any settings; see `TrialSteps`."""

    def switch(self, settings: Any) -> None:
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
            speed = replace(race.best, **{name: value})
            race.challenge(speed, COMPILATION * speed.compile)
    return Timing(race.best, race.seconds)


class Race(Generic[T]):
    """Times settings in turn within a share of the time that `count` steps would take; `best` are the fastest yet.

    worst: factor by which the first step of settings may be slower than a step of the best.
    """

    def __init__(
        self,
        start: T,
        steps: Steps,
        count: float,
        clock: Callable[[], float],
        share: float = SHARE,
        worst: float = WORST,
    ) -> None:
        self.steps = steps
        self.count = count
        self.clock = clock
        self.share = share
        self.worst = worst
        self.best = start
        self.seconds: dict[T, float] = {}
        self._lap = 1
        """Number of steps that are timed at once."""
        self._began = clock()
        self._first_step(start)
        self._time(start)
        self._lap = max(1, min(math.ceil(LAP / max(self.seconds[start], 1e-9)), int(share * count / 20)))

    def challenge(self, settings: T, preparation: float = 0.0) -> None:
        """Time `settings` and the best in turn, if there is time; they become the best if faster by MARGIN.

        preparation: seconds that their first step may take in addition; they must be made up for in `count` steps.
        """
        if not self._has_time(self.worst * self.seconds[self.best] + preparation):
            return
        try:
            first = self._first_step(settings)
            self._time_both(settings, min(first, self.worst * self.seconds[self.best]) if preparation else first)
        except RuntimeError as error:  # an operation that the precision lacks, or too little memory
            log.debug("%s cannot be timed: %s", settings, error)
            self.seconds.pop(settings, None)
        if settings in self.seconds and self.seconds[settings] * MARGIN < self.seconds[self.best]:
            saved = (self.seconds[self.best] - self.seconds[settings]) * self.count
            if not preparation or saved > first:
                self.best = settings

    def _time_both(self, settings: T, expected: float) -> None:
        """Time `settings` and the best up to ROUNDS times; expected: seconds of a step of `settings`, at most."""
        for _ in range(ROUNDS):
            if not self._has_time(self._lap * (expected + self.seconds[self.best])):
                return
            self._time(settings)
            self._time(self.best)
            expected = self.seconds[settings]
            if not 1 / CLEAR < expected / self.seconds[self.best] < CLEAR:
                return

    def _first_step(self, settings: T) -> float:
        """Take a step that prepares memory and kernels; return its seconds."""
        began = self.clock()
        self.steps.switch(settings)
        self.steps.take()
        return self.clock() - began

    def _time(self, settings: T) -> None:
        self.steps.switch(settings)
        began = self.clock()
        for _ in range(self._lap):
            self.steps.take()
        seconds = (self.clock() - began) / self._lap
        self.seconds[settings] = min(seconds, self.seconds.get(settings, math.inf))

    def _has_time(self, seconds: float) -> bool:
        """Return whether so many seconds more are within the share of the run's time, at the best speed so far."""
        return self.clock() - self._began + seconds <= self.share * self.count * self.seconds[self.best]


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"
