"""Handwritten digits of the scikit-learn package: 1,797 grey pictures of 8 x 8 pixels, nothing to download."""

import numpy as np
from sklearn.datasets import load_digits

from cnnlab.data.images import ImageArray, Splits


def digits() -> Splits:
    """All 1,797 pictures as one set (UCI ML hand-written digits, test part); grey levels 0 to 16 become 0 to 255."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in bunch.target_names]
    return Splits(ImageArray(pixels, bunch.target.astype(np.int64), names, np.arange(len(pixels))))
