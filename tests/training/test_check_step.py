"""The trial step: it says in one sentence what would fail in the first step of training, and leaves no trace."""

import random

import numpy as np
import pytest
import torch
from in_process import config, digits_with
from torch import Tensor, nn
from torchvision.transforms import v2

from cnnlab import experiment
from cnnlab.data.transforms import batch_transforms
from cnnlab.errors import InputError
from cnnlab.models.lenet5 import LeNet5
from cnnlab.tasks.classification.module import Classifier
from cnnlab.tasks.regression.module import Regressor
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers.targets import AdversarialTraining, LabelSmoothing

CLASSES = [str(number) for number in range(10)]


class Noisy(nn.Module):
    """LeNet-5 with what a forward pass changes or draws: statistics of batch norm, dropout, a count of calls."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.classifier = nn.Linear(4 * 7 * 7, outputs)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.classifier(self.features(inputs).flatten(1))


class Pair(Noisy):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs = super().forward(inputs)
        return outputs, outputs


class Full(Noisy):
    def forward(self, inputs: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def module_of(network: nn.Module, loss: type[nn.Module] = nn.CrossEntropyLoss, kind=Classifier, **recipe) -> TaskModule:
    plan = FreezePlan(network, [{"epoch": 0, "train": "all"}])
    made = Recipe(torch.optim.SGD, lambda optimizer, **steps: None, loss, plan, lr=0.1, seed=0, **recipe)
    return kind(nn.Identity(), network, CLASSES if kind is Classifier else [], {}, made)


def batch_of(side: int = 32) -> tuple[Tensor, Tensor]:
    pixels = torch.randint(0, 256, (6, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pixels, torch.arange(6)


def state_of(module: TaskModule) -> tuple:
    """Everything that a trial step could leave behind."""
    tensors = {name: value.clone() for name, value in [*module.named_parameters(), *module.named_buffers()]}
    sums = {
        f"{part}/{name}": value.clone()
        for part, metric in [*module.epoch_sums().items(), *module.val_metrics.items(), ("loss", module.val_loss)]
        for name, value in metric.metric_state.items()
    }
    return (
        tensors | sums,
        {name: part.training for name, part in module.named_modules()},
        {name: value.grad is None for name, value in module.named_parameters()},
        [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()],
    )


def check_leaves_no_trace(module: TaskModule, batch: tuple[Tensor, Tensor]) -> None:
    module.network.features.eval()  # modes that are not all the same
    before, pixels = state_of(module), batch[0].clone()
    try:
        module.check_step(batch)
    finally:
        after = state_of(module)
        assert before[0].keys() == after[0].keys()
        assert [name for name, value in before[0].items() if not torch.equal(value, after[0][name])] == []
        assert before[1:] == after[1:]
        assert torch.equal(batch[0], pixels)


@pytest.mark.parametrize(
    ("network", "side", "loss", "message"),
    [
        (Pair, 32, nn.CrossEntropyLoss, r"^Pair returns a tuple\b.* tensor"),
        (
            lambda: Noisy(7),
            32,
            nn.CrossEntropyLoss,
            r"^Noisy returns 6 x 7 numbers for 6 images; classification into 10 classes needs 6 x 10\.$",
        ),
        (
            Noisy,
            40,
            nn.CrossEntropyLoss,
            r"^Noisy with CrossEntropyLoss cannot be trained on inputs of 1 x 40 x 40: mat1 and mat2 shapes cannot be "
            r"multiplied .*\. Check model\.\*, data\.\* and loss\.$",
        ),
        (
            Noisy,
            32,
            nn.BCEWithLogitsLoss,
            r"^Noisy with BCEWithLogitsLoss cannot be trained on inputs of 1 x 32 x 32: Target size .*must be the same",
        ),
        (
            Noisy,
            3,
            nn.CrossEntropyLoss,
            r"cannot be trained on inputs of 1 x 3 x 3: .*Kernel size can't be greater than actual input size\. Check",
        ),
    ],
    ids=["tuple", "classes", "image size", "loss", "kernel"],
)
def test_step_that_would_fail_is_an_input_error_and_leaves_no_trace(network, side, loss, message):
    with pytest.raises(InputError, match=message):
        check_leaves_no_trace(module_of(network(), loss), batch_of(side))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"regularizers": {"label_smoothing": LabelSmoothing(0.1)}},
        {"regularizers": {"adversarial": AdversarialTraining(steps=2)}},
        {"channels_last": False},
        {"batch_transforms": "mixup"},
    ],
    ids=["plain", "smoothed", "adversarial", "contiguous", "mixed"],
)
def test_step_that_works_leaves_no_trace_either(recipe):
    if recipe.get("batch_transforms"):
        recipe = {"batch_transforms": batch_transforms([v2.MixUp(alpha=0.2)], 10)}
    check_leaves_no_trace(module_of(Noisy(), **recipe), batch_of())


def test_network_of_a_regression_with_several_outputs_is_refused():
    network = Noisy(2)
    with pytest.raises(InputError, match=r"Noisy returns 6 x 2 numbers for 6 images; regression needs one"):
        check_leaves_no_trace(module_of(network, nn.MSELoss, Regressor), (batch_of()[0], torch.rand(6)))
    check_leaves_no_trace(module_of(Noisy(1), nn.MSELoss, Regressor), (batch_of()[0], torch.rand(6)))


def test_loss_that_would_broadcast_the_targets_is_refused():
    module = Classifier(nn.Identity(), Noisy(2), ["cat", "dog"], {}, module_of(Noisy(), nn.MSELoss).recipe)
    with pytest.raises(InputError, match=r"^Noisy with MSELoss cannot be trained on .*target size"):
        check_leaves_no_trace(module, (batch_of()[0][:2], torch.arange(2)))  # 2 targets broadcast to 2 x 2 outputs


def test_memory_that_runs_out_is_not_called_wrong_input():
    with pytest.raises(torch.OutOfMemoryError):
        check_leaves_no_trace(module_of(Full()), batch_of())


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own word on the loss that does not fit
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.image_size=28", "model.resize_size=28"],
            "LeNet5 with CrossEntropyLoss cannot be trained on inputs of",
        ),
        (["loss=mse"], "LeNet5 with MSELoss cannot be trained on inputs of 1 x 32 x 32"),
    ],
)
def test_experiment_that_cannot_take_a_step_is_refused_before_it_begins(tmp_path, overrides, message):
    built = experiment.build(config(tmp_path / "run", *digits_with(*overrides)))
    with pytest.raises(InputError, match=message):
        built.check()
    assert not (tmp_path / "run").exists()


def test_checked_run_is_the_unchecked_one(tmp_path):
    """Bit by bit, with batch norm and dropout."""
    states = []
    for name in ("checked", "unchecked"):
        short = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1")
        built = experiment.build(config(tmp_path / name, *digits_with(*short, "regularization=[batch_norm,dropout]")))
        if name == "checked":
            built.check()
        built.fit()
        states.append(built.module.state_dict())
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert isinstance(built.module.network, LeNet5)
