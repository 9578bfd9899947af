"""The polynomial against numpy, its experiment against least squares, and the scores of a regression."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import train_in_process
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor, nn

from cnnlab.data.images import ImageArray
from cnnlab.errors import InputError
from cnnlab.tasks.regression.four_points import four_points, parabola
from cnnlab.tasks.regression.module import Regressor
from cnnlab.tasks.regression.polynomial import Polynomial
from cnnlab.tasks.regression.report import ScoredValues

PENALTY = [
    "regularization=[l2]",
    "regularization.l2.lambd=20000",
    "regularization.l2.modules=[classifier.higher]",
]


def coefficients(network: nn.Module) -> np.ndarray:
    weights = [network.classifier.parabola.weight, network.classifier.higher.weight]
    return torch.cat(weights, dim=1).detach().double().numpy()[0]


def pixels_and_values() -> tuple[Tensor, Tensor]:
    """Standardized pixels N x 1 x 1 x 1 and values N of the four points."""
    train = four_points().train
    grey = train.pixels.ravel() / 255
    pixels = torch.from_numpy((grey - grey.mean()) / grey.std()).float()
    return pixels.view(-1, 1, 1, 1), torch.from_numpy(train.labels)


def test_network_is_the_polynomial():
    torch.manual_seed(0)
    network = Polynomial()
    pixels = torch.linspace(-1, 1, 9)
    expected = np.polynomial.polynomial.polyval(pixels.numpy(), coefficients(network))
    values = network(pixels.view(-1, 1, 1, 1))
    assert values.shape == (9, 1)
    np.testing.assert_allclose(values[:, 0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_points_validate_on_the_parabola():
    points = four_points()
    assert points.train.labels.dtype == np.float32
    assert points.train.labels.tolist() == [2, 6, 5, 7]
    assert points.train.classes == []
    assert np.abs(points.train.labels - parabola(points.train.pixels.ravel())).max() < 1.61
    assert np.abs(points.val.labels - parabola(points.val.pixels.ravel())).max() <= 0.5


def test_squared_error_trains_as_the_likelihood_of_nearest_values_does():
    """The polynomial was a classifier once: class k had the score -(f(x) - k)^2, and the loss was that of NLLLoss.

    Its gradients and those of the regression are the same bits, and so are the weights of every step. Its loss adds
    the four squares in another order.
    """
    pixels, values = pixels_and_values()
    networks, optimizers = [], []
    for _ in range(2):
        torch.manual_seed(3)
        network = Polynomial()
        networks.append(network)
        optimizers.append(torch.optim.Adam(network.parameters(), lr=0.1))
    regressor = Regressor(nn.Identity(), networks[0], [], {})
    for _ in range(60):
        regression = nn.MSELoss()(regressor(pixels), values)
        scores = -((networks[1](pixels) - torch.arange(10.0)) ** 2)
        likelihood = nn.NLLLoss()(scores, values.long())
        assert regression.item() == pytest.approx(likelihood.item(), rel=2.4e-7)
        for loss, optimizer in zip((regression, likelihood), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for first, second in zip(*(network.parameters() for network in networks), strict=True):
            assert torch.equal(first.grad, second.grad)
            assert torch.equal(first, second)


@pytest.mark.parametrize("part", ["val", "test"])
def test_logged_scores_are_scikit_learns(part):
    """Over batches of different size."""
    rng = np.random.default_rng(0)
    truth = rng.normal(2, 3, 45).astype(np.float32)
    predicted = (truth + rng.normal(0.5, 1, 45)).astype(np.float32)
    metrics = getattr(Regressor(nn.Identity(), nn.Identity(), [], {}), f"{part}_metrics")
    for batch in (slice(0, 20), slice(20, 23), slice(23, 45)):
        metrics.update(torch.from_numpy(predicted[batch]), torch.from_numpy(truth[batch]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            f"{part}/mse": mean_squared_error(truth, predicted),
            f"{part}/mae": mean_absolute_error(truth, predicted),
            f"{part}/r2": r2_score(truth, predicted),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("shape", [(5, 2), (5, 1, 2)])
def test_network_of_several_values_for_an_image_is_refused(shape):
    regressor = Regressor(nn.Identity(), nn.Identity(), [], {})
    with pytest.raises(InputError, match=r"returns 5 x .*2 numbers for 5 images; regression needs one per image"):
        regressor.check_outputs(torch.zeros(shape), torch.zeros(5))
    for fitting in ((5,), (5, 1), (5, 1, 1)):
        regressor.check_outputs(torch.zeros(fitting), torch.zeros(5))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "penalized"])
def trained(request, tmp_path_factory) -> SimpleNamespace:
    """The experiment without and with its penalty, at three times the rate and for a third of the epochs."""
    folder = tmp_path_factory.mktemp("polynomial") / "run"
    shorter = ["optimizer.lr=0.3", "trainer.max_epochs=200", "trainer.check_val_every_n_epoch=100"]
    quiet = ["callbacks=none", "logger=csv", "+checkpoint.last.every_n_epochs=100"]
    penalty = PENALTY if request.param else []
    record = train_in_process(folder, "experiment=course_polynomial", *shorter, *quiet, *penalty)
    return SimpleNamespace(folder=folder, record=record, penalized=request.param)


def test_experiment_finds_the_coefficients_of_least_squares(trained):
    state = torch.load(trained.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    parts = [state[f"network.classifier.{name}.weight"] for name in ("parabola", "higher")]
    found = torch.cat(parts, dim=1).numpy()[0]
    pixels, values = pixels_and_values()
    powers = np.vander(pixels.ravel().double().numpy(), 5, increasing=True)
    if trained.penalized:  # the minimum of mean (X w - y)^2 + 10,000 (w3^2 + w4^2)
        ridge = powers.T @ powers / 4 + np.diag([0, 0, 0, 1e4, 1e4])
        np.testing.assert_allclose(found, np.linalg.solve(ridge, powers.T @ values.numpy() / 4), atol=0.01)
        assert trained.record["last"]["val/mse"] < 0.5
    else:  # five coefficients pass through four points
        np.testing.assert_allclose(powers @ found, values.numpy(), atol=0.01)
        assert trained.record["last"]["val/mse"] > 2


def test_experiment_records_a_regression(trained):
    """The best epoch has the smallest error; there are no classes and no accuracy."""
    record = json.loads((trained.folder / "run.json").read_text())
    assert record["task"] == "regression"
    assert record["metric"] == "val/mse"
    assert record["modes"] == {"mse": "min", "mae": "min", "r2": "max", "loss": "min"}
    assert {"val/mse", "val/mae", "val/r2", "val/loss", "train/mse_epoch"} <= set(record["last"])
    assert not any("acc" in name for name in record["last"])
    assert record["last"]["val/loss"] == pytest.approx(record["last"]["val/mse"], rel=1e-5)
    assert not (trained.folder / "class_indices.json").exists()
    with (trained.folder / "metrics.csv").open(newline="") as file:
        validated = {int(row["epoch"]): float(row["val/mse"]) for row in csv.DictReader(file) if row["val/mse"]}
    best = min(validated, key=validated.get)
    assert sorted(validated) == [99, 199]
    assert record["best"] == {"val/mse": pytest.approx(validated[best]), "epoch": best}
    assert torch.load(trained.folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == best


@pytest.mark.parametrize("count", [1, 30])
def test_report_has_scikit_learns_scores_and_a_row_for_each_image(tmp_path, count):
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2, count)
    predicted = truth + rng.normal(0, 1, count)
    images = ImageArray(rng.integers(0, 256, (count, 2, 2)).astype(np.uint8), truth, [], np.arange(count))
    scored = ScoredValues(images, predicted, truth)
    scored.write(tmp_path, "A title")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n"] == count
    assert metrics["mse"] == metrics["loss"] == pytest.approx(((truth - predicted) ** 2).mean())
    assert metrics["mae"] == pytest.approx(np.abs(truth - predicted).mean())
    if count == 1:
        assert metrics["r2"] is None
        assert "r2" not in scored.summary()
    else:
        assert metrics["r2"] == pytest.approx(
            1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
        )
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["true"]) for row in rows] == pytest.approx(truth, rel=1e-4)
    assert [float(row["predicted"]) for row in rows] == pytest.approx(predicted, rel=1e-4)
    assert "A title" in (tmp_path / "report.html").read_text()
