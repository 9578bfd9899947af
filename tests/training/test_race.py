"""Timing settings of speed against each other, by a clock that only the steps move."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlab.training.race import FEWEST, MARGIN, SHARE, WORST, choose
from cnnlab.training.speed import Speed

OPTIONS = {
    "precision": ["32-true", "bf16-mixed"],
    "channels_last": [True, False],
    "compile": [False],
    "num_threads": [4, 1],
}
START = Speed("32-true", True, False, 4)


class Clock:
    """Steps that take so many seconds with each of the settings, and the time that has passed."""

    def __init__(self, seconds, first=1.0):
        self.seconds = seconds
        self.first = first
        """Factor of the first step with new settings."""
        self.now = 0.0
        self.taken = []

    def switch(self, speed: Speed) -> None:
        self.speed = speed

    def take(self) -> None:
        seconds = self.seconds(self.speed)
        self.now += seconds * (1 if self.speed in self.taken else self.first)
        self.taken.append(self.speed)

    def __call__(self) -> float:
        return self.now


def times(base=0.1, **factors):
    """Seconds of settings as the product of the factors of what differs from START."""

    def seconds(speed):
        found = base
        for name, factor in factors.items():
            found *= factor if getattr(speed, name) != getattr(START, name) else 1
        return found

    return seconds


@pytest.mark.parametrize(
    ("factors", "best"),
    [
        ({}, START),
        ({"precision": 0.5}, replace(START, precision="bf16-mixed")),
        ({"precision": 6.0}, START),
        ({"precision": 0.5, "num_threads": 0.3}, replace(START, precision="bf16-mixed", num_threads=1)),
        ({"channels_last": 0.9, "precision": 1.1}, replace(START, channels_last=False)),
        ({"channels_last": 0.97, "num_threads": 0.96}, START),  # too little to leave the default for
    ],
)
@pytest.mark.parametrize("base", [0.0002, 0.1, 5.0])
def test_fastest_settings_win(factors, best, base):
    clock = Clock(times(base, **factors), first=3)
    timing = choose(OPTIONS, clock, 5000, clock)
    assert timing.best == best
    assert timing.seconds[best] == pytest.approx(times(base, **factors)(best))
    assert min(timing.seconds.values()) * MARGIN >= timing.seconds[best]


@given(
    base=st.floats(1e-4, 10),
    factors=st.fixed_dictionaries(dict.fromkeys(OPTIONS, st.floats(0.3, WORST))),
    count=st.floats(FEWEST, 1e6),
)
@settings(max_examples=200, deadline=None)
def test_timing_takes_at_most_its_share_of_the_run(base, factors, count):
    clock = Clock(times(base, **factors))
    choose(OPTIONS, clock, count, clock)
    assert clock.now <= SHARE * count * base * (1 + 1e-9)


def test_settings_that_fail_do_not_win():
    def seconds(speed):
        if speed.precision == "bf16-mixed":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 0.1

    clock = Clock(seconds)
    assert choose(OPTIONS, clock, 1000, clock).best == START
    clock.switch(START)
    clock.take()


def test_noise_of_one_step_decides_nothing():
    """The second step of bfloat16 is held up by something else; the shortest time counts."""
    clock = Clock(times(precision=0.8))
    slow = iter([1, 1.3, 1, 1])
    fast = clock.seconds
    clock.seconds = lambda speed: fast(speed) * (next(slow, 1) if speed.precision == "bf16-mixed" else 1)
    assert choose(OPTIONS, clock, 5000, clock).best.precision == "bf16-mixed"


@pytest.mark.parametrize(("count", "compiled"), [(1e6, True), (2000, False)])
def test_compiling_is_tried_only_where_it_can_pay(count, compiled):
    """0.05 s of 0.1 are saved in each step. Compiling takes at most 3 % of the run: 60 s of at least 2,000 s."""

    def seconds(speed):
        if speed.compile and speed not in clock.taken:
            return 50.0
        return 0.05 if speed.compile else 0.1

    clock = Clock(seconds)
    options = {name: [values[0]] for name, values in OPTIONS.items()} | {"compile": [False, True]}
    timing = choose(options, clock, count, clock)
    assert timing.best.compile == compiled
    assert (clock.now > 50) == compiled


def test_times_are_said_in_a_line():
    clock = Clock(times(0.1, precision=0.5, channels_last=2.0, num_threads=1.3))
    timing = choose(OPTIONS, clock, 5000, clock)
    assert timing.describe() == "50 ms a step, 1 thread 65, contiguous 100, 32-true 100"
