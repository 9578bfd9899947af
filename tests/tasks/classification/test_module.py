"""The scores of a classifier that are logged, against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from cnnlab.tasks.classification.module import BalancedAccuracy, Classifier

CLASSES = list("abcdef")


def logits_for(predicted: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(predicted), len(CLASSES)).float()


def reference(truth: np.ndarray, predicted: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        return balanced_accuracy_score(truth, predicted)


@pytest.mark.parametrize(
    "occurring", [[0, 1, 2, 3, 4, 5], [0, 1, 4], [3]], ids=["every class", "some absent", "a single class"]
)
def test_balanced_accuracy_is_scikit_learns(occurring):
    """Over batches of different size; all six classes are predicted, also those that no target has."""
    rng = np.random.default_rng(len(occurring))
    weights = np.arange(1, len(occurring) + 1) / sum(range(1, len(occurring) + 1))
    truth = rng.choice(occurring, 120, p=weights)
    predicted = np.where(rng.random(120) < 0.6, truth, rng.integers(0, 6, 120))
    assert set(predicted) == set(range(6))
    classifier = Classifier(nn.Identity(), nn.Identity(), CLASSES, {})
    metric = classifier.val_metrics["balanced_acc"]
    for part in (slice(0, 50), slice(50, 57), slice(57, 120)):
        metric.update(logits_for(predicted[part]), torch.from_numpy(truth[part]))
    assert metric.compute().item() == pytest.approx(reference(truth, predicted), abs=1e-6)


def test_balanced_accuracy_starts_again_after_a_reset():
    metric = BalancedAccuracy(6, validate_args=False)
    for predicted in (np.array([0, 0, 0]), np.array([0, 0, 2])):
        metric.reset()
        truth = np.array([0, 2, 2])
        metric.update(logits_for(predicted), torch.from_numpy(truth))
        assert metric.compute().item() == pytest.approx(reference(truth, predicted))
