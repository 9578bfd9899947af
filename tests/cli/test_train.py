"""The verb `train`: settings that need each other, and unusual ways to divide the data."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from in_process import command_line, digits_with, parts_of_a_run, train_in_process
from sklearn.datasets import load_digits

from cnnlab.cli import main as cli
from cnnlab.cli.evaluate import evaluate_run
from cnnlab.errors import InputError
from cnnlab.tasks.classification.module import Classifier

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")


def test_overfitting_learns_a_few_batches_by_heart(tmp_path):
    record = train_in_process(
        tmp_path / "run",
        *digits_with("debug=overfit", "optimizer.lr=0.005", "data.batch_size=16", "trainer.max_epochs=25"),
        "trainer.check_val_every_n_epoch=25",
    )
    assert record["images"] == {"train": 48, "val": 48}
    assert record["last"]["val/acc"] == 1.0
    names = [(tmp_path / "run" / "splits" / f"{part}.txt").read_text().split() for part in ("train", "val")]
    assert names[0] == names[1]
    labels = load_digits().target[[int(name) for name in names[0]]]
    assert len(np.unique(labels)) > 5


def test_part_of_the_images_may_be_overfitted(tmp_path):
    _, _, data = parts_of_a_run(tmp_path / "run", *digits_with("trainer.overfit_batches=0.1"))
    assert len(data.parts.train) == round(0.1 * 1266)


@pytest.mark.parametrize("callbacks", ["none", "default"])
def test_run_without_validation_images_keeps_its_last_epoch(tmp_path, callbacks):
    record = train_in_process(
        tmp_path / "run",
        *digits_with("data.val_fraction=0", f"callbacks={callbacks}", "logger=tensorboard", *SHORT),
        *(["callbacks.progress=null"] if callbacks == "default" else []),
    )
    assert record["best"] == {}
    assert "val" not in record["images"]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    exported = torch.load(tmp_path / "run" / "best_weights.pth", weights_only=True)
    assert all(torch.equal(value, last[f"network.{name}"]) for name, value in exported.items())


@pytest.mark.parametrize("waiting", ["scheduler=plateau", "regularization=[early_stopping]"])
@pytest.mark.parametrize("missing", ["data.val_fraction=0", "trainer.limit_val_batches=0"])
def test_what_follows_validation_needs_some(tmp_path, waiting, missing):
    with pytest.raises(InputError, match=r"follows val/acc, but nothing is validated"):
        train_in_process(tmp_path / "run", *digits_with(waiting, missing, *SHORT))


def test_early_stopping_stops_and_the_first_of_equal_epochs_is_the_best(tmp_path):
    record = train_in_process(
        tmp_path / "run",
        *digits_with(
            "regularization=[early_stopping]",
            "regularization.early_stopping.patience=2",
            "optimizer.lr=1e-12",
            "trainer.max_epochs=9",
            "trainer.limit_train_batches=1",
        ),
    )
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert (record["last"]["epoch"], record["best"]["epoch"], best["epoch"]) == (2, 0, 0)


def test_test_score_and_export_are_of_the_best_epoch(tmp_path, monkeypatch):
    """The network forgets everything before the validation of its last epoch."""

    def forget(self: Classifier) -> None:
        if self.current_epoch == 1:
            torch.nn.init.zeros_(self.network.classifier[5].weight)

    monkeypatch.setattr(Classifier, "on_validation_start", forget)
    record = train_in_process(
        tmp_path / "run", *digits_with("trainer.max_epochs=2", "trainer.limit_train_batches=30", "optimizer.lr=0.005")
    )
    assert record["best"]["epoch"] == 0
    assert record["last"]["val/acc"] < record["best"]["val/acc"]
    evaluated = evaluate_run([f"run={tmp_path / 'run'}"])
    assert record["test"]["test/acc"] == pytest.approx(evaluated.metrics["acc"], abs=1e-6)
    assert record["test"]["test/acc"] > record["last"]["val/acc"]
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    exported = torch.load(tmp_path / "run" / "best_weights.pth", weights_only=True)
    assert all(torch.equal(value, best[f"network.{name}"]) for name, value in exported.items())


def test_colour_statistics_do_not_fit_a_grey_network(tmp_path):
    with pytest.raises(InputError, match=r"statistics of 3 channels, but the network takes 1.*standardize"):
        train_in_process(tmp_path / "run", *digits_with("preprocessing=weights", *SHORT))


def test_weights_of_a_run_bring_their_preprocessing(tmp_path):
    """A second run that starts from the first one's folder, on its mean and deviation, begins at its accuracy."""
    first = train_in_process(
        tmp_path / "first", *digits_with("trainer.max_epochs=1", "trainer.limit_train_batches=30", "optimizer.lr=0.005")
    )
    second = train_in_process(
        tmp_path / "second",
        *digits_with(f"model.weights={tmp_path / 'first'}", "preprocessing=weights", "optimizer.lr=1e-12", *SHORT),
    )
    assert second["best"]["val/acc"] == first["best"]["val/acc"] > 0.2
    assert second["test"]["test/acc"] == first["test"]["test/acc"]


@pytest.mark.parametrize(
    ("overrides", "best"),
    [
        (["data.val_fraction=0"], "none, because nothing was validated."),
        (["trainer.max_steps=1"], "none, because nothing was validated."),
        (["data.images_per_class=3", "data.classes=2", "metric=loss"], "0."),
    ],
    ids=["no validation images", "ends before the first validation", "two images"],
)
def test_small_run_says_nothing_of_lightning_and_no_none(
    monkeypatch, kept_logging, tmp_path, capfd, recwarn, overrides, best
):
    few = digits_with("logger=[tensorboard,csv]", "trainer.limit_test_batches=1", "trainer.max_epochs=1", *overrides)
    assert command_line(monkeypatch, *few, f"paths.output_dir={tmp_path / 'run'}") == 0
    said = capfd.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("Best val/")]
    assert line.split(": ")[1].startswith(best)
    assert [str(each.message) for each in recwarn if "lightning" in each.filename] == []
    assert not re.search(r"\bNone\b|\bnan\b|ightning", said)


def test_run_of_zeros_is_at_chance_and_does_not_fail(tmp_path):
    record = train_in_process(
        tmp_path / "run",
        *digits_with("init=zero", "callbacks=default", "callbacks.progress=null", "logger=tensorboard", *SHORT),
    )
    assert record["last"]["val/loss"] == pytest.approx(np.log(10), rel=1e-3)


@pytest.mark.parametrize("augmentation", ["basic", "[random_crop]"])
def test_crop_has_the_size_that_the_weights_of_a_model_by_name_give(tmp_path, augmentation):
    _, _, data = parts_of_a_run(
        tmp_path / "run",
        *digits_with(
            "model=torchvision",
            "model.name=squeezenet1_1",
            "model.weights=null",
            "preprocessing=none",
            f"augmentation={augmentation}",
            "data.batch_size=2",
        ),
    )
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 224, 224)


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("model.network.in_channels=2", "LeNet5 with CrossEntropyLoss cannot be trained on inputs of 1 x 32 x 32: "),
        ("loss=mse", "LeNet5 with MSELoss cannot be trained on inputs of 1 x 32 x 32: "),
    ],
)
def test_what_the_trial_step_finds_ends_with_2_and_leaves_no_run(
    monkeypatch, kept_logging, tmp_path, capsys, verb, wrong, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cnnlab", verb, *digits_with(wrong, f"paths.cache_dir={tmp_path / 'cache'}")])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("Error: ") == 1
    assert "Traceback" not in said
    assert list(tmp_path.glob("outputs/*/*")) == []


def test_gpu_is_refused_where_there_is_none(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="no CUDA GPU"):
        train_in_process(tmp_path / "run", *digits_with("trainer=gpu"))


def test_equal_commands_give_equal_runs_and_other_seeds_others(tmp_path):
    command = digits_with("augmentation=[random_crop,noise]", "regularization=[dropout]", *SHORT)
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_in_process(tmp_path / name, *command, f"seed={seed}")
        weights.append(torch.load(tmp_path / name / "best_weights.pth", weights_only=True))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["features.0.weight"], weights[2]["features.0.weight"])
    splits = [json.loads((tmp_path / name / "run.json").read_text())["split_hash"] for name in "abc"]
    assert len(set(splits)) == 1
