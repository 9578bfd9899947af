"""Frozen means frozen: parameters and buffers, bit by bit, through real training."""

from pathlib import Path

import pytest
import torch
import torchvision
from in_process import DIGITS, parts_of_a_run, quickly_composed, train_in_process
from program import draw_picture
from torch import nn

from cnnlab.config import CONFIG_DIR
from cnnlab.errors import InputError
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.plain import Plain
from cnnlab.models.stages import match_stages, stage_of_parameter, stages, with_features_and_classifier
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.optimizers import parameter_groups

TINY = (
    "model=mobilenet_v2",
    "model.weights=null",
    "model.network._target_=short_mobilenet.short_mobilenet",
    "trusted_packages=[short_mobilenet]",
    "model.image_size=32",
    "model.resize_size=32",
    "preprocessing=standardize",
    "data=image_folder",
    "data.batch_size=8",
    "data.num_workers=0",
    "trainer=cpu",
    "callbacks=none",
    "logger=none",
    "regularization=[weight_decay]",
    "regularization.weight_decay.weight_decay=0.1",
    "optimizer.lr=0.01",
)
"""Three blocks of MobileNetV2, a quarter of the width, on pictures of 32 pixels, with AdamW and strong weight decay."""


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    for label, shape in enumerate(("circle", "square")):
        for number in range(10):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
    return tmp_path / "pictures"


def plan(network: nn.Module, *phases: dict, **options: str) -> FreezePlan:
    return FreezePlan(network, phases, **options)


def test_frozen_features_keep_every_bit(tmp_path, few_pictures):
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run", *TINY, f"data.root={few_pictures}", "freeze=features", "trainer.max_epochs=2"
    )
    before = state_of(classifier.network)
    trainer.fit(classifier, datamodule=data)
    assert "val/acc" in trainer.callback_metrics
    assert changed(before, state_of(classifier.network)) == {"classifier.1.weight", "classifier.1.bias"}
    steps = {name: value for name, value in before.items() if name.endswith("num_batches_tracked")}
    assert steps
    assert all(value == 0 for value in steps.values())


def test_batch_norm_train_lets_statistics_drift_and_nothing_else(tmp_path, few_pictures):
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *TINY,
        f"data.root={few_pictures}",
        "freeze=features",
        "freeze.batch_norm=train",
        "trainer.max_epochs=1",
    )
    before = state_of(classifier.network)
    trainer.fit(classifier, datamodule=data)
    found = changed(before, state_of(classifier.network))
    drifted = {name for name in found if name.startswith("features.")}
    assert {name.rsplit(".", 1)[1] for name in drifted} == {"running_mean", "running_var", "num_batches_tracked"}
    assert {name for name in before if name.endswith("running_mean")} <= drifted


def test_schedule_unfreezes_at_its_epoch(tmp_path, few_pictures):
    """After the epoch that unfreezes them, the last stages have moved and their batch norm has counted batches."""
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *TINY,
        f"data.root={few_pictures}",
        "freeze=schedule",
        "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_2], lr_multiplier: 0.5}]",
        "trainer.max_epochs=2",
    )
    states = [state_of(classifier.network)]
    original = classifier.on_train_epoch_end
    classifier.on_train_epoch_end = lambda: (states.append(state_of(classifier.network)), original())[1]
    trainer.fit(classifier, datamodule=data)
    stage = stage_of_parameter(classifier.network)
    assert {stage[name] for name in changed(states[0], states[1])} == {"classifier"}
    second = changed(states[1], states[2])
    assert {stage[name] for name in second if name in stage} == {"classifier", "features.3", "features.4"}
    last = classifier.network.features[4][1]
    assert last.num_batches_tracked == len(data.train_dataloader())
    assert "features.4.1.running_mean" in second
    assert "features.2.conv.1.1.running_mean" not in second


def test_modes_follow_the_phases_there_and_back():
    network = torchvision.models.mobilenet_v2(num_classes=2, width_mult=0.25).train()
    freezing = plan(network, {"epoch": 0, "train": "classifier"}, {"epoch": 2, "train": "all"})
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for epoch, trains in ((0, False), (1, False), (2, True), (7, True)):
        freezing.apply(network, epoch)
        assert {layer.training for layer in norms} == {trains}
        assert {parameter.requires_grad for parameter in network.features.parameters()} == {trains}
        assert all(parameter.requires_grad for parameter in network.classifier.parameters())
    assert freezing.ever_freezes(network)
    assert not plan(network, {"epoch": 0, "train": "all"}).ever_freezes(network)


def test_multiplier_is_that_of_the_first_phase_that_trains_a_stage():
    freezing = plan(
        LeNet5(),
        {"epoch": 0, "train": "classifier"},
        {"epoch": 2, "train": ["classifier", "last_1"], "lr_multiplier": 0.1},
        {"epoch": 3, "train": ["classifier", "features.*"], "lr_multiplier": 0.05},
    )
    expected = {"classifier": 1.0, "features.3": 0.1, "features.0": 0.05}
    assert {stage: freezing.lr_multiplier(stage) for stage in expected} == expected


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["all"], [*(f"features.{i}" for i in range(6)), "classifier"]),
        (["features"], [f"features.{i}" for i in range(6)]),
        (["classifier"], ["classifier"]),
        (["last_1"], ["features.3"]),
        (["last_2"], ["features.0", "features.3"]),
        (["features.[34]", "classifier"], ["features.3", "features.4", "classifier"]),
        (["classifier", "features.0"], ["features.0", "classifier"]),
    ],
)
def test_patterns_name_stages_in_order(patterns, expected):
    assert match_stages(LeNet5(), patterns) == expected


def test_stages_of_a_network_that_calls_its_head_fc():
    network = with_features_and_classifier(torchvision.models.resnet18(num_classes=2))
    assert list(stages(network))[-3:] == ["layer4", "avgpool", "classifier"]
    assert match_stages(network, ["layer[34]", "last_1"]) == ["layer3", "layer4"]
    assert stage_of_parameter(network)["fc.weight"] == "classifier"
    assert stage_of_parameter(network)["layer1.0.conv1.weight"] == "layer1"


def test_more_stages_than_there_are_means_all_of_them():
    assert match_stages(LeNet5(), ["last_9"]) == ["features.0", "features.3"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer4"]),
        ("vgg16", [f"features.{number}" for number in range(24, 29)]),
        ("mobilenet_v2", ["features.18"]),
        ("squeezenet1_1", ["features.12"]),
        ("densenet121", ["features.denseblock4", "features.norm5"]),
        ("convnext_tiny", ["features.7"]),
        ("swin_t", ["features.7", "norm"]),
        ("googlenet", ["inception5b"]),
    ],
)
def test_last_block_of_networks_of_torchvision(name, expected):
    with torch.device("meta"):
        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        network = with_features_and_classifier(torchvision.models.get_model(name, **options))
    assert match_stages(network, ["last_block"]) == expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (LeNet5(), ["features.3"]),
        (AlphaGoPolicy(9, in_channels=3, k=4, layers=3), ["features.conv3"]),
        (Plain(depth=7, width=4), ["features.10", "features.11", "features.12"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_last_block_of_our_networks(network, expected):
    """In a chain: what is behind the last pooling, or the last layer where nothing pools."""
    assert match_stages(network, ["last_block"]) == expected


def option(name: str, network: nn.Module) -> FreezePlan:
    cfg = quickly_composed([f"freeze={name}"]).freeze
    return FreezePlan(network, cfg.phases, cfg.batch_norm)


def test_options_train_what_they_say():
    with torch.device("meta"):
        network = torchvision.models.mobilenet_v2(num_classes=2)
    names = list(stages(network))
    expected = {
        "none": {0: names},
        "features": {0: ["classifier"]},
        "last_block": {0: ["features.18", "classifier"]},
        "gradual": {
            **{epoch: ["classifier"] for epoch in (0, 1)},
            **{epoch: ["features.18", "classifier"] for epoch in (2, 3)},
            **{epoch: [*(f"features.{number}" for number in range(15, 19)), "classifier"] for epoch in (4, 5)},
            **dict.fromkeys((6, 7, 99), names),
        },
        "fine_tune": {0: ["classifier"], 1: names, 50: names},
    }
    for name, epochs in expected.items():
        freezing = option(name, network)
        assert {epoch: freezing.trainable(epoch) for epoch in epochs} == epochs, name
        if name != "fine_tune":
            assert {freezing.lr_multiplier(stage) for stage in names} == {1.0}, name


@pytest.mark.parametrize(
    ("constructor", "upwards"),
    [
        (torchvision.models.resnet18, ["layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]),
        (torchvision.models.mobilenet_v2, [f"features.{number}" for number in range(18, -1, -1)]),
    ],
)
def test_fine_tune_has_the_discriminative_rates_of_its_formula(constructor, upwards):
    """The head's rate; 0.2 of it for the stage below, and 0.9 of the stage above for each further down."""
    with torch.device("meta"):
        network = with_features_and_classifier(constructor(num_classes=2))
    freezing = option("fine_tune", network)
    assert freezing.lr_multiplier("classifier") == 1.0
    found = [freezing.lr_multiplier(name) for name in upwards]
    assert found == pytest.approx([0.2 * 0.9**depth for depth in range(len(upwards))])
    groups = parameter_groups(network, freezing, lr=0.01, weight_decay=0.0)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for depth, name in enumerate(upwards):
        for parameter in stages(network)[name].parameters():
            assert rates[id(parameter)] == pytest.approx(0.01 * 0.2 * 0.9**depth)


SCHEDULERS = {
    "none": [],
    "step": ["scheduler.step_epochs=1", "scheduler.gamma=0.5"],
    "cosine": ["scheduler.warmup_epochs=1"],
    "onecycle": [],
    "plateau": ["scheduler.patience=0"],
}


def test_every_scheduler_is_tried_with_phases():
    assert set(SCHEDULERS) == {path.stem for path in (CONFIG_DIR / "scheduler").glob("*.yaml")}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_phases_and_schedules_do_not_disturb_each_other(tmp_path, scheduler):
    """Each group follows the schedule of the whole run times its factor, also while frozen; it moves when it trains."""
    runs = {}
    for name, freeze in {
        "whole": ["freeze=none"],
        "phases": [
            "freeze=schedule",
            "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: [classifier, last_1], lr_multiplier: 0.5},"
            "{epoch: 2, train: all, lr_multiplier: 0.1}]",
        ],
    }.items():
        trainer, classifier, data = parts_of_a_run(
            tmp_path / name,
            *DIGITS,
            f"scheduler={scheduler}",
            *SCHEDULERS[scheduler],
            *freeze,
            "optimizer=sgd",
            "optimizer.lr=1e-4",
            "trainer.max_epochs=3",
            "trainer.limit_train_batches=2",
            "trainer.limit_val_batches=2",
            "data.batch_size=8",
        )
        rates, states = [], [state_of(classifier.network)]
        stage = stage_of_parameter(classifier.network)

        def before_step(optimizer, classifier=classifier, stage=stage, rates=rates) -> None:
            of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
            rates.append({stage[name]: of[id(value)] for name, value in classifier.network.named_parameters()})

        classifier.on_before_optimizer_step = before_step
        classifier.on_train_epoch_end = lambda c=classifier, states=states: states.append(state_of(c.network))
        trainer.fit(classifier, datamodule=data)
        runs[name] = (rates, states, stage)
    rates, states, stage = runs["phases"]
    assert len(rates) == 6
    for found, whole in zip(rates, runs["whole"][0], strict=True):
        base = whole["classifier"]
        assert found == pytest.approx({"classifier": base, "features.3": 0.5 * base, "features.0": 0.1 * base})
    trained = [{stage[name] for name in changed(*states[epoch : epoch + 2])} for epoch in range(3)]
    everything = {"classifier", "features.3", "features.0"}
    assert trained == [{"classifier"}, {"classifier", "features.3"}, everything]


@pytest.mark.parametrize("pattern", ["feature.0", "layer4", "last_0", "last_x", ""])
def test_unknown_stage_lists_the_stages(pattern):
    with pytest.raises(InputError, match=r"Available: features\.0, features\.1, .*, classifier\."):
        match_stages(LeNet5(), [pattern])


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (
            {"epoch": 0, "train": "all", "lr": 1},
            "has the unknown lr. A phase has epoch, train, lr_multiplier, lr_decay",
        ),
        ({"epoch": 0}, "has no train. A phase has epoch, train"),
        ({"train": "all"}, "has no epoch. A phase has epoch, train"),
    ],
)
def test_phase_has_its_keys(phase, message):
    with pytest.raises(InputError, match=message):
        plan(LeNet5(), phase)


@pytest.mark.parametrize("epochs", [[], [1], [0, 2, 2], [0, 3, 1]])
def test_phases_begin_at_zero_and_increase(epochs):
    with pytest.raises(InputError, match="the first must be 0, and they must increase"):
        plan(LeNet5(), *({"epoch": epoch, "train": "all"} for epoch in epochs))


def test_unknown_batch_norm_mode_is_refused():
    with pytest.raises(InputError, match="use eval or train"):
        plan(LeNet5(), {"epoch": 0, "train": "all"}, batch_norm="frozen")


def test_run_with_frozen_features_records_what_a_run_records(tmp_path, few_pictures):
    record = train_in_process(
        tmp_path / "run", *TINY, f"data.root={few_pictures}", "freeze=features", "trainer.max_epochs=1"
    )
    assert record["status"] == "finished"
    assert record["images"] == {"train": 18, "val": 2}
