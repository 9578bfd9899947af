"""The command and the link that open TensorBoard on a folder of runs."""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from program import REPOSITORY

from cnnlab.runs.tensorboard import SAMPLES, colour_of, command, link

RUNS = ["zero-seed-0", "zero-seed-1", "kaiming_normal-seed-0", "normal-seed-0"]


def groups(pattern: str, runs: list[str]) -> list[tuple]:
    """What TensorBoard colours by: the captured groups of a match anywhere in the name."""
    return [re.search(pattern, run).groups() for run in runs]


def pinned(address: str) -> list[str]:
    """The tags of the cards that a link pins, all of them scalars."""
    cards = json.loads(parse_qs(urlsplit(address).query)["pinnedCards"][0])
    assert {card["plugin"] for card in cards} == {"scalars"}
    return [card["tag"] for card in cards]


def test_link_holds_colour_and_no_smoothing():
    address = urlsplit(link("val/acc", "a|(b)", port=7000))
    query = parse_qs(address.query)
    assert (address.scheme, address.netloc, address.fragment) == ("http", "127.0.0.1:7000", "timeseries")
    assert query["runColorGroup"] == ["regex:a|(b)"]
    assert query["smoothing"] == ["0"]
    assert "runColorGroup" not in link("val/acc")


@pytest.mark.parametrize(
    ("metric", "tags"),
    [
        ("val/acc", ["epoch/val/acc", "epoch/train/loss", "epoch/val/loss", "best/val/acc"]),
        ("val/mse", ["epoch/val/mse", "epoch/train/loss", "epoch/val/loss", "best/val/mse"]),
        ("val/loss", ["epoch/val/loss", "epoch/train/loss", "best/val/loss"]),
    ],
)
def test_link_pins_the_metric_of_the_runs(metric, tags):
    assert pinned(link(metric)) == tags


def test_runs_are_told_apart_by_the_value_of_the_factor():
    pattern = colour_of(RUNS, "init", ["zero", "normal", "kaiming_normal"])
    assert groups(pattern, RUNS) == [("zero",), ("zero",), ("kaiming_normal",), ("normal",)]


@pytest.mark.parametrize(
    ("runs", "factor", "values", "expected"),
    [
        (["lr-0.1-seed-0", "lr-0.15-seed-0"], "optimizer.lr", [0.1, 0.15], ["lr-0.1", "lr-0.15"]),
        (["l2-seed-0", "l2+dropout-seed-0"], "regularization", ["[l2]", "[l2,dropout]"], ["l2", "l2+dropout"]),
        (["a/zero", "a/2-normal"], "init", ["zero", "normal"], ["zero", "normal"]),
    ],
)
def test_values_are_found_as_names_write_them(runs, factor, values, expected):
    assert [group for (group,) in groups(colour_of(runs, factor, values), runs)] == expected


def test_names_without_the_values_are_grouped_by_all_but_the_seed():
    runs = ["vgg16-lr-0.10-seed-0-x", "vgg16-lr-0.10-seed-1-x", "vgg16-lr-0.2-seed-0-x", "seed-0"]
    found = groups(colour_of(runs, "optimizer.lr", [0.1, 0.2]), runs)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_nothing_to_tell_apart():
    assert colour_of(["one", "two"]) is None


def test_command_keeps_a_folder_with_spaces_in_one_piece():
    words = shlex.split(command(Path("/my runs/é")))
    assert words[words.index("--logdir") + 1] == "/my runs/é"
    assert words[words.index("--host") + 1] == "127.0.0.1"


def test_make_board_starts_it_in_the_same_way():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"\$\(BIN\)/(tensorboard .*)", makefile)
    assert shlex.split(line) == shlex.split(command(Path("outputs")))
    assert SAMPLES in line
