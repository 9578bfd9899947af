"""CIFAR-10: 60,000 colour images of 32 x 32 pixels (Krizhevsky 2009), in the binary version.

The Python version that torchvision reads is a pickle, and cnnlab never unpickles files.
"""

from pathlib import Path

import numpy as np

from cnnlab.data.images import ImageArray, Splits
from cnnlab.errors import DataError
from cnnlab.system.downloads import fetch_folder

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1d"
ARCHIVE_BYTES = 170_052_171
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10(root: str) -> Splits:
    """Return the published 50,000 + 10,000 images in `root/cifar-10-batches-bin/*.bin`, downloaded if missing.

    Raises DataError if they are damaged, or missing and the download fails.
    """
    folder = Path(root).expanduser() / "cifar-10-batches-bin"
    if not folder.is_dir():
        try:
            fetch_folder(URL, folder, inside=folder.name, sha256=SHA256, archive_bytes=ARCHIVE_BYTES)
        except DataError as error:
            raise DataError(
                f"CIFAR-10 is not in {folder.absolute()}, and downloading it failed:\n  {error}\n"
                f"Unpack {URL} in {folder.parent.absolute()}, set paths.data_dir, or use data=digits."
            ) from error
    train = [folder / f"data_batch_{number}.bin" for number in range(1, 6)]
    return Splits(train=_read(train), test=_read([folder / "test_batch.bin"]))


def _read(paths: list[Path]) -> ImageArray:
    """Read files of records, each one label byte and 3 x 32 x 32 pixel bytes."""
    try:
        records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32) for path in paths])
        if not len(records) or records[:, 0].max() >= len(CLASSES):
            raise ValueError("a label is missing or above 9")
    except (OSError, ValueError) as error:
        raise DataError(f"CIFAR-10 cannot be read: {error}. Remove {paths[0].parent} to download it again.") from error
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ImageArray(np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), CLASSES, np.arange(len(pixels)))
