"""The polynomial against numpy, and its experiment against the closed form of ridge regression."""

import numpy as np
import pytest
import torch
from in_process import train_in_process
from torch import nn

from cnnlab.tasks.regression.four_points import four_points, parabola
from cnnlab.tasks.regression.polynomial import Polynomial

PENALTY = [
    "regularization=[l2]",
    "regularization.l2.lambd=20000",
    "regularization.l2.modules=[classifier.higher]",
]


def coefficients(network: nn.Module) -> np.ndarray:
    weights = [network.classifier.parabola.weight, network.classifier.higher.weight]
    return torch.cat(weights, dim=1).detach().double().numpy()[0]


def test_scores_give_the_nearest_value_and_the_squared_error():
    torch.manual_seed(0)
    network = Polynomial(num_classes=6)
    pixels = torch.linspace(-1, 1, 9)
    values = np.polynomial.polynomial.polyval(pixels.numpy(), coefficients(network))
    scores = network(pixels.view(-1, 1, 1, 1))
    np.testing.assert_array_equal(scores.argmax(dim=1).numpy(), np.clip(np.rint(values), 0, 5))
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])
    expected = np.mean((values - labels.numpy()) ** 2)
    assert nn.NLLLoss()(scores, labels).item() == pytest.approx(expected, rel=1e-5)


def test_points_validate_on_the_parabola():
    points = four_points()
    assert points.train.labels.tolist() == [2, 6, 5, 7]
    assert np.abs(points.train.labels - parabola(points.train.pixels.ravel())).max() < 1.61
    assert np.abs(points.val.labels - parabola(points.val.pixels.ravel())).max() <= 0.5


@pytest.mark.parametrize("penalized", [False, True])
def test_experiment_finds_the_coefficients_of_least_squares(tmp_path, penalized):
    quiet = ["callbacks=none", "logger=none", "trainer.check_val_every_n_epoch=600"]
    record = train_in_process(tmp_path / "run", "experiment=course_polynomial", *quiet, *(PENALTY if penalized else []))
    state = torch.load(tmp_path / "run" / "best_weights.pth", weights_only=True)
    found = torch.cat([state["classifier.parabola.weight"], state["classifier.higher.weight"]], dim=1).numpy()[0]
    train = four_points().train
    grey = train.pixels.ravel() / 255
    powers = np.vander((grey - grey.mean()) / grey.std(), 5, increasing=True)
    if penalized:  # the minimum of mean (X w - y)^2 + 10,000 (w3^2 + w4^2)
        ridge = powers.T @ powers / 4 + np.diag([0, 0, 0, 1e4, 1e4])
        np.testing.assert_allclose(found, np.linalg.solve(ridge, powers.T @ train.labels / 4), atol=0.01)
        assert record["last"]["val/loss"] < 0.5
    else:  # five coefficients pass through four points
        np.testing.assert_allclose(powers @ found, train.labels, atol=0.01)
        assert record["last"]["val/loss"] > 2
