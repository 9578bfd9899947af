"""Images per second from a folder of JPEG files to ready batches, against torchvision's and timm's loaders.

    python benchmarks/input_pipeline.py --data FOLDER [--quick] [--json FILE]

Every loader cuts RandomResizedCrop(224, scale 0.35 to 1), flips, and gives normalised float batches of 32 of all the
flowers for four epochs, with the same number of worker processes, whose start counts, and one thread in the main
process, so that it does not take the cores from them; each in a process of its own. Ours is measured with records,
which the first epoch keeps in an empty cache while it decodes, and the later ones read, and without. The workers of
torchvision's loader start anew in each epoch, as is its default and most scripts'; timm's go on, as is its. --quick
takes fewer repetitions.
"""

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from common import IMAGENET_MEAN, IMAGENET_STD, arguments, each_apart, interleaved, ratio, report
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from cnnlab.data.image_datamodule import ImageDataModule, build_data
from cnnlab.data.records import open_records
from cnnlab.data.sources.flowers import flowers
from cnnlab.data.store import Store
from cnnlab.models.preprocessing import Normalize
from cnnlab.system.memory import keep_freed_memory

BATCH = 32
SCALE = (0.35, 1.0)
EPOCHS = {"first epoch": 1, "later epochs": 3}
"""How many are measured together."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = given.data / "flower_photos"
    scans = Path(tempfile.mkdtemp())
    ours(root, given.workers, scans)  # the list of checked files is kept by then
    variants = {
        "torchvision": lambda: speeds_of(torchvision_loader(root, given.workers), time.perf_counter()),
        "timm": lambda: speeds_of(timm_loader(root, given.workers), time.perf_counter()),
        "records": lambda: our_speeds(root, given.workers, scans, records=True),
        "no records": lambda: our_speeds(root, given.workers, scans, records=False),
    }
    measured = interleaved(each_apart(variants), rounds=2 if given.quick else 5)
    shutil.rmtree(scans)
    speeds = {
        f"{name}, {epoch}": [pair[number] for pair in pairs]
        for name, pairs in measured.items()
        for number, epoch in enumerate(EPOCHS)
    }
    ratios = {
        f"{mine}, {epoch} / {peer}": ratio(speeds[f"{mine}, {epoch}"], speeds[f"{peer}, {epoch}"])
        for mine in ("records", "no records")
        for epoch in EPOCHS
        for peer in ("torchvision", "timm")
    }
    report("input_pipeline", given, {"images_per_second": speeds, "workers": given.workers}, ratios)


def speeds_of(batches: Iterable, began: float, set_epoch: Callable[[int], object] = lambda epoch: None) -> list[float]:
    """Images per second of each of EPOCHS, to its last batch, the first from `began`; workers may end later."""
    speeds, epochs = [], itertools.count()
    for count in EPOCHS.values():
        images, ended = 0, began
        for _ in range(count):
            set_epoch(next(epochs))
            for batch, _ in batches:
                assert batch.dtype == torch.float32
                assert batch.shape[1:] == (3, 224, 224)
                images, ended = images + len(batch), time.perf_counter()
        speeds.append(images / (ended - began))
        began = time.perf_counter()
    return speeds


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


class Normalized:
    """The batches of `data` as Classifier prepares them."""

    def __init__(self, data: ImageDataModule) -> None:
        self.loader = data.train_dataloader()
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in self.loader:
            yield self.normalize.from_uint8(images), labels


def our_speeds(root: Path, workers: int, scans: Path, records: bool) -> list[float]:
    keep_freed_memory()
    data = ours(root, workers, scans)
    shutil.rmtree(scans / "records", ignore_errors=True)
    began = time.perf_counter()
    if records:
        data.records = open_records("on", data.recordable, data.channels, Store(scans / "records"), epochs=10)
    batches = Normalized(data)
    return speeds_of(batches, began, batches.loader.batch_sampler.sampler.set_epoch)


if __name__ == "__main__":
    main()
