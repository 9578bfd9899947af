"""Compute statistics of batched images in float64, with memory independent of the number of images."""

from collections.abc import Iterable

import torch
from torch import Tensor

from cnnlab.errors import DataError


def moments(batches: Iterable[Tensor], covariance: bool = False) -> tuple[int, Tensor, Tensor]:
    """Return the number of rows n, their mean (D) and their sum of squared deviations, from batches of B x D.

    The sum is D x D, with all products, if `covariance`, else D. Batches are merged by the parallel update of Chan,
    Golub and LeVeque 1979 (equation 2.1), which stays accurate if the mean is far from zero.
    Raises DataError for an empty input.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        rows = batch.double()
        added, batch_mean = len(rows), rows.mean(0)
        deviations, delta = rows - batch_mean, batch_mean - mean
        between = count * added / (count + added)
        if covariance:
            squares = squares + torch.addmm(between * torch.outer(delta, delta), deviations.T, deviations)
        else:
            squares = squares + deviations.square().sum(0) + between * delta.square()
        mean = mean + delta * (added / (count + added))
        count += added
    if not count:
        raise DataError("Preprocessing cannot be fitted: the data have no images.")
    return count, mean, squares


def largest_magnitude(batches: Iterable[Tensor]) -> Tensor:
    """Return max |x| of each of the D columns, from batches of B x D; raise DataError without batches."""
    largest = [batch.double().abs().amax(0) for batch in batches]
    if not largest:
        raise DataError("Preprocessing cannot be fitted: the data have no images.")
    return torch.stack(largest).amax(0)


def principal_components(count: int, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (D), largest first, and the unit directions that belong to them, as columns (D x D).

    count, squares: from `moments` with `covariance`. As in scikit-learn's PCA, variances are unbiased (n - 1) and each
    direction's largest entry is positive. Variances within rounding error of 0 are set to 0.
    """
    variances, directions = torch.linalg.eigh(squares / max(1, count - 1))
    variances, directions = variances.flip(0), directions.flip(1)
    variances = torch.where(variances > variances[0] * len(variances) * torch.finfo(variances.dtype).eps, variances, 0)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return variances, directions * torch.where(largest < 0, -1.0, 1.0)
