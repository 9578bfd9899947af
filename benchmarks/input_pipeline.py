"""Images per second from a folder of JPEG files to ready batches, against torchvision's and timm's loaders.

    python benchmarks/input_pipeline.py --data FOLDER [--quick] [--json FILE]

Every loader cuts RandomResizedCrop(224, scale 0.35 to 1), flips, and gives normalised float batches of 32 of all the
flowers, with the same number of worker processes, whose start counts, and one thread in the main process, so that it
does not take the cores from them; each in a process of its own. Ours is measured twice: its first epoch, which decodes
and keeps records in an empty cache, and its second, which reads them; and once without records. --quick takes fewer
repetitions.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from common import arguments, each_apart, interleaved, ratio, report
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from cnnlab.data.datamodule import ImageDataModule, build_data
from cnnlab.data.datasets.flowers import flowers
from cnnlab.data.records import keep_records
from cnnlab.data.store import Store
from cnnlab.memory import keep_freed_memory
from cnnlab.models.building import IMAGENET_MEAN, IMAGENET_STD
from cnnlab.models.preprocessing import Normalize

BATCH = 32
SCALE = (0.35, 1.0)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = given.data / "flower_photos"
    scans = Path(tempfile.mkdtemp())
    ours(root, given.workers, scans)  # the list of checked files is kept by then
    variants = {
        "torchvision": lambda: speed_of(torchvision_loader(root, given.workers), time.perf_counter()),
        "timm": lambda: speed_of(timm_loader(root, given.workers), time.perf_counter()),
        **our_epochs(root, given.workers, scans),
    }
    speeds = interleaved(each_apart(variants), rounds=2 if given.quick else 5)
    shutil.rmtree(scans)
    ratios = {
        f"{epoch} / {peer}": ratio(speeds[epoch], speeds[peer])
        for epoch in ("first epoch", "second epoch", "no records")
        for peer in ("torchvision", "timm")
    }
    report("input_pipeline", given, {"images_per_second": speeds, "workers": given.workers}, ratios)


def speed_of(batches: Iterable, began: float) -> float:
    """Images per second of one epoch, from `began` to the last batch; worker start-up counts, their end does not."""
    images, ended = 0, began
    for batch, _ in batches:
        assert batch.dtype == torch.float32
        assert batch.shape[1:] == (3, 224, 224)
        images, ended = images + len(batch), time.perf_counter()
    return images / (ended - began)


def torchvision_loader(root: Path, workers: int) -> DataLoader:
    """As the course and most scripts do it."""
    steps = v1.Compose(
        [
            v1.RandomResizedCrop(224, scale=SCALE),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    dataset = datasets.ImageFolder(str(root), steps)
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)


def timm_loader(root: Path, workers: int):
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", str(root)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        scale=SCALE,
        hflip=0.5,
        color_jitter=None,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=False,
    )


def ours(root: Path, workers: int, cache: Path) -> ImageDataModule:
    return build_data(
        lambda: flowers(root),
        augmentations=[v2.RandomResizedCrop(224, scale=SCALE, antialias=True), v2.RandomHorizontalFlip()],
        cache_dir=cache,
        seed=0,
        channels=3,
        image_size=224,
        resize_size=256,
        batch_size=BATCH,
        num_workers=workers,
        val_fraction=0.01,
    )


def our_epochs(root: Path, workers: int, scans: Path) -> dict[str, Callable[[], float]]:
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    cache = scans / "records"

    def batches(data: ImageDataModule) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As Classifier prepares them."""
        for images, labels in data.train_dataloader():
            yield normalize.from_uint8(images), labels

    def epoch(data: ImageDataModule, store: Store | None) -> float:
        """Building what is missing of the records counts."""
        keep_freed_memory()
        began = time.perf_counter()
        if store:
            keep_records("on", data, store, epochs=10, show=False)
        return speed_of(batches(data), began)

    def first() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return epoch(ours(root, workers, scans), Store(cache))

    return {
        "no records": lambda: epoch(ours(root, workers, scans), None),
        "first epoch": first,
        "second epoch": lambda: epoch(ours(root, workers, scans), Store(cache)),
    }


if __name__ == "__main__":
    main()
