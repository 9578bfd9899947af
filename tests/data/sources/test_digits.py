"""scikit-learn's digits: its grey levels, spread over the whole range."""

import numpy as np
from sklearn.datasets import load_digits

from cnnlab.data.sources.digits import digits


def test_digits_are_scikit_learns():
    images = digits().train
    bunch = load_digits()
    assert images.pixels.shape == (1797, 8, 8)
    assert images.pixels.dtype == np.uint8
    assert np.abs(images.pixels - bunch.images * 255 / 16).max() <= 0.5
    assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    assert images.labels.tolist() == bunch.target.tolist()
    assert images.classes == [str(digit) for digit in range(10)]
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len({images.name(index) for index in range(1797)}) == 1797
