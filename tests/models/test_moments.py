"""Streaming statistics against numpy over all rows at once."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from cnnlab.errors import DataError
from cnnlab.models.moments import largest_magnitude, moments, principal_components


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).beta([2, 5, 0.5, 1], [5, 1, 0.5, 3], size=(103, 4))


@pytest.mark.parametrize("batch_size", [1, 10, 103])
def test_moments_are_those_of_all_rows(rows, batch_size):
    batches = torch.tensor(rows).split(batch_size)
    count, mean, squares = moments(batches)
    assert count == 103
    np.testing.assert_allclose(mean.numpy(), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose((squares / count).numpy(), rows.var(axis=0), rtol=1e-10)
    _, _, products = moments(batches, covariance=True)
    np.testing.assert_allclose((products / 102).numpy(), np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-15)


def test_moments_keep_their_digits_far_from_zero(rows):
    _, _, squares = moments((torch.tensor(rows) + 1e6).split(7))
    np.testing.assert_allclose(squares.numpy() / 103, rows.var(axis=0), rtol=1e-6)


def test_largest_magnitude(rows):
    signed = rows - 0.7
    np.testing.assert_array_equal(largest_magnitude(torch.tensor(signed).split(9)).numpy(), np.abs(signed).max(axis=0))


def test_components_are_scikit_learns_with_their_signs():
    pixels = load_digits().data
    count, _, squares = moments([torch.tensor(pixels)], covariance=True)
    variances, directions = principal_components(count, squares)
    reference = PCA().fit(pixels)
    np.testing.assert_allclose(variances.numpy(), reference.explained_variance_, atol=1e-9)
    np.testing.assert_allclose(directions.T[:50].numpy(), reference.components_[:50], atol=1e-9)
    assert (variances == 0).sum() == 3, "three pixels of the digits never vary"


@pytest.mark.parametrize("statistic", [moments, largest_magnitude])
def test_no_row_is_refused(statistic):
    with pytest.raises(DataError, match="no image"):
        statistic([])
