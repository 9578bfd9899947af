"""Attacks against the closed form of a linear model, against captum, and in the order that theory demands."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.attacks import Attack, fgsm, pgd, project
from cnnlab.models.lenet5 import LeNet5


@pytest.fixture
def network():
    torch.manual_seed(0)
    return LeNet5().eval()


@pytest.fixture
def images():
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(6)


def losses(model, images, labels=LABELS):
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def test_fgsm_of_a_linear_model_is_its_closed_form():
    """Two classes: the loss gradient is (p - 1) (w_y - w_other), so every pixel moves against sign(w_y - w_other)."""
    torch.manual_seed(0)
    linear = nn.Linear(3 * 4 * 4, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    images = 0.3 + 0.4 * torch.rand(5, 3, 4, 4)
    labels = torch.tensor([0, 1, 1, 0, 1])
    difference = (linear.weight[1] - linear.weight[0]).detach().view(3, 4, 4)
    signs = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    expected = images + 0.07 * signs * difference.sign()
    torch.testing.assert_close(fgsm(model, images, labels, 0.07), expected)
    torch.testing.assert_close(fgsm(model, images, labels, 0.07, targeted=True), images - (expected - images))


def test_pgd_of_a_linear_model_ends_at_the_corner_or_on_the_sphere_of_the_ball():
    torch.manual_seed(0)
    linear = nn.Linear(12, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    images, labels = torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
    direction = (linear.weight[1] - linear.weight[0]).detach().view(1, 3, 2, 2)
    corner = pgd(model, images, labels, 0.1, 0.03, 20)
    torch.testing.assert_close(corner, images + 0.1 * direction.sign())
    sphere = pgd(model, images, labels, 0.1, 0.03, 60, norm="l2")
    torch.testing.assert_close(sphere, images + 0.1 * direction / direction.norm(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
def test_agreement_with_captum(network, images, targeted):
    robust = pytest.importorskip("captum.robust")
    theirs = robust.FGSM(network, nn.CrossEntropyLoss(reduction="none"), 0, 1)
    theirs.zero_thresh = 0.0  # it would leave pixels alone whose gradient is below 1e-6
    ours = fgsm(network, images, LABELS, 0.1, targeted)
    with pytest.warns(UserWarning, match="required_grads"):
        expected = theirs.perturb(images.clone(), 0.1, LABELS, targeted=targeted)
    assert (ours - expected).abs().max() <= 1e-6


@pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")
def test_projected_steps_agree_with_captum(network, images):
    """Its steps go along the sign under both norms; in L2 one of ours is made of the sign step and the projection."""
    robust = pytest.importorskip("captum.robust")
    theirs = robust.PGD(network, nn.CrossEntropyLoss(reduction="none"), 0, 1)
    theirs.fgsm.zero_thresh = 0.0
    expected = theirs.perturb(images.clone(), 0.1, 0.03, 8, LABELS)
    assert (pgd(network, images, LABELS, 0.1, 0.03, 8, random_start=False) - expected).abs().max() <= 1e-6
    inner = 0.1 + 0.8 * images
    expected = theirs.perturb(inner.clone(), 0.1, 0.03, 1, LABELS, norm="L2")
    ours = inner + project(fgsm(network, inner, LABELS, 0.03) - inner, 0.1, "l2")
    assert (ours - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("attack", [Attack("fgsm", 0.05), Attack("pgd", 0.05), Attack("pgd", 0.8, "l2", steps=7)])
def test_perturbation_stays_within_its_ball_and_raises_the_loss(network, images, attack):
    found = attack(network, images, LABELS)
    delta = found - images
    size = delta.abs().amax((1, 2, 3)) if attack.norm == "linf" else delta.flatten(1).norm(dim=1)
    assert (size <= attack.epsilon + 1e-6).all()
    assert size.min() > 0.5 * attack.epsilon
    assert found.min() >= 0
    assert found.max() <= 1
    assert (losses(network, found) > losses(network, images)).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_more_steps_do_more_harm(network, images):
    one, many = Attack("fgsm", 0.1)(network, images, LABELS), Attack("pgd", 0.1, steps=20)(network, images, LABELS)
    assert losses(network, many).mean() > losses(network, one).mean() > losses(network, images).mean()


def test_targeted_attack_raises_the_target(network, images):
    target = torch.full((6,), 3)
    found = Attack("pgd", 0.2, steps=20)(network, images, target, targeted=True)
    with torch.no_grad():
        before, after = network(images).softmax(1)[:, 3], network(found).softmax(1)[:, 3]
    assert (after > before).all()


def test_soft_targets_are_taken(network, images):
    hard = Attack("fgsm", 0.1)(network, images, LABELS)
    soft = Attack("fgsm", 0.1)(network, images, F.one_hot(LABELS, 10).float())
    torch.testing.assert_close(hard, soft)


def test_gradients_are_there_under_inference_mode(network, images):
    expected = fgsm(network, images, LABELS, 0.1)
    with torch.inference_mode():
        found = fgsm(network, images * 1.0, LABELS, 0.1)
    assert torch.equal(found, expected)


def test_projection_is_the_nearest_point_of_the_ball():
    offsets = torch.tensor([[3.0, 4.0], [0.3, 0.4]]).view(2, 1, 1, 2)
    assert project(offsets, 1.0, "l2").flatten().tolist() == pytest.approx([0.6, 0.8, 0.3, 0.4])
    assert project(offsets, 0.35, "linf").flatten().tolist() == pytest.approx([0.35, 0.35, 0.3, 0.35])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cw"}, "use fgsm or pgd"),
        ({"norm": "l1"}, "pgd takes linf or l2"),
        ({"kind": "fgsm", "norm": "l2"}, "fgsm takes linf"),
        ({"epsilon": -0.1}, "must not be negative"),
        ({"steps": 0}, "positive"),
    ],
)
def test_impossible_attacks_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Attack(**options)
