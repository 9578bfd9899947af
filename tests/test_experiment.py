"""Settings that cannot work together are all named, each with its reason, before any work."""

import re

import pytest
from in_process import config, digits_with, train_in_process

from cnnlab import experiment
from cnnlab.errors import InputError


class Started(Exception):  # noqa: N818 - what a run that nothing is wrong with does
    """Work has begun."""


def outcome(tmp_path, monkeypatch, *overrides: str) -> list[str]:
    """What `build` complains about, a line each, before it loads weights or fills a network; [] if it begins."""

    def begin(*arguments: object) -> None:
        raise Started

    monkeypatch.setattr(experiment, "find_weights_of", begin)
    try:
        experiment.build(config(tmp_path / "run", *digits_with(*overrides)))
    except Started:
        return []
    except InputError as error:
        lines = str(error).splitlines()
        if len(lines) == 1:
            return lines
        assert lines[0] == "These settings do not go together:"
        assert all(line.startswith("  - ") for line in lines[1:])
        return [line.removeprefix("  - ") for line in lines[1:]]


PHASE = "freeze.phases=[{epoch: 0, train: %s}]"
IMPOSSIBLE = {
    "crop larger than the image": (
        [
            "augmentation=[random_crop]",
            "augmentation.random_crop.size=48",
            "augmentation.random_crop.pad_if_needed=false",
        ],
        r"augmentation: an image of 32 x 32 .*: crops of 48 x 48 pixels do not fit into the padded image of 40 x 40",
    ),
    "border wider than the image": (
        ["augmentation=[random_crop]", "augmentation.random_crop.padding=40"],
        r"augmentation: an image of 32 x 32 pixels cannot be augmented: .*[Pp]adding size should be less",
    ),
    "mixup without soft targets": (
        ["augmentation=[mixup]", "loss=multi_margin"],
        r"augmentation=mixup makes soft targets, which MultiMarginLoss does not accept\. Use loss=cross",
    ),
    "all that makes soft targets": (
        ["augmentation=[flip,mixup,cutmix]", "regularization=[label_smoothing]", "loss=multi_margin"],
        r"augmentation=mixup and augmentation=cutmix and regularization=label_smoothing make soft targets",
    ),
    "dropout rate": (
        ["regularization=[dropout]", "regularization.dropout.p=1.0"],
        r"regularization\.dropout\.p=1\.0: must be at least 0 and less than 1\.",
    ),
    "negative dropout rate of channels": (
        ["regularization=[dropout]", "regularization.dropout.conv_p=-0.1"],
        r"regularization\.dropout\.conv_p=-0\.1: must be at least 0 and less than 1\.",
    ),
    "whitening with too few images": (
        ["preprocessing=zca", "preprocessing.epsilon=0", "data.images_per_class=20"],
        r"preprocessing=zca.*1[,]?024.*epsilon",
    ),
    "batch norm of one image": (
        ["regularization=[batch_norm]", "data.batch_size=1"],
        r"data\.batch_size=1: batch normalization \(features\.1, \.\.\.\) would take its statistics from one image",
    ),
    "freeze pattern": (
        ["freeze=schedule", PHASE % "layer4"],
        r"freeze: no stage is named 'layer4'\. Available: features\.0, features\.1, .*features\.5, classifier\.",
    ),
    "freeze glob": (
        ["freeze=schedule", PHASE % "[classifier, 'conv*']"],
        r"no stage is named 'conv\*'\. Available",
    ),
    "phases out of order": (
        ["freeze=schedule", "freeze.phases=[{epoch: 1, train: all}]"],
        r"freeze\.phases begin at epochs \[1\]: the first must be 0",
    ),
    "modules of init": (
        ["init=zero", "init.modules=[layer4]"],
        r"init\.modules: .* named 'layer4'\. Available: features\.0, features\.3, classifier\.1,",
    ),
    "l2 twice": (["regularization=[l2,weight_decay]"], r"regularization: l2 and weight_decay both shrink the squares"),
    "batch norm twice": (
        ["model=mobilenet_v2", "model.weights=null", "preprocessing=none", "regularization=[batch_norm]"],
        r"regularization=\[batch_norm\]: MobileNetV2 already has normalization",
    ),
    "stochastic depth without branches": (
        ["regularization=[stochastic_depth]"],
        r"regularization=\[stochastic_depth\]: LeNet5 has no residual branch",
    ),
    "dropout without linear layers": (
        ["model=alphago_policy", "model.in_channels=1", "regularization=[dropout]", "data.classes=9"],
        r"regularization=\[dropout\]: the classifier of AlphaGoPolicy has no linear layer",
    ),
    "number of classes": (
        ["model=alphago_policy", "model.in_channels=1"],
        r"The model cannot be built for 10 classes: num_classes must be the number of points of a square board",
    ),
    "early stopping without validation": (
        ["regularization=[early_stopping]", "data.val_fraction=0"],
        r"regularization\.early_stopping follows val/acc, but nothing is validated",
    ),
    "unknown rule": (["trainer.scale_lr=quadratic"], r"trainer\.scale_lr=quadratic: use one of none, linear, sqrt"),
    "augmentation that cannot be": (["augmentation=[flip]", "augmentation.flip.p=1.5"], r"RandomHorizontalFlip.*1\.5"),
    "kernel of even size": (["augmentation=[blur]", "augmentation.blur.kernel_size=4"], r"GaussianBlur.*odd"),
    "empty batches": (["data.batch_size=0"], r"data\.batch_size=0: use at least 1"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_combination_is_named_with_its_reason(tmp_path, monkeypatch, name):
    overrides, reason = IMPOSSIBLE[name]
    found = outcome(tmp_path, monkeypatch, *overrides)
    assert len(found) == 1
    assert re.search(reason, found[0])


def test_all_of_them_are_named_at_once(tmp_path, monkeypatch):
    """One of each kind, two of regularization; nothing is repeated."""
    found = outcome(
        tmp_path,
        monkeypatch,
        "augmentation=[random_crop,mixup]",
        "augmentation.random_crop.size=48",
        "augmentation.random_crop.pad_if_needed=false",
        "loss=multi_margin",
        "regularization=[dropout,batch_norm,stochastic_depth,l2,weight_decay]",
        "regularization.dropout.p=1.5",
        "data.batch_size=1",
        "preprocessing=zca",
        "preprocessing.epsilon=0",
        "data.images_per_class=20",
        "freeze=schedule",
        PHASE % "[classifier, layer4]",
        "init=zero",
        "init.modules=[layer4]",
        "trainer.scale_lr=quadratic",
    )
    beginnings = (
        "regularization.dropout.p=1.5",
        "regularization: l2 and weight_decay",
        "trainer.scale_lr=quadratic",
        "preprocessing=zca",
        "augmentation: an image of 32 x 32",
        "regularization=[stochastic_depth]: LeNet5",
        "init.modules: ",
        "freeze: no stage is named 'layer4'",
        "data.batch_size=1: batch normalization",
        "augmentation=mixup makes soft targets",
    )
    assert [line[: len(start)] for line, start in zip(found, beginnings, strict=True)] == list(beginnings)


def test_entries_that_cannot_be_built_are_named_one_by_one_beside_the_rest(tmp_path, monkeypatch):
    found = outcome(
        tmp_path,
        monkeypatch,
        "regularization=[dropout,max_norm,l1]",
        "regularization.dropout.p=2.0",
        "regularization.max_norm.max_norm=-1.0",
        "augmentation=[flip]",
        "augmentation.flip.p=1.5",
        "trainer.scale_lr=quadratic",
    )
    assert [line.split(":")[0].split(" ")[0] for line in found] == [
        "regularization.dropout.p=2.0",
        "regularization.max_norm.max_norm=-1.0",
        "torchvision.transforms.v2.RandomHorizontalFlip",
        "trainer.scale_lr=quadratic",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "augmentation=[random_crop]",
            "augmentation.random_crop.size=40",
            "augmentation.random_crop.pad_if_needed=false",
        ],
        ["augmentation=[mixup,cutmix]", "regularization=[label_smoothing]"],
        ["augmentation=full", "loss=multi_margin", "regularization=[l1,l2,dropout,batch_norm,max_norm,ema]"],
        ["regularization=[dropout]", "regularization.dropout.p=0"],
        ["preprocessing=zca", "data.images_per_class=20"],
        ["data.batch_size=1"],
        ["data.batch_size=1", "regularization=[batch_norm]", "freeze=features"],
        ["data.batch_size=2", "regularization=[batch_norm]"],
        ["freeze=schedule", PHASE % "['features.[03]', classifier]"],
        ["init=orthogonal", "init.modules=[classifier]"],
    ],
    ids=" ".join,
)
def test_what_goes_together_begins(tmp_path, monkeypatch, overrides):
    assert outcome(tmp_path, monkeypatch, *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer: Nesterov momentum requires.*momentum=0"),
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate.*lr=-1"),
        (["trainer.max_epochs=-1"], "scheduler: the length of the run must be known: set trainer.max_epochs"),
        (["scheduler=onecycle", "scheduler.pct_start=2"], "scheduler: Expected float between 0 and 1.*pct_start=2"),
    ],
)
def test_numbers_that_torch_refuses_are_named_before_any_work(tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        train_in_process(tmp_path / "run", *digits_with(*overrides))
