"""Overrides as they are typed: where the key ends, and what the value means."""

import math

import pytest

from cnnlab.config.overrides import assignments, every_combination, keys_of, split, value_of
from cnnlab.errors import InputError


@pytest.mark.parametrize(
    ("text", "key", "value", "group"),
    [
        ("optimizer.lr=0.1", "optimizer.lr", "0.1", "optimizer"),
        ("+optimizer.lr=0.1", "optimizer.lr", "0.1", "optimizer"),
        ("++optimizer.lr=0.1", "optimizer.lr", "0.1", "optimizer"),
        ("~augmentation", "augmentation", "", "augmentation"),
        ("model@hydra.job_logging=lenet5", "model", "lenet5", "model"),
        ("data.root=a=b", "data.root", "a=b", "data"),
        ("data.root='a b'", "data.root", "'a b'", "data"),
        ("seed=", "seed", "", "seed"),
        ("=3", "", "3", ""),
        ("", "", "", ""),
    ],
)
def test_key_and_value(text, key, value, group):
    found = split(text)
    assert (found.text, found.key, found.value, found.group) == (text, key, value, group)
    assert found.is_assignment is ("=" in text)


def test_plain_value_has_no_quotes():
    assert split("data.root='a b'").plain == split('data.root="a b"').plain == split("data.root=a b").plain == "a b"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=3", 3),
        ("x=1e-3", 0.001),
        ("x=true", True),
        ("x=null", None),
        ("x=word", "word"),
        ("x='3'", "3"),
        ("x=", ""),
        ("x=[1,'a b',[true]]", [1, "a b", [True]]),
        ("x={a: 1, b: ['c d']}", {"a": 1, "b": ["c d"]}),
        ("++a.b=3", 3),
    ],
)
def test_value_is_that_of_hydras_grammar(text, value):
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_value_that_is_not_a_number():
    assert math.isnan(value_of("x=nan"))


@pytest.mark.parametrize("text", ["x=[1", "x='a", "x={a: 1", "x", ""])
def test_value_that_cannot_be_parsed_is_named(text):
    with pytest.raises(InputError, match="cannot be parsed") as error:
        value_of(text)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_last_of_a_key_counts():
    assert keys_of(["seed=1", "+seed=2"])["seed"].text == "+seed=2"
    assert assignments(["a=1", "b=x=y"], "cnnlab x") == {"a": "1", "b": "x=y"}
    with pytest.raises(InputError, match="cnnlab x takes key=value, not a, -b"):
        assignments(["a", "-b", "c=1"], "cnnlab x")


def test_last_key_varies_fastest():
    assert every_combination(["a=1,2", "b=x", "c=[1],[2]"]) == [
        ["a=1", "b=x", "c=[1]"],
        ["a=1", "b=x", "c=[2]"],
        ["a=2", "b=x", "c=[1]"],
        ["a=2", "b=x", "c=[2]"],
    ]
