"""Four noisy points of a parabola, as grey pixels: the textbook case of overfitting."""

import numpy as np

from cnnlab.data.images import ImageArray, Splits


def parabola(grey: np.ndarray) -> np.ndarray:
    """Return the true value at a grey level from 0 to 255: 1 + 11 u - 6 u^2 with u = grey / 255."""
    share = np.asarray(grey) / 255
    return 1 + 11 * share - 6 * share**2


def four_points() -> Splits:
    """Return the data set as one grey pixel per image.

    train: grey levels 30, 100, 170, 240 with the values 2, 6, 5, 7, up to 1.6 off the parabola. val: 52 grey levels
    from 0 to 255 with the parabola's values, rounded.
    """
    grey = np.arange(0, 256, 5)
    train = _points(np.array([30, 100, 170, 240]), np.array([2, 6, 5, 7]))
    return Splits(train=train, val=_points(grey, np.rint(parabola(grey))))


def _points(grey: np.ndarray, values: np.ndarray) -> ImageArray:
    pixels = grey.astype(np.uint8)[:, None, None]
    return ImageArray(pixels, values.astype(np.float32), [], np.arange(len(grey)))
