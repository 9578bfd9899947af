"""Small images, which are kept in memory: our program against plain loops of PyTorch.

    python benchmarks/small_images.py [--quick] [--json FILE] [--data FOLDER]

Everything is timed with all that belongs to it, pictures, logs and checkpoints included:
  mnist       LeNet-5 on MNIST, batch 32, the defaults, against a loop over the tensor in memory
  augmented   the same with shift, rotation and noise, against torchvision's v2 per image in two DataLoader workers
  cifar10     a step of ResNet-18 (3 x 3 stem) with flip and crop on random pixels, against the bare step
  quickstart  seconds of the training of experiment=quickstart
A plain loop trains and validates on as many images as ours, with one thread and with all; the faster one counts. Needs
MNIST/raw in the data folder (--data). CIFAR-10 is not needed: its step does not depend on what is in the images.
"""

import argparse
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from common import arguments, each_apart, interleaved, ratio, report, spread
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, models
from torchvision.transforms import v2

from cnnlab import experiment
from cnnlab.config import check, compose, plain_config
from cnnlab.models.lenet5 import LeNet5
from cnnlab.runs.folder import RunFolder
from cnnlab.system.memory import keep_freed_memory
from cnnlab.training.callbacks.progress import Throughput
from cnnlab.training.lightning_compat import adopt_messages

BATCH = 32
AUGMENTATION = "[shift,rotate,noise]"
ALL = torch.get_num_threads()


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    epochs, steps, rounds = (1, 100, 2) if given.quick else (2, 800, 3)
    values: dict[str, Any] = {}
    ratios: dict[str, dict] = {}

    def compare(name: str, ours: Callable[[], float], peer: Callable[[int], float]) -> None:
        """Images per second of ours and of the peer with one thread and with all, and their ratio."""
        variants = {"ours": ours, **{f"peer, {count} threads": partial(peer, count) for count in sorted({1, ALL})}}
        found = interleaved(each_apart(variants), rounds)
        values[f"{name}, images/s"] = found
        peers = [max(each) for each in zip(*(found[key] for key in found if key != "ours"), strict=True)]
        ratios[f"{name}: ours / the better of the peer's"] = ratio(found["ours"], peers)

    mnist = ("model=lenet5", "data=mnist", f"data.batch_size={BATCH}")
    for name, extra, peer in (
        ("mnist", (), plain_loop),
        ("augmented", (f"augmentation={AUGMENTATION}",), per_image_loop),
    ):
        ours = partial(program, given, epochs, steps, *mnist, *extra)
        compare(name, ours, partial(peer, given, epochs, steps))
    count = 3 if given.quick else 12
    cifar = interleaved(
        each_apart({"ours": partial(cifar_step, count), "bare": partial(bare_cifar_step, count)}), rounds
    )
    values["cifar10, seconds a step"] = cifar
    ratios["cifar10, ResNet-18 (time): ours / the bare step"] = ratio(cifar["ours"], cifar["bare"])
    quick = interleaved(each_apart({"quickstart": partial(quickstart, given, 2 if given.quick else 20)}), rounds)
    values["quickstart, seconds"] = spread(quick["quickstart"])
    report("small_images", given, values, ratios)
    print(f"\nquickstart, seconds of training: {values['quickstart, seconds']}")


# --- Ours ---


def fitted(given: argparse.Namespace, *overrides: str) -> tuple[experiment.Experiment, float]:
    """An experiment after its training, and the seconds that took."""
    adopt_messages()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose([f"paths.cache_dir={folder}/cache", f"paths.data_dir={given.data.absolute()}", *overrides])
        check(cfg)
        plain = plain_config(cfg, Path(folder) / "run")
        run, built = RunFolder(Path(folder) / "run", plain, list(overrides)), experiment.build(plain)
        built.check()
        run.begin()
        began = time.perf_counter()
        built.fit()
        return built, time.perf_counter() - began


def program(given: argparse.Namespace, epochs: int, steps: int, *overrides: str) -> float:
    """Images per second of training and validation together."""
    limits = (f"trainer.max_epochs={epochs}", f"trainer.limit_train_batches={steps}", "trainer=cpu")
    built, seconds = fitted(given, *limits, *overrides)
    validated = epochs * len(built.data.parts.val)
    return (built.callback(Throughput).images + validated) / seconds


def quickstart(given: argparse.Namespace, epochs: int) -> float:
    return fitted(given, "experiment=quickstart", f"trainer.max_epochs={epochs}")[1]


# --- The peers on MNIST ---


def mnist_tensors(given: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """All training images, normalized float32 N x 1 x 32 x 32, and their labels."""
    images = datasets.MNIST(given.data, train=True, download=False)
    pixels = nn.functional.pad(images.data[:, None].float() / 255, (2, 2, 2, 2))
    return (pixels - pixels.mean()) / pixels.std(), images.targets


def timed_loop(batches: Callable[[], Iterator], validation: Callable[[], Iterator], epochs: int) -> float:
    """Images per second of a loop that trains and validates, as in most scripts."""
    network, loss_function = LeNet5(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    count, began = 0, time.perf_counter()
    for _ in range(epochs):
        network.train()
        for images, labels in batches():
            optimizer.zero_grad()
            loss_function(network(images), labels).backward()
            optimizer.step()
            count += len(labels)
        network.eval()
        with torch.no_grad():
            for images, labels in validation():
                (network(images).argmax(dim=1) == labels).sum().item()
                count += len(labels)
    return count / (time.perf_counter() - began)


def plain_loop(given: argparse.Namespace, epochs: int, steps: int, threads: int) -> float:
    torch.set_num_threads(threads)
    images, labels = mnist_tensors(given)
    kept = len(images) // 10

    def training() -> Iterator:
        order = torch.randperm(len(images) - kept)[: steps * BATCH]
        return ((images[kept:][chosen], labels[kept:][chosen]) for chosen in order.split(BATCH))

    return timed_loop(
        training, lambda: zip(images[:kept].split(BATCH), labels[:kept].split(BATCH), strict=True), epochs
    )


class PerImage(Dataset):
    """MNIST augmented by torchvision, image by image."""

    def __init__(self, given: argparse.Namespace, count: int, augmented: bool) -> None:
        self.images = datasets.MNIST(given.data, train=True, download=False)
        self.count = count
        # As augmentation=[shift,rotate,noise]: bilinear, and noise on pixels in [0, 1].
        random = [
            v2.RandomAffine(0, translate=(0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomAffine(15, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(sigma=0.05),
        ]
        plain = [v2.ToDtype(torch.float32, scale=True)]
        steps = [v2.Pad(2), *(random if augmented else plain), v2.Normalize([0.1], [0.3])]
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images.data[index][None]), int(self.images.targets[index])


def per_image_loop(given: argparse.Namespace, epochs: int, steps: int, threads: int) -> float:
    torch.set_num_threads(threads)
    workers: dict[str, Any] = {"num_workers": 2, "persistent_workers": True}
    training = DataLoader(PerImage(given, steps * BATCH, True), BATCH, shuffle=True, **workers)
    validation = DataLoader(PerImage(given, 6000, False), BATCH, **workers)
    return timed_loop(lambda: iter(training), lambda: iter(validation), epochs)


# --- ResNet-18 for small images ---


def resnet18(num_classes: int = 10) -> nn.Module:
    """ResNet-18 with a 3 x 3 stem and without the first pooling, as is usual for CIFAR-10."""
    network = models.resnet18(num_classes=num_classes)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


class Ends(L.Callback):
    """The times at which batches ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def cifar_files(folder: Path) -> None:
    """Write CIFAR-10's files, as large as they are, with random pixels."""
    generator = np.random.default_rng(0)
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = generator.integers(0, 256, (10_000, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records.tofile(folder / "cifar-10-batches-bin" / f"{name}.bin")


def cifar_step(steps: int) -> float:
    """Seconds of a step in our program, after the first two."""
    with tempfile.TemporaryDirectory() as folder:
        cifar_files(Path(folder))
        overrides = (
            "data=cifar10",
            "model=resnet18",
            "model.weights=null",
            "model.image_size=32",
            "model.resize_size=32",
        )
        network = ("model.network._target_=small_images.resnet18", "trusted_packages=[small_images]")
        limits = ("trainer.max_epochs=1", f"trainer.limit_train_batches={steps + 2}", "trainer.limit_val_batches=1")
        own = (
            f"paths.data_dir={folder}",
            f"paths.cache_dir={folder}/cache",
            "preprocessing=standardize",
            "trainer=cpu",
        )
        cfg = compose([*overrides, *network, *limits, *own])
        check(cfg)
        built = experiment.build(plain_config(cfg, Path(folder) / "run"))
        ends = Ends()
        built.trainer.callbacks.append(ends)  # type: ignore[attr-defined]
        keep_freed_memory()
        built.fit()
    return (ends.times[-1] - ends.times[1]) / (len(ends.times) - 2)


def bare_cifar_step(steps: int) -> float:
    """Seconds of the same step on batches that are there, in a loop of its own."""
    keep_freed_memory()
    network = resnet18().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    loss_function = nn.CrossEntropyLoss()
    images = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(128) % 10
    began = 0.0
    for step in itertools.count():
        if step == 2:
            began = time.perf_counter()
        if step == steps + 2:
            return (time.perf_counter() - began) / steps
        optimizer.zero_grad()
        loss_function(network(images), labels).backward()
        optimizer.step()
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main()
