"""Every argument of lightning.Trainer with two values or more: it works, or one sentence refuses it before the run."""

import inspect
import re
from collections import defaultdict
from itertools import chain

import lightning as L
import pytest
import torch
from in_process import config, digits_with, train_in_process

from cnnlab import experiment
from cnnlab.errors import InputError
from cnnlab.training.trainer_checks import check_arguments

TINY = digits_with("data.images_per_class=6", "data.batch_size=13", "optimizer=sgd", "trainer.max_epochs=2")
"""Three batches in an epoch, one of validation and one of test images."""

REFUSED = {
    "accumulate_grad_batches": {0: "must be at least 1", -2: "must be at least 1"},
    "barebones": {True: "cannot be set: it would leave out what a run records"},
    "callbacks": {(1,): r"cannot be set: add a callback with \+callbacks.NAME"},
    "check_val_every_n_epoch": {0: "must be at least 1, or null", -1: "must be at least 1, or null"},
    "default_root_dir": {"elsewhere": "cannot be set: paths.output_dir=FOLDER"},
    "deterministic": {True: "exclude each other", "warn": "exclude each other"},
    "enable_progress_bar": {True: "cannot be set: callbacks.progress=null"},
    "fast_dev_run": {True: "cannot be set: debug=smoke", 3: "cannot be set: debug=smoke"},
    "gradient_clip_algorithm": {"value": "set trainer.gradient_clip_val too"},
    "gradient_clip_val": {-1.0: "must be at least 0"},
    "limit_predict_batches": {1: "cannot be set", 0.5: "cannot be set"},
    "limit_test_batches": {-1: "must be a number of batches", 1.5: "must be a number of batches", None: "=null"},
    "limit_train_batches": {0: "must be at least 1 batch", 1.5: "at least 1 batch"},
    "limit_val_batches": {-1: "must be a number of batches", None: "limit_val_batches=null"},
    "log_every_n_steps": {-1: "must be at least 1, or 0"},
    "logger": {True: r"cannot be set: choose loggers with logger="},
    "max_epochs": {0: "must be at least 1, or -1", -2: "must be at least 1, or -1", None: "max_epochs=null"},
    "max_steps": {0: "must be at least 1, or -1", -2: "must be at least 1, or -1"},
    "max_time": {"2s": "must be a time such as", 2: "must be a time such as"},
    "min_epochs": {11: r"min_epochs=11 is more than trainer.max_epochs=10", -3: "must be at least 0"},
    "min_steps": {-3: "must be at least 0"},
    "model_registry": {"x": "cannot be set"},
    "num_nodes": {0: "must be at least 1", -1: "must be at least 1"},
    "num_sanity_val_steps": {-3: "must be at least 0, or -1"},
    "overfit_batches": {-1: "must be a number of batches", 1.5: "must be a number of batches"},
    "plugins": {"x": "cannot be set: speed.precision"},
    "precision": {"16-mixed": "the CPU has no mixed precision in float16"},
    "profiler": {"foo": "must be one of simple", "xla": "must be one of simple"},
    "reload_dataloaders_every_n_epochs": {-1: "must be at least 0"},
    "use_distributed_sampler": {True: "cannot be set: the data are divided"},
    "val_check_interval": {0: "must be at least 1 batch", "abc": "must be at least 1 batch", -3: "at least 1 batch"},
}
"""Argument -> value -> what `check_arguments` says about it, without data and network."""

REFUSED_WITH_DATA = {
    "accelerator=cpuu": "trainer: You selected an invalid accelerator name: `accelerator='cpuu'`",
    "strategy=ddpp": "trainer: You selected an invalid strategy name: `strategy='ddpp'`",
    "devices=0": r"trainer: `Trainer\(devices=0\)` value is not a valid input",
    "devices=x": "trainer: `devices` selected with `CPUAccelerator` should be an int > 0",
    "limit_train_batches=0.1": "this share of 3 batches is less than one. Set .* at least 0.334",
    "limit_val_batches=0.4": "this share of 1 batches is less than one. Set a number of batches, or at least 1.0",
    "+val_check_interval=4": "is more than the 3 batches of an epoch",
    "+min_steps=7": "the run ends after 6 steps",
    "max_epochs=-1": "the length of the run must be known",
}
"""Override below `trainer.` -> what `build` says about it."""

WAITS_IN_VAIN = {
    ("max_steps=2", "scheduler=plateau"): "scheduler needs val/acc, but the run ends before its first validation",
    ("check_val_every_n_epoch=3", "regularization=[early_stopping]"): "early_stopping needs val/acc, but the run ends",
    (
        "+val_check_interval=7",
        "check_val_every_n_epoch=null",
        "regularization=[early_stopping]",
    ): "ends before its first",
    (
        "+val_check_interval=1",
        "check_val_every_n_epoch=null",
        "scheduler=plateau",
    ): "needs val/acc at the end of epochs",
}
"""Overrides below `trainer.` and another -> what `build` says about them."""

WORKS = {
    "fewer": [
        *("accelerator=cpu", "max_epochs=3", "+min_epochs=1", "max_steps=7", "+min_steps=2", "limit_train_batches=2"),
        *("limit_val_batches=1", "limit_test_batches=2", "log_every_n_steps=1", "num_sanity_val_steps=1"),
        *("+enable_autolog_hparams=false", "+inference_mode=false", "gradient_clip_val=1.0", "devices=1"),
        *("+gradient_clip_algorithm=norm", "+logger=false", "+callbacks=null", "strategy=auto", "overfit_batches=0"),
    ],
    "shares": [
        *("accelerator=auto", "limit_train_batches=0.7", "limit_val_batches=1.0", "limit_test_batches=1.0"),
        *("log_every_n_steps=0", "num_sanity_val_steps=-1", "gradient_clip_val=0.5", "precision=bf16-mixed"),
        *("+gradient_clip_algorithm=value", "+reload_dataloaders_every_n_epochs=1", "+max_time={hours: 12}"),
        *(
            "+val_check_interval=0.5",
            "strategy=single_device",
            "+sync_batchnorm=true",
            "benchmark=false",
            "num_nodes=1",
        ),
        *("deterministic=true", "devices='1'", "use_distributed_sampler=false", "+plugins=[]", "+barebones=false"),
    ],
    "over all epochs": [
        *("check_val_every_n_epoch=null", "+val_check_interval=2", "accumulate_grad_batches=2", "max_steps=3"),
        *("max_epochs=-1", "+detect_anomaly=true", "+max_time=00:00:30:00", "precision=32-true", "benchmark=null"),
        *("+sync_batchnorm=false", "+inference_mode=true", "+profiler=null", "+enable_checkpointing=true"),
        *("+default_root_dir=null", "+enable_progress_bar=false", "+fast_dev_run=false", "+model_registry=null"),
    ],
    "seldom": [
        *("check_val_every_n_epoch=2", "max_epochs=3", "accumulate_grad_batches=100", "+enable_checkpointing=false"),
        *("limit_test_batches=0", "+detect_anomaly=false", "+reload_dataloaders_every_n_epochs=0"),
        *("enable_model_summary=true", "+profiler=simple", "+enable_autolog_hparams=true", "overfit_batches=2"),
    ],
    "without validation": ["limit_val_batches=0", "enable_model_summary=false", "limit_test_batches=1"],
    "by time": ["+val_check_interval=00:00:10:00", "limit_test_batches=1", "max_epochs=1"],
}
"""Overrides below `trainer.` that go together."""


def test_every_argument_of_the_trainer_is_tried_with_two_values():
    tried = defaultdict(set)
    for name, values in REFUSED.items():
        tried[name] |= {str(value) for value in values}
    for override in chain(REFUSED_WITH_DATA, *WAITS_IN_VAIN, *WORKS.values()):
        name, _, value = override.lstrip("+").partition("=")
        tried[name].add(value)
    arguments = set(inspect.signature(L.Trainer).parameters)
    assert {name for name in arguments if len(tried[name]) < 2} == set()


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    return config(tmp_path_factory.mktemp("checks") / "run", *digits_with())


@pytest.mark.parametrize("name", REFUSED)
def test_argument_is_refused_by_one_sentence(cfg, name):
    check_arguments(cfg)
    for value, message in REFUSED[name].items():
        with pytest.raises(InputError, match=message) as refused:
            check_arguments({**cfg, "trainer": {**cfg["trainer"], name: value}})
        assert len(refused.value.problems) == 1
        assert f"trainer.{name}" in str(refused.value) or name == "precision"


@pytest.mark.parametrize("override", REFUSED_WITH_DATA)
def test_argument_is_refused_when_data_and_trainer_are_known(tmp_path, override):
    trainer = f"+trainer.{override[1:]}" if override.startswith("+") else f"trainer.{override}"
    with pytest.raises(InputError, match=REFUSED_WITH_DATA[override]) as refused:
        experiment.build(config(tmp_path / "run", *TINY, trainer))
    assert "\n" not in str(refused.value)


def below_trainer(overrides):
    return [re.sub(r"^(\+?)(?!regularization|scheduler)", r"\1trainer.", override) for override in overrides]


@pytest.mark.parametrize("overrides", WAITS_IN_VAIN, ids=" ".join)
def test_nothing_waits_for_a_validation_that_never_comes(tmp_path, overrides):
    with pytest.raises(InputError, match=WAITS_IN_VAIN[overrides]):
        experiment.build(config(tmp_path / "run", *TINY, *below_trainer(overrides)))


@pytest.mark.parametrize("group", WORKS)
def test_arguments_work(tmp_path, group, recwarn, caplog):
    record = train_in_process(tmp_path / "run", *TINY, *below_trainer(WORKS[group]))
    checkpoints = [path.name for path in (tmp_path / "run").glob("checkpoints/*")]
    validates = group not in ("without validation", "by time")
    saves = "+enable_checkpointing=false" not in WORKS[group]
    assert ("val/acc" in record["best"]) is validates
    assert sorted(checkpoints) == (["best.ckpt"] * validates + ["last.ckpt"]) * saves
    assert ("test/acc" in record.get("test", {})) is saves
    shown = [str(each.message) for each in recwarn] + [each.message for each in caplog.records]
    assert not [text for text in shown if "nan" in text or "None" in text.replace("'None'", "")]


@pytest.mark.parametrize("rest", [1, 2])
def test_last_checkpoint_is_of_the_last_epoch_whichever_epochs_are_validated(tmp_path, rest):
    train_in_process(tmp_path / "run", *TINY, "trainer.check_val_every_n_epoch=2", f"trainer.max_epochs={rest}")
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (rest - 1, 3 * rest)
