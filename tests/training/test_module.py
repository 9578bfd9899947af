"""What the classifier computes, against scikit-learn and closed forms."""

import csv
import math
from types import SimpleNamespace
from typing import ClassVar

import lightning as L
import pytest
import torch
from in_process import DIGITS, digits_with, parts_of_a_run, train_in_process
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score
from torch import nn

from cnnlab.api import load_run
from cnnlab.errors import DivergedError, InputError
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.preprocessing import Normalize
from cnnlab.tasks.classification.module import Classifier
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers.penalties import L2Penalty
from cnnlab.training.regularizers.targets import LabelSmoothing

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=6")


def recipe_for(network: nn.Module, **options: object) -> Recipe:
    return Recipe(
        optimizer=torch.optim.SGD,
        scheduler=lambda optimizer, **steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        loss=nn.CrossEntropyLoss,
        plan=FreezePlan(network, [{"epoch": 0, "train": "all"}]),
        lr=0.1,
        scale_lr=lambda processes: 1,
        seed=0,
        **options,
    )


def test_logged_scores_are_scikit_learns(tmp_path):
    """val/* of the last epoch, recomputed from the last checkpoint's probabilities of each validation image."""
    overrides = (*DIGITS, *SHORT, "optimizer.lr=0.005")
    record = train_in_process(tmp_path / "run", *overrides)
    _, _, data = parts_of_a_run(tmp_path / "again", *overrides)
    run = load_run(tmp_path / "run" / "checkpoints" / "last.ckpt")
    batches = list(data.val_dataloader())
    truth = torch.cat([labels for _, labels in batches]).numpy()
    probabilities = torch.cat([run.predict(images) for images, _ in batches]).double().numpy()
    predicted = probabilities.argmax(axis=1)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    last = record["last"]
    assert last["val/acc"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-6)
    assert last["val/acc_top5"] == pytest.approx(top_k_accuracy_score(truth, probabilities, k=5), abs=1e-6)
    assert last["val/f1"] == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-6)
    assert last["val/loss"] == pytest.approx(log_loss(truth, probabilities), rel=1e-4)
    assert 0.1 < last["val/acc"] < 1


def test_accuracy_weights_images_not_batches(tmp_path):
    """The last batch of validation images is smaller than the others; the mean over batches would differ."""
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *DIGITS, "data.batch_size=100")
    trainer.validate(classifier, datamodule=data, verbose=False)
    sizes = [len(labels) for _, labels in data.val_dataloader()]
    assert len(set(sizes)) > 1
    correct = sum(
        int((classifier.eval()(images).argmax(1) == labels).sum()) for images, labels in data.val_dataloader()
    )
    assert trainer.callback_metrics["val/acc"].item() == pytest.approx(correct / sum(sizes))


def test_uint8_and_float_pictures_give_equal_logits():
    network = LeNet5()
    classifier = Classifier(Normalize([0.2], [0.3]), network, [str(i) for i in range(10)], {}).eval()
    pixels = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    expected = network((pixels.double() / 255 - 0.2).div(0.3).float())
    torch.testing.assert_close(classifier(pixels), expected)
    torch.testing.assert_close(classifier(pixels.float() / 255), expected)
    assert classifier(pixels).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_label_smoothing_is_in_training_only():
    network = LeNet5()
    classifier = Classifier(
        nn.Identity(),
        network,
        [str(i) for i in range(10)],
        {},
        recipe_for(network, regularizers={"label_smoothing": LabelSmoothing(0.2)}),
    )
    classifier.log = classifier.log_dict = lambda *arguments, **options: None
    images, labels = torch.rand(16, 1, 32, 32), torch.arange(16) % 10
    logarithms = network(images).log_softmax(dim=1).detach()
    targets = torch.full((16, 10), 0.2 / 10)
    targets[range(16), labels] += 0.8
    expected = -(targets * logarithms).sum(dim=1).mean().item()
    assert classifier.training_step((images, labels), 0).item() == pytest.approx(expected, rel=1e-5)
    classifier.validation_step((images, labels), 0)
    plain = -logarithms[range(16), labels].mean().item()
    assert classifier.val_loss.compute().item() == pytest.approx(plain, rel=1e-5)
    assert abs(plain - expected) > 1e-6


def test_l2_penalty_is_half_the_squared_weights_of_the_layers():
    torch.manual_seed(0)
    network = LeNet5()
    classes, batch = [str(i) for i in range(10)], (torch.rand(8, 1, 32, 32), torch.arange(8))
    losses = []
    for penalty in (L2Penalty(0.0), L2Penalty(0.3)):
        classifier = Classifier(nn.Identity(), network, classes, {}, recipe_for(network, regularizers={"l2": penalty}))
        losses.append(classifier.training_step(batch, 0).item())
    weights = [value.detach().double() for name, value in network.named_parameters() if name.endswith("weight")]
    expected = 0.15 * sum(weight.square().sum().item() for weight in weights)
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)
    assert classifier.step_values["train/l2"].item() == pytest.approx(expected, rel=1e-5)
    assert classifier.step_values["train/loss"].item() == pytest.approx(losses[0])


def test_loss_that_is_no_number_ends_the_run_and_says_where(tmp_path):
    with pytest.raises(
        DivergedError, match=r"The loss is (nan|inf) at step [1-9]\d* \(epoch 0, learning rate 1e\+30\)"
    ):
        train_in_process(tmp_path / "run", *DIGITS, *SHORT, "optimizer=sgd", "optimizer.lr=1e30", "scheduler=none")


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_learning_rate_follows_the_number_of_processes(tmp_path, rule, factor):
    _, classifier, _ = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        f"trainer.scale_lr={rule}",
        "optimizer.lr=0.002",
        "scheduler=none",
        "freeze=schedule",
        "freeze.phases=[{epoch: 0, train: classifier}, {epoch: 1, train: all, lr_multiplier: 0.25}]",
    )
    classifier._trainer = SimpleNamespace(
        world_size=4,
        estimated_stepping_batches=10,
        num_training_batches=5,
        accumulate_grad_batches=1,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    groups = classifier.configure_optimizers()["optimizer"].param_groups
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.0005 * factor, 0.002 * factor])


def test_unknown_scale_lr_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"none, linear.*sqrt"):
        parts_of_a_run(tmp_path / "run", *DIGITS, "trainer.scale_lr=quadratic")


def test_schedule_spans_exactly_the_steps_of_the_run(tmp_path):
    """With gradients accumulated over two batches, the cosine reaches its end with the last optimizer step."""
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=6",
        "trainer.accumulate_grad_batches=2",
        "optimizer.lr=0.01",
        "scheduler.final_lr=0.001",
    )
    trainer.fit(classifier, datamodule=data)
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)


def test_plateau_watches_validation_accuracy(tmp_path):
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        "scheduler=plateau",
        "scheduler.patience=0",
        "init=zero",
        "trainer.max_epochs=3",
        "trainer.limit_train_batches=2",
        "optimizer.lr=1e-12",
    )
    trainer.fit(classifier, datamodule=data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-14)


def test_classifier_without_a_recipe_cannot_train():
    classifier = Classifier(nn.Identity(), LeNet5(), ["a", "b"], {})
    with pytest.raises(RuntimeError, match="no recipe"):
        classifier.configure_optimizers()


def test_network_of_zeros_has_the_entropy_of_chance():
    network = LeNet5()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    classifier = Classifier(nn.Identity(), network, [str(i) for i in range(10)], {}, recipe_for(network))
    loss = classifier.training_step((torch.rand(4, 1, 32, 32), torch.tensor([0, 3, 3, 9])), 0)
    assert loss.item() == pytest.approx(math.log(10))


def test_step_schedule_counts_epochs_of_optimizer_steps(tmp_path):
    """Five batches, two a step: three steps an epoch, the last of one batch."""
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        "scheduler=step",
        "scheduler.step_epochs=1",
        "scheduler.gamma=0.5",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=5",
        "trainer.accumulate_grad_batches=2",
        "optimizer.lr=0.008",
    )
    trainer.fit(classifier, datamodule=data)
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.002)


def test_every_third_step_is_logged_with_the_values_of_that_step(tmp_path):
    """Also over the end of an epoch, whose last step is what the trainer knows at its end."""

    class Noted(L.Callback):
        steps: ClassVar[list[dict[str, float]]] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            right = (pl_module(batch[0]).argmax(1) == batch[1]).float().mean()
            self.steps.append({"loss": outputs["loss"].item(), "right": right.item()})

    limits = ("trainer.max_epochs=2", "trainer.limit_train_batches=5", "trainer.log_every_n_steps=3")
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *digits_with("logger=csv"), *limits, "optimizer.lr=0")
    trainer.callbacks.append(Noted())
    trainer.fit(classifier, datamodule=data)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file) if row["train/loss"]}
    assert sorted(logged) == [2, 5, 8]
    for step, row in logged.items():
        assert float(row["train/loss"]) == pytest.approx(Noted.steps[step]["loss"], rel=1e-6)
        assert float(row["train/acc"]) == pytest.approx(Noted.steps[step]["right"])
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(Noted.steps[-1]["loss"])
