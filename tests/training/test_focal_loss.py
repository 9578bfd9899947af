"""The focal loss against the formula, torchvision's binary one and torch's cross entropy; the weights that runs use."""

import math

import numpy as np
import pytest
import torch
from in_process import digits_with, parts_of_a_run, train_in_process
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import cross_entropy, multi_margin_loss
from torchvision.ops import sigmoid_focal_loss

from cnnlab.api import load_run
from cnnlab.errors import InputError
from cnnlab.tasks.classification import Classification
from cnnlab.tasks.classification.imbalance import own_share, warn_of_smoothing
from cnnlab.training.focal_loss import FocalLoss

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_val_batches=2")
OUTPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(40) % 5
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.0, 1.5], dtype=torch.float64)


def test_focal_loss_is_lins_formula():
    p = OUTPUTS.softmax(1)[torch.arange(40), TARGETS]
    assert FocalLoss(gamma=1.5)(OUTPUTS, TARGETS).item() == pytest.approx((-((1 - p) ** 1.5) * p.log()).mean().item())
    one_image = torch.log(torch.tensor([[0.9, 0.1]], dtype=torch.float64))
    assert FocalLoss(gamma=2.0)(one_image, torch.tensor([0])).item() == pytest.approx(-(0.1**2) * math.log(0.9))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_two_classes_are_torchvisions_binary_loss(gamma):
    logits, truth = OUTPUTS[:, 0], (TARGETS > 2).long()
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = sigmoid_focal_loss(logits, truth.double(), alpha=-1, gamma=gamma, reduction="mean")
    assert FocalLoss(gamma=gamma)(both, truth).item() == pytest.approx(expected.item())
    weight = torch.tensor([0.75, 0.25], dtype=torch.float64)
    weighed = sigmoid_focal_loss(logits, truth.double(), alpha=0.25, gamma=gamma, reduction="sum")
    found = FocalLoss(weight, gamma)(both, truth)
    assert found.item() == pytest.approx((weighed / weight[truth].sum()).item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("targets", [TARGETS, torch.rand(40, 5, dtype=torch.float64).softmax(1)])
def test_gamma_0_is_torchs_cross_entropy(smoothing, weight, targets):
    expected = cross_entropy(OUTPUTS, targets, weight, label_smoothing=smoothing)
    found = FocalLoss(weight, 0.0, smoothing)(OUTPUTS, targets)
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_certain_outputs_have_finite_gradients(gamma):
    outputs = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]], requires_grad=True)
    loss = FocalLoss(gamma=gamma)(outputs, torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


def test_negative_gamma_is_refused():
    with pytest.raises(InputError, match=r"loss\.gamma=-1"):
        FocalLoss(gamma=-1.0)


def test_balanced_weights_are_scikit_learns_and_recorded(tmp_path):
    """The training loss is torch's weighted one, val/loss is not weighted, and the checkpoint loads without weights."""
    overrides = digits_with(*SHORT, "loss.class_weights=balanced", "data.images_per_class=30")
    overrides += ["data.train_fraction=0.5", "data.classes=[0,1,2,7]"]
    _, module, data = parts_of_a_run(tmp_path / "parts", *overrides)
    labels = data.parts.train.labels
    data.parts = data.parts.__class__(data.parts.train.subset([0, 1, 2, *range(20, len(labels))]), data.parts.val)
    uneven = data.parts.train.labels
    found = Classification("classification", {}).class_weights("balanced", data)
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.arange(4), y=uneven).tolist())
    record = train_in_process(tmp_path / "run", *overrides)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert record["class_weights"] == pytest.approx(dict(zip("0127", expected, strict=True)))
    assert module.train_loss.weight.tolist() == pytest.approx(expected.tolist())
    assert module.loss.weight is None
    assert load_run(tmp_path / "run").classes == ["0", "1", "2", "7"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", lambda x, y, w: cross_entropy(x, y, w)),
        ("nll", lambda x, y, w: nn.functional.nll_loss(x, y, w)),
        ("multi_margin", lambda x, y, w: multi_margin_loss(x, y, weight=w)),
        ("focal", lambda x, y, w: FocalLoss(w)(x, y)),
    ],
)
def test_given_weights_are_those_of_torch(loss, expected, tmp_path):
    given = [1, 0.5, 2, 0, 3, 1, 1, 1, 1, 1]
    _, module, _ = parts_of_a_run(
        tmp_path / "run", *digits_with(*SHORT, f"loss={loss}", f"loss.class_weights={given}".replace(" ", ""))
    )
    outputs, targets = torch.randn(20, 10), torch.arange(20) % 10
    weight = torch.tensor(given, dtype=torch.float32)
    assert module.train_loss(outputs, targets).item() == pytest.approx(expected(outputs, targets, weight).item())
    assert not {key for key in module.state_dict() if "loss.weight" in key}


def test_smoothing_that_takes_the_target_from_common_classes_is_warned_of(caplog):
    """The gradient of torch's loss at even outputs says what the target is: softmax minus target, times the weights."""
    weights = [0.6, 0.6, 30.0, 30.0, 0.6]
    outputs = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(weights, dtype=torch.float64)
    cross_entropy(outputs, torch.tensor([0]), weight, label_smoothing=0.1).backward()
    mass = weight[0] * 0.9 + 0.02 * weight.sum()
    target = 0.2 - outputs.grad[0] * weight[0] / mass
    assert target.sum().item() == pytest.approx(1)
    assert own_share(weights, 0.1) == pytest.approx(target[0].item())
    warn_of_smoothing(weights, 0.1)
    assert f"is only {100 * target[0].item():.0f} % that class" in caplog.text
    caplog.clear()
    warn_of_smoothing([1.0, 1.5, 0.0], 0.1)
    assert not caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.class_weights=[1,2]"], "2 numbers for the 10 classes"),
        (["loss.class_weights=even"], "use balanced, or a list"),
        (["loss.class_weights=[1,1,1,1,1,1,1,1,1,-1]"], "may not be negative"),
        (["loss.class_weights=[0,0,0,0,0,0,0,0,0,0]"], "not all may be 0"),
        (["loss=nll", "loss.class_weights=balanced", "augmentation=[mixup]"], "soft targets, which NLLLoss"),
        (["loss=mse", "+loss.class_weights=balanced"], "MSELoss takes no weights"),
        (["data=four_points", "model=polynomial", "+loss.class_weights=balanced"], "regression does not weigh classes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        parts_of_a_run(tmp_path / "run", *digits_with(*overrides))
