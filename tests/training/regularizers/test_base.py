"""The protocol of regularizers: what a user writes is called, and what nothing would call is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from in_process import config, digits_with, parts_of_a_run
from user_regularizers import Bias, Blank, Clamp, Epochs, Nothing

from cnnlab import experiment
from cnnlab.errors import InputError
from cnnlab.training.regularizers import HOOKS, Regularizer, acting, require_known
from cnnlab.training.regularizers.penalties import ElasticNet, L1Penalty, L2Penalty, MaxNorm, WeightDecay
from cnnlab.training.regularizers.surgery import BatchNorm, Dropout, StochasticDepth
from cnnlab.training.regularizers.targets import AdversarialTraining, LabelSmoothing

MINE = (
    "+regularization.clamp={_target_: user_regularizers.Clamp, limit: 0.01}",
    "+regularization.blank={_target_: user_regularizers.Blank}",
    "+regularization.bias={_target_: user_regularizers.Bias}",
    "+regularization.epochs={_target_: user_regularizers.Epochs}",
    "trusted_packages=[user_regularizers]",
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two steps with a regularizer of each kind that a user may write: the module, and entry -> regularizer."""
    folder = tmp_path_factory.mktemp("mine") / "run"
    trainer, module, data = parts_of_a_run(
        folder,
        *digits_with("optimizer=sgd", "optimizer.lr=0.5", "scheduler=none"),
        *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
        *MINE,
    )
    batches, values = [], []
    module.on_train_batch_start = lambda batch, batch_idx: batches.append(batch)
    module.on_train_batch_end = lambda *_: values.append(module.step_values)
    with torch.no_grad():
        module.network.classifier[5].bias.fill_(2.0)
    untrained, preprocessing = copy.deepcopy(module.network), copy.deepcopy(module.preprocessing)

    def first_loss(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        return torch.nn.functional.cross_entropy(untrained(preprocessing(inputs)), targets).item()

    trainer.fit(module, datamodule=data)
    entries = module.recipe.regularizers
    return SimpleNamespace(module=module, batches=batches, values=values, entries=entries, first_loss=first_loss)


def test_after_step_alone_changes_the_weights_after_every_step(fitted):
    network = fitted.module.network
    assert network.classifier[1].weight.abs().max() <= 0.01
    assert network.classifier[3].weight.abs().max() > 0.01
    assert fitted.entries["clamp"].rates == [0.5, 0.5]


def test_on_batch_alone_gets_every_batch_and_says_what_is_trained_on(fitted):
    """The loss is that of white pictures of the first class; the accuracy is still that of the data's own targets."""
    seen = fitted.entries["blank"].seen
    assert len(seen) == 2
    for (inputs, targets), (pixels, labels) in zip(seen, fitted.batches, strict=True):
        torch.testing.assert_close(inputs, pixels / 255)
        assert torch.equal(targets, labels)
    white, first = torch.ones_like(seen[0][0]), torch.zeros_like(seen[0][1])
    assert fitted.values[0]["train/loss"].item() == pytest.approx(fitted.first_loss(white, first), rel=1e-5)
    assert fitted.values[0]["train/acc"] in [(seen[0][1] == guess).float().mean() for guess in range(10)]


def test_loss_alone_is_logged_under_its_name_and_trained(fitted):
    assert fitted.values[0]["train/bias"].item() == pytest.approx(10 * 2.0**2)
    assert fitted.values[1]["train/bias"] < 40


def test_callback_in_the_group_is_called(fitted):
    assert fitted.entries["epochs"].epochs == [0]


def test_hooks_that_nothing_overrides_are_not_called(fitted):
    assert {hook: [type(each) for each in acting(fitted.entries.values(), hook)] for hook in HOOKS} == {
        "modify_network": [],
        "loss": [Bias],
        "on_batch": [Blank],
        "after_step": [Clamp],
    }


def test_hooks_of_the_base_do_nothing():
    network = torch.nn.Linear(2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs, targets = torch.rand(3, 2), torch.arange(3)
    each = Nothing()
    each.modify_network(network)
    each.after_step(network, lambda weight: 1.0)
    each.check(network)
    assert each.loss(network) is None
    assert each.on_batch(None, inputs, targets) == (inputs, targets)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (each.weight_decay, each.label_smoothing) == (0.0, 0.0)


class Switched(Regularizer):
    """Sets a number in place of a hook."""

    weight_decay = 0.5


@pytest.mark.parametrize(
    "each",
    [
        *(L1Penalty(), L2Penalty(), ElasticNet(), MaxNorm(), WeightDecay(), WeightDecay(0.0), LabelSmoothing()),
        *(LabelSmoothing(0.0), AdversarialTraining(), Dropout(), BatchNorm(), StochasticDepth()),
        *(Clamp(1.0), Blank(), Bias(), Epochs(), Switched()),
    ],
    ids=lambda each: type(each).__name__,
)
def test_everything_that_acts_is_known(each):
    require_known({"mine": each})


@pytest.mark.parametrize("each", [Nothing(), torch.nn.Dropout(0.5), object(), 0.1, Clamp], ids=str)
def test_what_nothing_would_call_is_refused_with_what_is_called(each):
    kind = type(each).__name__
    with pytest.raises(InputError, match=rf"regularization\.mine: {kind} does nothing during a run.*on_batch"):
        require_known({"max_norm": MaxNorm(), "mine": each})


@pytest.mark.parametrize("target", ["user_regularizers.Nothing", "torch.nn.Dropout"])
def test_run_with_an_entry_that_does_nothing_is_refused(tmp_path, target):
    entry = f"+regularization.mine={{_target_: {target}}}"
    cfg = config(tmp_path / "run", *digits_with(entry, "trusted_packages=[user_regularizers]"))
    with pytest.raises(InputError, match=r"regularization\.mine: .* does nothing during a run"):
        experiment.build(cfg)


def test_layers_that_do_not_exist_are_refused_by_the_base(tmp_path):
    entry = "+regularization.mine={_target_: user_regularizers.Clamp, limit: 1, modules: [features.9]}"
    cfg = config(tmp_path / "run", *digits_with(entry, "trusted_packages=[user_regularizers]"))
    with pytest.raises(
        InputError, match=r"regularization\.mine\.modules: No layer with weights is named 'features\.9'"
    ):
        experiment.build(cfg)
