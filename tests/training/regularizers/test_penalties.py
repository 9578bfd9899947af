"""Penalties, steps after the optimizer's, weight decay, smoothing and averaging, each against its formula."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_process import DIGITS, parts_of_a_run, quickly_composed, train_in_process
from omegaconf import OmegaConf
from scipy.optimize import minimize_scalar
from torch import nn

from cnnlab.api import load_run
from cnnlab.config import build
from cnnlab.errors import InputError
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.optimizers import parameter_groups
from cnnlab.training.regularizers import Regularizer, require_together
from cnnlab.training.regularizers.penalties import (
    ElasticNet,
    L1Penalty,
    L2Penalty,
    MaxNorm,
    WeightDecay,
    penalty,
    sparsity,
)
from cnnlab.training.regularizers.targets import LabelSmoothing


class Small(nn.Module):
    """Two weights of known values between norm layers; everything that is no weight is far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
        self.classifier = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm([2, 2]))
        for parameter in self.parameters():
            nn.init.constant_(parameter, 100.0)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]).view(2, 1, 1, 2))
            self.classifier[0].weight.copy_(torch.tensor([[3.0, -0.25], [0.0, -1.0]]))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("l1", {}, 1 + 2 + 0.5 + 3 + 0.25 + 1),
        ("l2", {}, 1 + 4 + 0.25 + 9 + 0.0625 + 1),
        ("elastic_net", {}, 15.3125 + 7.75),
        ("elastic_net", {"beta": 2.0}, 2 * 15.3125 + 7.75),
        ("elastic_net", {"beta": 0.0}, 7.75),
    ],
)
def test_penalty_is_the_courses_sum_over_weights_alone(name, options, expected):
    found = penalty(name, Small(), **options)
    assert found.shape == ()
    assert found.item() == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (L1Penalty(0.1), 0.1 * 7.75),
        (L2Penalty(0.1), 0.1 / 2 * 15.3125),
        (ElasticNet(0.1, beta=3.0), 0.1 * (3 * 15.3125 + 7.75)),
    ],
)
def test_term_of_the_loss_has_lambda_and_gives_weights_alone_a_gradient(entry, expected):
    network = Small()
    term = entry.loss(network)
    assert term.item() == pytest.approx(expected)
    term.backward()
    slope = {
        L1Penalty: lambda w: 0.1 * w.sign(),
        L2Penalty: lambda w: 0.1 * w,
        ElasticNet: lambda w: 0.1 * (6 * w + w.sign()),
    }[type(entry)]
    for name, parameter in network.named_parameters():
        if name in ("features.0.weight", "classifier.0.weight"):
            torch.testing.assert_close(parameter.grad, slope(parameter.detach()))
        else:
            assert parameter.grad is None, name


def test_network_without_weights_has_no_penalty():
    assert [penalty(name, nn.BatchNorm2d(3)).item() for name in ("l1", "l2", "elastic_net")] == [0.0] * 3


def test_unknown_penalty_is_refused():
    with pytest.raises(InputError, match="penalty l3: use l1, l2 or elastic_net"):
        penalty("l3", Small())


def step_of(entry: Regularizer, weight: torch.Tensor, lr: float) -> None:
    """What the entry makes of one weight, in place, after a step at this rate."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.weight.grad = torch.zeros_like(weight)
    entry.after_step(layer, lambda parameter: lr)


weights = st.floats(-3, 3).map(lambda value: round(value, 3))


@given(weights, st.floats(0.01, 1.0), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_proximal_step_is_the_minimum_that_defines_it(weight, lr, lambd, beta):
    """prox(v) = argmin_w lr * penalty(w) + (w - v)^2 / 2, found by SciPy."""
    for entry, own_beta in ((L1Penalty(lambd, mode="proximal"), 0.0), (ElasticNet(lambd, beta, mode="proximal"), beta)):

        def objective(w: float, own_beta: float = own_beta) -> float:
            return lr * lambd * (own_beta * w * w + abs(w)) + (w - weight) ** 2 / 2

        tensor = torch.tensor([[weight]], dtype=torch.float64)
        step_of(entry, tensor, lr)
        best = minimize_scalar(objective, bounds=(-3.5, 3.5), method="bounded", options={"xatol": 1e-9}).x
        assert tensor.item() == pytest.approx(best, abs=1e-5)
        assert objective(tensor.item()) <= objective(best) + 1e-12


def trained(entry: object, steps: int) -> torch.Tensor:
    """Three weights after gradient descent at rate 0.1 on |w - (1, 0.3, -0.05)|^2 / 2 and the entry."""
    target, lr = torch.tensor([[1.0, 0.3, -0.05]]), 0.1
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.7, -0.2, 0.6]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum() / 2
        (loss if entry.mode == "proximal" else loss + entry.loss(layer)).backward()
        optimizer.step()
        if entry.mode == "proximal":
            with torch.no_grad():
                entry.after_step(layer, lambda weight: lr)
    return layer.weight.detach().flatten()


@pytest.mark.parametrize(("kind", "shrink"), [(L1Penalty, 1.0), (ElasticNet, 1 + 2 * 0.2)])
def test_both_modes_go_to_the_lasso_and_only_one_of_them_arrives_at_zero(kind, shrink):
    """The minimum is the soft threshold of the target (Zou and Hastie 2005, equation 6, for an orthonormal design)."""
    expected = torch.tensor([0.8, 0.1, 0.0]) / shrink
    exact, near = trained(kind(0.2, mode="proximal"), 300), trained(kind(0.2, mode="penalty"), 300)
    torch.testing.assert_close(exact, expected)
    assert exact[2] == 0.0
    torch.testing.assert_close(near, expected, atol=0.03, rtol=0)
    assert near[2] != 0.0


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 2), (6, 1, 3, 3)])
def test_max_norm_scales_each_unit_that_is_too_long(shape):
    rng = np.random.default_rng(0)
    before = rng.normal(size=shape)
    lengths = np.linspace(0.5, 2.5, shape[0])
    for unit, length in enumerate(lengths):
        before[unit] *= length / np.linalg.norm(before[unit])
    expected = before.copy()
    for unit in range(shape[0]):
        length = math.sqrt(sum(value * value for value in before[unit].ravel()))
        if length > 1.5:
            expected[unit] *= 1.5 / length
    weight = torch.tensor(before)
    step_of(MaxNorm(1.5), weight, lr=0.1)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)
    short = lengths < 1.5
    assert np.array_equal(weight.numpy()[short], before[short])


GRADIENT = torch.tensor([[0.5, -1.0], [0.02, 3.0]])


@pytest.mark.parametrize("option", ["sgd", "adam", "adamw", "rmsprop"])
def test_weight_decay_is_in_the_gradient_except_where_it_is_decoupled(option):
    """One step with a given gradient g: what each paper makes of g + decay * w, or of g beside decay * w."""
    lr, decay = 0.1, 0.3
    cfg = OmegaConf.to_container(
        quickly_composed([f"optimizer={option}", f"optimizer.lr={lr}"]).optimizer, resolve=True
    )
    network = Small()
    plan = FreezePlan(network, [{"epoch": 0, "train": "all"}])
    optimizer = build(cfg)(parameter_groups(network, plan, lr, WeightDecay(decay).weight_decay), lr=lr)
    layer = network.classifier[0]
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = GRADIENT.clone(), torch.zeros(2)
    optimizer.step()
    coupled = GRADIENT + decay * weight
    expected = {
        "sgd": weight - lr * (coupled + 0.9 * coupled),  # Nesterov's momentum, whose buffer is the gradient at first
        "adam": weight - lr * coupled / (coupled.abs() + 1e-8),
        "adamw": (1 - lr * decay) * weight - lr * GRADIENT / (GRADIENT.abs() + 1e-8),
        "rmsprop": weight - lr * coupled / ((0.01 * coupled.square()).sqrt() + 1e-8),
    }[option]
    torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.bias, bias)


def test_smoothed_labels_of_plain_and_of_mixed_images(tmp_path):
    """(1 - e) * target + e / K, where the target is one-hot or a mixture; validation takes it as it is."""
    options = ("regularization=[label_smoothing]", "regularization.label_smoothing.epsilon=0.3")
    _, classifier, _ = parts_of_a_run(tmp_path / "run", *DIGITS, *options)
    torch.manual_seed(0)
    logits, mixture, labels = torch.randn(6, 10), torch.rand(6, 10), torch.arange(6)
    mixture /= mixture.sum(dim=1, keepdim=True)
    logarithms = (logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)).log()
    for targets, soft in ((mixture, mixture), (labels, torch.eye(10)[labels])):
        smooth, plain = (-(t * logarithms).sum(dim=1).mean().item() for t in (0.7 * soft + 0.3 / 10, soft))
        assert classifier.train_loss(logits, targets).item() == pytest.approx(smooth, rel=1e-6)
        assert classifier.loss(logits, targets).item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("shrinking", [L2Penalty(), ElasticNet(), ElasticNet(mode="proximal")])
def test_two_entries_that_shrink_squares_are_refused(shrinking):
    with pytest.raises(InputError, match=f"{shrinking.name} and weight_decay both shrink the squares"):
        require_together({shrinking.name: shrinking, "weight_decay": WeightDecay()})


def test_l2_beside_elastic_net_is_refused():
    with pytest.raises(InputError, match="elastic_net and l2 both shrink the squares of the weights"):
        require_together({"elastic_net": ElasticNet(), "l2": L2Penalty()})


def test_entries_that_go_together_are_taken():
    for shrinking in (L2Penalty(), WeightDecay()):
        entries = [L1Penalty(), shrinking, MaxNorm(), LabelSmoothing()]
        require_together({type(entry).__name__: entry for entry in entries})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1Penalty(-1.0), r"l1\.lambd=-1\.0: it must not be negative"),
        (lambda: L2Penalty(-1.0), r"l2\.lambd=-1\.0"),
        (lambda: ElasticNet(beta=-0.5), r"elastic_net\.beta=-0\.5"),
        (lambda: WeightDecay(-0.1), r"weight_decay\.weight_decay=-0\.1"),
        (lambda: L1Penalty(mode="prox"), r"l1\.mode=prox: use penalty or proximal"),
        (lambda: ElasticNet(mode="l1"), r"elastic_net\.mode=l1: use penalty or proximal"),
        (lambda: MaxNorm(0.0), r"max_norm=0\.0: it must be positive"),
        (lambda: LabelSmoothing(1.0), r"epsilon=1\.0: must be at least 0 and less than 1"),
        (lambda: LabelSmoothing(-0.1), r"epsilon=-0\.1"),
    ],
)
def test_strength_that_cannot_be_is_refused_with_its_value(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_sparsity_counts_exact_zeros_of_weights():
    weights = {"a": torch.tensor([[0.0, 1.0, -0.0, 1e-30]]), "b": torch.ones(2, 2, 1, 1)}
    assert sparsity(weights) == {"all": 2 / 8, "a": 2 / 4, "b": 0.0}


SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=6", "trainer.log_every_n_steps=1", "data.batch_size=16")

LASSO = (
    *(option for option in DIGITS if option != "logger=none"),
    *SHORT,
    "trainer.max_epochs=2",
    "optimizer=sgd",
    "scheduler=none",
    "logger=csv",
    "data.test_fraction=0",
    "seed=5",
)


@pytest.fixture(scope="module")
def lasso(tmp_path_factory):
    """The folders of runs with a strong l1 in both modes and of one without: name -> folder."""
    folder = tmp_path_factory.mktemp("lasso")
    l1 = ("regularization=[l1]", "regularization.l1.lambd=0.2")
    modes = {
        "none": (),
        "penalty": (*l1, "regularization.l1.mode=penalty"),
        "proximal": (*l1, "regularization.l1.mode=proximal"),
    }
    for name, entry in modes.items():
        train_in_process(folder / name, *LASSO, *entry)
    return {name: folder / name for name in modes}


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def test_penalty_is_logged_apart_and_leaves_the_loss_comparable(lasso):
    """The first step's loss is that of the run without it; the penalty is lambda times the sum of the first weights."""
    penalised, plain = rows(lasso["penalty"]), rows(lasso["none"])
    assert penalised[0]["train/loss"] == plain[0]["train/loss"]
    assert "train/l1" not in plain[0]
    assert "train/l1" not in rows(lasso["proximal"])[0]
    sums = [float(row["train/l1"]) for row in penalised]
    network = parts_of_a_run(lasso["none"].parent / "again", *LASSO)[1].network
    expected = 0.2 * sum(p.double().abs().sum().item() for n, p in network.named_parameters() if n.endswith("weight"))
    assert sums[0] == pytest.approx(expected, rel=1e-5)
    assert sums[0] > 2 * sums[-1]
    losses = [float(row["train/loss"]) for row in penalised]
    assert max(losses) < 3 < sums[0]  # chance is log 10 = 2.3


def zeros(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """Shares of exact zeros of the weights of LeNet-5, and of all of them."""
    counts = {name: (int((value == 0).sum()), value.numel()) for name, value in state.items() if value.ndim > 1}
    total = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]
    return {"all": total[0] / total[1]} | {name: count / size for name, (count, size) in counts.items()}


def test_only_the_proximal_run_has_exact_zeros_and_reports_those_of_its_best_network(lasso):
    for name, folder in lasso.items():
        record = json.loads((folder / "run.json").read_text())
        found = zeros(torch.load(folder / "best_weights.pth", weights_only=True))
        if name != "proximal":
            assert found["all"] == 0
            assert "sparsity" not in record
            continue
        assert record["sparsity"] == pytest.approx(found)
        assert found["all"] > 0.1
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert record["best"]["epoch"] == 0
        assert zeros(last)["all"] > found["all"]


class NoLoss(nn.Module):
    """Zero, with gradients of zero."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.sum() * 0.0


def test_proximal_threshold_follows_the_rate_of_the_step(tmp_path):
    """With gradients of zero each weight shrinks by lambda times the sum of the rates of the steps that train it."""
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        "regularization=[l1]",
        "regularization.l1.mode=proximal",
        "regularization.l1.lambd=0.05",
        "optimizer=sgd",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
        "optimizer.lr=0.1",
        "scheduler=cosine",
        "freeze=schedule",
        "freeze.phases=[{epoch: 0, train: [classifier, features.0]}, {epoch: 1, train: all, lr_multiplier: 0.5}]",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=2",
    )
    classifier.train_loss = NoLoss()
    before = {name: value.double().clone() for name, value in classifier.network.state_dict().items()}
    trainer.fit(classifier, datamodule=data)
    rates = [0.1 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    for name, factor in (("features.0.weight", sum(rates)), ("features.3.weight", 0.5 * sum(rates[2:]))):
        expected = before[name].sign() * (before[name].abs() - 0.05 * factor).clamp(min=0)
        torch.testing.assert_close(classifier.network.state_dict()[name].double(), expected, atol=1e-7, rtol=1e-5)
    assert torch.equal(classifier.network.state_dict()["features.0.bias"].double(), before["features.0.bias"])


def test_max_norm_holds_after_every_step_and_for_frozen_stages_nothing_changes(tmp_path):
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        *SHORT,
        "regularization=[max_norm]",
        "regularization.max_norm.max_norm=0.3",
        "freeze=features",
        "optimizer.lr=0.01",
    )
    network = classifier.network
    before = network.features[0].weight.detach().clone()
    assert before.flatten(1).norm(dim=1).max() > 0.3
    longest = []
    classifier.on_train_batch_end = lambda *_: longest.append(
        max(layer.weight.detach().norm(dim=1).max().item() for layer in network.classifier if hasattr(layer, "weight"))
    )
    trainer.fit(classifier, datamodule=data)
    assert longest == pytest.approx([0.3] * 6, rel=1e-5)
    assert torch.equal(network.features[0].weight, before)


def test_validation_and_export_are_of_the_average_of_the_weights(tmp_path):
    """a_1 = w_1, then a_n = d * a_(n-1) + (1 - d) * w_n, also for the statistics of batch norm."""
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run",
        *DIGITS,
        "regularization=[ema,batch_norm]",
        "regularization.ema.decay=0.7",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=3",
        "optimizer.lr=0.01",
    )
    steps, validated = [], []

    def copy() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in classifier.network.state_dict().items()}

    classifier.on_train_batch_end = lambda *_: steps.append(copy())
    original = classifier.on_validation_epoch_start
    classifier.on_validation_epoch_start = lambda: (validated.append(copy()), original())[1]
    trainer.fit(classifier, datamodule=data)
    assert len(steps) == 6
    average = {name: value.double() for name, value in steps[0].items()}
    expected = []
    for number, step in enumerate(steps):
        if number:
            average = {name: 0.7 * average[name] + 0.3 * value.double() for name, value in step.items()}
        if number in (2, 5):
            expected.append(average)
    for found, wanted, current in zip(validated, expected, (steps[2], steps[5]), strict=True):
        for name, value in wanted.items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(found[name].double(), value, atol=1e-6, rtol=1e-5)
        assert not torch.equal(found["features.0.weight"], current["features.0.weight"])
    last = load_run(tmp_path / "run" / "checkpoints" / "last.ckpt").network.network.state_dict()
    assert all(torch.equal(last[name], validated[1][name]) for name in last)
