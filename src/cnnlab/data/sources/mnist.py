"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels each, downloaded and read by torchvision."""

from pathlib import Path

import numpy as np
from torchvision import datasets

from cnnlab.data.images import ImageArray, Splits
from cnnlab.errors import DataError


def mnist(root: str) -> Splits:
    """Return the published 60,000 + 10,000 digits in `root/MNIST/raw`, downloaded if missing (LeCun et al. 1998)."""
    return _load(datasets.MNIST, root, [str(digit) for digit in range(10)])


def fashion_mnist(root: str) -> Splits:
    """Return the published 60,000 + 10,000 images of clothing in `root/FashionMNIST/raw` (Xiao et al. 2017)."""
    return _load(datasets.FashionMNIST, root, datasets.FashionMNIST.classes)


def _load(dataset: type[datasets.MNIST], root: str, classes: list[str]) -> Splits:
    folder = Path(root).expanduser().absolute() / dataset.__name__ / "raw"

    def part(train: bool) -> ImageArray:
        images = dataset(folder.parents[1], train=train, download=True)
        return ImageArray(images.data.numpy(), images.targets.numpy(), classes, np.arange(len(images)))

    try:
        return Splits(train=part(train=True), test=part(train=False))
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # the last two: torchvision's idx reader
        names = [Path(url).stem for url, _ in dataset.resources]
        if all((folder / name).is_file() for name in names):
            problem = f"{dataset.__name__} in {folder} is damaged: {error or 'a file is truncated'}."
            raise DataError(f"{problem} Remove it to download it again.") from error
        raise DataError(
            f"{dataset.__name__} is not in {folder}, and downloading it failed:\n  {error}\n"
            f"Put {', '.join(names)} there, set paths.data_dir, or use data=digits."
        ) from error
