"""What the diagnostics log of every layer, against the same numbers computed by hand; and what they tell apart."""

import numpy as np
import pytest
import torch
from in_process import DIGITS, parts_of_a_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F

from cnnlab.training.callbacks.diagnostics import watch

OPTIONS = (
    *(option for option in DIGITS if option != "logger=none"),
    "logger=tensorboard",
    "+callbacks.diagnostics._target_=cnnlab.training.callbacks.diagnostics.Diagnostics",
    "data.batch_size=16",
    "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=1",
)
TAG = "layer_{quantity}/{layer}"
QUANTITIES = (
    "activation_mean",
    "activation_std",
    "zero_share",
    "dead_channels",
    "gradient_norm",
    "update_ratio",
    "weight_norm",
    "sparsity",
)
BEHIND_NONLINEARITY = ("zero_share", "dead_channels")


def scalars(folder) -> dict[tuple[str, int], float]:
    """(tag, step) -> value of every scalar of the run's event file."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, entry.step): entry.value for tag in events.Tags()["scalars"] for entry in events.Scalars(tag)}


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Matplotlib takes longer for the picture of an epoch than everything else of it; what it shows is not tested."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cnnlab.training.callbacks.diagnostics.figure_image", lambda _: Image.new("RGB", (2, 2)))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What was logged in two epochs of two steps, and for each step the weights before and after it and its batch.

    Three channels of the second convolution are dead from the start; a proximal l1 leaves exact zeros.
    """
    folder = tmp_path_factory.mktemp("diagnostics") / "run"
    trainer, classifier, data = parts_of_a_run(
        folder,
        *OPTIONS,
        "optimizer=sgd",
        "optimizer.lr=0.05",
        "scheduler=none",
        "regularization=[l1]",
        "regularization.l1.mode=proximal",
        "regularization.l1.lambd=0.02",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=2",
    )
    with torch.no_grad():
        classifier.network.features[3].bias[[0, 5, 9]] = -100.0
    steps: list[dict] = []

    def weights() -> dict[str, torch.Tensor]:
        return {name: value.double().clone() for name, value in classifier.network.state_dict().items()}

    def start(batch, batch_idx) -> None:
        images = classifier.preprocessed(batch[0])
        steps.append({"before": weights(), "images": images.double(), "labels": batch[1]})

    classifier.on_train_batch_start = start
    classifier.on_train_batch_end = lambda *_: steps[-1].update(after=weights())
    trainer.fit(classifier, datamodule=data)
    return scalars(folder), steps


def by_hand(step: dict) -> dict[str, dict[str, float]]:
    """Layer -> quantity -> value of LeNet-5, written out with functions."""
    weights = {name: value.requires_grad_() for name, value in step["before"].items()}
    layers = ("features.0", "features.3", "classifier.1", "classifier.3", "classifier.5")
    outputs, behind = {}, {}
    signal = step["images"]
    for name in layers:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        signal = F.conv2d(signal, weight, bias) if weight.ndim == 4 else F.linear(signal.flatten(1), weight, bias)
        outputs[name] = signal.detach().numpy()
        signal = signal if name == "classifier.5" else signal.clamp(min=0)
        behind[name] = signal.detach().numpy()
        signal = F.max_pool2d(signal, 2) if weight.ndim == 4 else signal
    F.cross_entropy(signal, step["labels"]).backward()
    found = {}
    for name in layers:
        before, after = weights[f"{name}.weight"].detach().numpy(), step["after"][f"{name}.weight"].numpy()
        channels = range(behind[name].shape[1])
        found[name] = {
            "activation_mean": outputs[name].mean(),
            "activation_std": outputs[name].std(),
            "zero_share": (behind[name] == 0).mean(),
            "dead_channels": np.mean([(behind[name][:, channel] == 0).all() for channel in channels]),
            "gradient_norm": np.sqrt((weights[f"{name}.weight"].grad.numpy() ** 2).sum()),
            "weight_norm": np.sqrt((after**2).sum()),
            "update_ratio": np.sqrt(((after - before) ** 2).sum() / (after**2).sum()),
            "sparsity": (after == 0).mean(),
        }
    for quantity in BEHIND_NONLINEARITY:
        del found["classifier.5"][quantity]  # what the network says; nothing follows it
    return found


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_number_is_that_of_the_epochs_first_step(run, epoch):
    """By hand in float64, where a maximum of equal float32 values may be another pixel's: gradients differ by 2e-4."""
    logged, steps = run
    assert len(steps) == 4
    expected = by_hand(steps[2 * epoch])
    for name, quantities in expected.items():
        of_last = name == "classifier.5"
        assert set(quantities) == set(QUANTITIES) - (set(BEHIND_NONLINEARITY) if of_last else set())
        for quantity, value in quantities.items():
            found = logged[(TAG.format(quantity=quantity, layer=name), 2 * epoch)]
            assert found == pytest.approx(value, rel=1e-3, abs=1e-6), (name, quantity)
    assert expected["features.3"]["dead_channels"] >= 3 / 16
    assert expected["classifier.1"]["sparsity"] > 0.001


def test_each_number_is_logged_once_an_epoch(run):
    logged, steps = run
    for name, quantities in by_hand(steps[0]).items():
        for quantity in QUANTITIES:
            tag = TAG.format(quantity=quantity, layer=name)
            steps_of_tag = [step for logged_tag, step in logged if logged_tag == tag]
            assert steps_of_tag == ([0, 2] if quantity in quantities else [])


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """init -> (activation deviations, gradient norms) of the twelve layers of the plain network, from the first up."""
    folder = tmp_path_factory.mktemp("signals")
    found = {}
    for init in ("zero", "normal", "orthogonal"):
        trainer, classifier, data = parts_of_a_run(
            folder / init,
            *OPTIONS,
            "model=plain",
            f"init={init}",
            "optimizer.lr=1e-6",
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=1",
        )
        trainer.fit(classifier, datamodule=data)
        logged = scalars(folder / init)
        layers = [name for name, layer in classifier.network.named_modules() if hasattr(layer, "weight")]
        assert len(layers) == 12
        found[init] = [
            [logged[(TAG.format(quantity=quantity, layer=name), 0)] for name in layers]
            for quantity in ("activation_std", "gradient_norm")
        ]
    return found


def test_zero_lets_every_signal_vanish(signals):
    activations, gradients = signals["zero"]
    assert activations == [0.0] * 12
    assert gradients == [0.0] * 12


def test_normal_lets_signals_explode(signals):
    """A unit sums over 9 * 32 inputs, half of them silenced: each layer multiplies by about sqrt(144) = 12."""
    activations, gradients = signals["normal"]
    factors = np.array(activations[1:11]) / np.array(activations[:10])
    assert 7 < np.exp(np.log(factors).mean()) < 17
    assert min(gradients) > 1e6


def test_orthogonal_keeps_signals_of_one_size(signals):
    activations, gradients = signals["orthogonal"]
    for values in (activations, gradients):
        assert max(values) < 20 * min(values)
    assert 0.01 < min(gradients) < max(gradients) < 10


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 3, 6, 4), (7, 4)])
def test_channels_behind_a_linear_layer_are_the_last_axis(shape):
    """As in transformers: N x tokens x channels, or N x rows x columns x channels."""
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    nn.init.constant_(network[0].bias, 10.0)
    with torch.no_grad():
        network[0].bias[1] = -10.0
    found: dict = {}
    watch(network, found)
    network(torch.rand(shape))
    assert found["0"]["dead_channels"] == pytest.approx(1 / 3)
    assert found["0"]["zero_share"] == pytest.approx(1 / 3)
