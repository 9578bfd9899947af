"""Loggers save from time to time, and whatever they have logged when they must."""

import itertools
from types import SimpleNamespace

import pytest

from cnnlab.runs import saving
from cnnlab.runs.metrics_csv import MetricsCsv
from cnnlab.runs.saving import SECONDS, save_now


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock.now)
    return clock


def saved_steps(folder) -> list[str]:
    return [line.split(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()[1:]]


def test_file_is_written_at_once_then_from_time_to_time(tmp_path, clock):
    logger = MetricsCsv(str(tmp_path))
    for step in range(100):
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.save()
        clock.now += SECONDS / 10
        assert saved_steps(tmp_path)[-1] == str(step // 10 * 10)


def test_everything_is_written_before_a_checkpoint_and_at_the_end(tmp_path, clock):
    logger = MetricsCsv(str(tmp_path))
    for step, write in enumerate((logger.save, lambda: save_now([logger]), lambda: logger.finalize("failed"))):
        logger.log_metrics({"train/loss": 1.0}, step)
        write()
        assert saved_steps(tmp_path) == [str(number) for number in range(step + 1)]


def test_slow_writing_is_rarer(tmp_path, clock, monkeypatch):
    """Two seconds of writing are followed by a hundred without."""
    logger, written = MetricsCsv(str(tmp_path)), []

    def write() -> None:
        written.append(clock.now)
        clock.now += 2

    monkeypatch.setattr(logger, "write", write)
    for _ in range(300):
        logger.save()
        clock.now += 1
    assert len(written) == 3
    assert min(second - first for first, second in itertools.pairwise(written)) >= 102
