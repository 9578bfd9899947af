"""metrics.csv of runs that are continued."""

import csv

import pytest

from cnnlab.runs.metrics_csv import MetricsCsv


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that logged steps 0 to 9 and then stopped."""
    logger = MetricsCsv(str(tmp_path))
    for step in range(10):
        logger.log_metrics({"train/loss": 100.0 + step}, step)
    logger.log_metrics({"val/acc": 0.25}, 4)
    logger.save()
    return tmp_path


def test_metrics_of_one_step_share_a_row(stopped):
    table = rows(stopped)
    assert list(table[0]) == ["step", "train/loss", "val/acc"]
    assert table[4] == {"step": "4", "train/loss": "104.0", "val/acc": "0.25"}
    assert [row["step"] for row in table] == [str(step) for step in range(10)]


def test_continued_run_keeps_what_came_before_and_replaces_what_came_after(stopped):
    logger = MetricsCsv(str(stopped))
    logger.log_metrics({"train/loss": 5.0, "train/l2": 1.0}, 6)
    logger.finalize("success")
    table = rows(stopped)
    assert [(row["step"], row["train/loss"]) for row in table] == [
        *((str(step), f"{100.0 + step}") for step in range(6)),
        ("6", "5.0"),
    ]
    assert table[4]["val/acc"] == "0.25"
    assert [row["train/l2"] for row in table] == [""] * 6 + ["1.0"]


def test_logger_that_logged_nothing_leaves_the_file_alone(stopped):
    before = (stopped / "metrics.csv").read_bytes()
    logger = MetricsCsv(str(stopped))
    logger.save()
    logger.finalize("failed")
    assert (stopped / "metrics.csv").read_bytes() == before
