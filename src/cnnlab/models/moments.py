"""Statistics of images that come in batches, in float64: exact, and in memory that does not grow with the images."""

from collections.abc import Iterable

import torch
from torch import Tensor

from cnnlab.errors import DataError


def moments(batches: Iterable[Tensor], covariance: bool = False) -> tuple[int, Tensor, Tensor]:
    """Count n, mean (D) and sum of squared deviations of rows that come as batches of B x D.

    The sum is one of D x D, with all products, if `covariance`, else of D. Batches are merged by the parallel update of
    Chan, Golub and LeVeque 1979 (equation 2.1), which keeps its digits where the mean is far from zero.
    Raises DataError if there is no row.
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
        raise DataError("There is no image to fit the preprocessing on.")
    return count, mean, squares


def largest_magnitude(batches: Iterable[Tensor]) -> Tensor:
    """max |x| of each of the D columns of rows that come as batches of B x D."""
    largest = [batch.double().abs().amax(0) for batch in batches]
    if not largest:
        raise DataError("There is no image to fit the preprocessing on.")
    return torch.stack(largest).amax(0)


def principal_components(count: int, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D), the largest first, and the directions of unit length they belong to, as columns (D x D).

    count, squares: as `moments` gives them with `covariance`. Variances are unbiased (n - 1), and each direction's
    largest entry is positive: both as in scikit-learn's PCA. Variances that are rounding errors are 0.
    """
    variances, directions = torch.linalg.eigh(squares / max(1, count - 1))
    variances, directions = variances.flip(0), directions.flip(1)
    variances = torch.where(variances > variances[0] * len(variances) * torch.finfo(variances.dtype).eps, variances, 0)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return variances, directions * torch.where(largest < 0, -1.0, 1.0)
