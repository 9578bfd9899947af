"""Handwritten digits from scikit-learn: 1,797 grey images of 8 x 8 pixels, without a download."""

import numpy as np
from sklearn.datasets import load_digits

from cnnlab.data.images import ImageArray, Splits


def digits() -> Splits:
    """Return all 1,797 images as one set (test part of the UCI ML digits); grey levels 0 to 16 become 0 to 255."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in bunch.target_names]
    return Splits(ImageArray(pixels, bunch.target.astype(np.int64), names, np.arange(len(pixels))))
