"""Callbacks draw at a fixed interval, or in a small share of the time."""

from types import SimpleNamespace

import pytest

from cnnlab.training.callbacks import pace
from cnnlab.training.callbacks.pace import SHARE, Pace


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock.now)
    return clock


def drawn(clock, paced: Pace, epochs: int, epoch_seconds: float, picture_seconds: float) -> list[int]:
    """The epochs at whose end a picture is drawn."""
    found = []
    for epoch in range(epochs):
        clock.now += epoch_seconds
        if paced.due(SimpleNamespace(max_epochs=epochs, current_epoch=epoch), epoch + 1):
            found.append(epoch)
            with paced.timed():
                clock.now += picture_seconds
    return found


@pytest.mark.parametrize("epoch_seconds", [0.1, 1000.0])
def test_interval_is_kept_however_long_it_takes(clock, epoch_seconds):
    assert drawn(clock, Pace(3), 10, epoch_seconds, 5.0) == [2, 5, 8]


def test_slow_epochs_are_all_drawn(clock):
    assert drawn(clock, Pace(None), 6, epoch_seconds=300.0, picture_seconds=1.0) == [0, 1, 2, 3, 4, 5]


def test_fast_epochs_are_drawn_in_a_small_share_of_the_time_and_at_both_ends(clock):
    """A picture of 0.2 s for each 20 s; epochs of 1 s."""
    found = drawn(clock, Pace(None), 100, epoch_seconds=1.0, picture_seconds=0.2)
    assert (found[0], found[-1]) == (0, 99)
    between = found[1:-1]
    assert len(between) == 3
    assert 0.2 * (len(between) + 1) <= SHARE * 100 * 1.01
    gaps = [second - first for first, second in zip([0, *between], between, strict=False)]
    assert min(gaps) >= 19


def test_run_without_an_end_has_no_last_epoch(clock):
    paced = Pace(None)
    assert paced.due(SimpleNamespace(max_epochs=-1, current_epoch=0), 1)
    with paced.timed():
        clock.now += 1
    clock.now += 10
    assert not paced.due(SimpleNamespace(max_epochs=-1, current_epoch=1), 2)
    clock.now += 300
    assert paced.due(SimpleNamespace(max_epochs=-1, current_epoch=2), 3)


def test_drawing_that_fails_counts_too(clock):
    paced = Pace(None)
    assert paced.due(SimpleNamespace(max_epochs=9, current_epoch=0), 1)

    def fill_disk() -> None:
        with paced.timed():
            clock.now += 2
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_disk()
    clock.now += 100
    assert not paced.due(SimpleNamespace(max_epochs=9, current_epoch=1), 2)
