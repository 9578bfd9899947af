"""Readable values of what a run was made with."""

import pytest
from in_process import config

from cnnlab.runs.settings import described, flat, settings, typed, value_of

OVERRIDES = [
    "init=orthogonal",
    "regularization=[l2,dropout]",
    "optimizer.lr=0.10",
    "speed.deterministic=true",
    "+trainer.gradient_clip_algorithm='norm'",
    "data.classes=[rose, tulip]",
    "~callbacks.histograms",
    "model.weights=null",
    "seed=3",
    "paths.root=/tmp/x",
    "data.root=/photos",
    "hydra.sweep.dir=x",
]


def test_typed_values_keep_their_type_and_leave_out_seed_and_places():
    assert typed(OVERRIDES) == {
        "init": "orthogonal",
        "regularization": "[l2,dropout]",
        "optimizer.lr": 0.1,
        "speed.deterministic": True,
        "trainer.gradient_clip_algorithm": "norm",
        "data.classes": "[rose,tulip]",
        "model.weights": "null",
    }
    assert typed(["init='zero'", "optimizer.lr=1e-1"]) == {"init": "zero", "optimizer.lr": 0.1}


def test_what_does_not_parse_stays_as_it_was_typed():
    assert typed(["model.weights=a b(c"]) == {"model.weights": "a b(c"}


@pytest.mark.parametrize(
    ("node", "option", "word"),
    [
        ({"_target_": "a.initialize", "name": "zero"}, None, "zero"),
        ({"_target_": "torch.optim.AdamW", "lr": 0.1}, None, "adamw"),
        ({"_target_": "torch.optim.AdamW", "lr": 0.1}, "mine", "mine"),
        ({"l2": {"_target_": "a.L2"}, "dropout": {"_target_": "a.Dropout"}}, None, "[l2,dropout]"),
        ({"l2": {"_target_": "a.L2"}, "dropout": None}, None, "[l2]"),
        ({}, None, "none"),
        (0.5, None, 0.5),
        (None, None, "null"),
        ([1, "a"], None, "[1,a]"),
    ],
)
def test_a_node_in_a_word(node, option, word):
    assert described(node, option) == word


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> dict:
    return config(tmp_path_factory.mktemp("a"), "experiment=quickstart", "init=orthogonal", "seed=1")


def test_default_and_typed_preset_of_a_list_are_one_value(tmp_path):
    default = config(tmp_path / "a")
    assert value_of("augmentation", default, {}) == "[random_resized_crop,flip]"
    assert value_of("augmentation", default, {}, "basic") == "[random_resized_crop,flip]"
    assert value_of("augmentation", default, {}, "none") == "none"


def test_settings_of_a_run_have_the_same_keys_whatever_is_chosen(quickstart, tmp_path):
    second = config(tmp_path / "b", "regularization=[l2,dropout]", "init=uniform", "optimizer=sgd")
    chosen = {
        "experiment": "quickstart",
        "freeze": "none",
        "speed": "default",
        "scheduler": "cosine",
        "loss": "cross_entropy",
    }
    one = settings(quickstart, chosen, [])
    assert one == {
        "experiment": "quickstart",
        "task": "classification",
        "model": "lenet5",
        "data": "digits",
        "preprocessing": "standardize",
        "augmentation": "[random_crop,rotate]",
        "regularization": "none",
        "init": "orthogonal",
        "freeze": "none",
        "loss": "cross_entropy",
        "optimizer": "adamw",
        "scheduler": "cosine",
        "speed": "default",
        "optimizer.lr": 0.002,
        "data.batch_size": 32,
        "trainer.max_epochs": 20,
    }
    other = settings(second, chosen, ["init.a=-0.1", "seed=2"])
    assert other.keys() - one.keys() == {"init.a"}
    assert (other["regularization"], other["init"], other["optimizer"]) == ("[l2,dropout]", "uniform", "sgd")
    assert not any("$" in str(value) or "_target_" in str(value) for value in other.values())


def test_flat_config_has_neither_seed_nor_places(quickstart):
    keys = dict(flat(quickstart))
    assert keys["init.name"] == "orthogonal"
    assert keys["optimizer.lr"] == 0.002
    assert not [key for key in keys if key.startswith(("paths", "logger", "callbacks", "seed"))]
