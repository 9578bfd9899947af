"""Images per second of a training step of the whole network, against a plain PyTorch loop and timm's.

    python benchmarks/training_step.py [--quick] [--json FILE]

MobileNetV2, ResNet-18 and VGG16 on a fixed batch of 32 images of 224 pixels, AdamW, cross entropy:
  plain    float32, contiguous, as in most scripts
  bare     our step (uint8 batch, bfloat16, channels_last, our optimizer and preprocessing) in a loop of its own
  ours     the same step in our program: Lightning's loop, metrics, logging, progress bar off
  timm     timm's model of the name in bfloat16 and channels_last, its optimizer, fused as ours is
and of LeNet-5 what a step costs in our program beyond the bare one, in milliseconds.
"""

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torchvision
from common import IMAGENET_MEAN, IMAGENET_STD, arguments, each_apart, interleaved, ratio, report, spread
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.preprocessing import Normalize
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.system.memory import keep_freed_memory
from cnnlab.tasks.classification.module import Classifier
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.recipe import Recipe
from cnnlab.training.schedulers import constant

CLASSES = 10
TIMM = {"mobilenet_v2": "mobilenetv2_100", "resnet18": "resnet18", "vgg16": "vgg16"}


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    batch, steps, rounds = (8, 1, 2) if given.quick else (32, 4, 3)
    networks = ["mobilenet_v2", "resnet18"] if given.quick else list(TIMM)
    values: dict[str, Any] = {"batch": batch}
    ratios: dict[str, dict] = {}
    for name in networks:
        seconds = interleaved(each_apart(variants(name, batch, steps)), rounds)
        values[name] = {variant: [batch / second for second in found] for variant, found in seconds.items()}
        ratios[f"{name}: ours / plain"] = ratio(seconds["plain"], seconds["ours"])
        ratios[f"{name}: ours / timm"] = ratio(seconds["timm"], seconds["ours"])
        ratios[f"{name}: overhead, ours / bare (time)"] = ratio(seconds["ours"], seconds["bare"])
    lenet = interleaved(each_apart(lenet5_variants(60 if given.quick else 300)), rounds)
    ratios["lenet5: overhead, ms a step"] = spread(
        [1000 * (a - b) for a, b in zip(lenet["ours"], lenet["bare"], strict=True)]
    )
    values["lenet5, seconds a step"] = lenet
    report("training_step", given, values, ratios)


def variants(name: str, batch: int, steps: int) -> dict[str, Callable[[], float]]:
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)

    def network() -> nn.Module:
        return with_features_and_classifier(torchvision.models.get_model(name, num_classes=CLASSES))

    def pixels_and_labels() -> tuple[Tensor, Tensor]:
        return torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8), torch.randint(0, CLASSES, (batch,))

    def floats_and_labels() -> tuple[Tensor, Tensor]:
        pixels, labels = pixels_and_labels()
        return normalize(pixels.float() / 255), labels

    return {
        "plain": lambda: plain(network(), *floats_and_labels(), steps),
        "bare": lambda: our_step(classifier_of(network(), normalize), *pixels_and_labels(), steps, amp=True),
        "ours": lambda: in_trainer(classifier_of(network(), normalize), *pixels_and_labels(), steps, "bf16-mixed"),
        "timm": lambda: timm_step(TIMM[name], *floats_and_labels(), steps),
    }


def lenet5_variants(steps: int) -> dict[str, Callable[[], float]]:
    def pixels_and_labels() -> tuple[Tensor, Tensor]:
        torch.set_num_threads(1)
        return torch.randint(0, 256, (32, 1, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (32,))

    return {
        "bare": lambda: our_step(classifier_of(LeNet5(), nn.Identity()), *pixels_and_labels(), steps, amp=False),
        "ours": lambda: in_trainer(classifier_of(LeNet5(), nn.Identity()), *pixels_and_labels(), steps, "32-true"),
    }


def classifier_of(network: nn.Module, preprocessing: nn.Module) -> Classifier:
    recipe = Recipe(
        optimizer=partial(torch.optim.AdamW, fused=True),
        scheduler=constant,
        loss=nn.CrossEntropyLoss,
        plan=FreezePlan(network, [{"epoch": 0, "train": "all"}]),
        lr=1e-4,
        seed=0,
    )
    return Classifier(preprocessing, network, [str(number) for number in range(CLASSES)], {}, recipe)


def timed(step: Callable[[], None], steps: int) -> float:
    """Seconds of a step, after one that is not counted."""
    step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def plain(network: nn.Module, images: Tensor, labels: Tensor, steps: int) -> float:
    """The loop of most scripts."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_function(network(images), labels)
        loss.backward()
        optimizer.step()

    return timed(step, steps)


def our_step(classifier: Classifier, pixels: Tensor, labels: Tensor, steps: int, amp: bool) -> float:
    """What a step of ours computes, and nothing around it."""
    keep_freed_memory()
    classifier.network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = classifier.train_loss(classifier(pixels), labels)
        loss.backward()
        optimizer.step()

    return timed(step, steps)


def timm_step(name: str, images: Tensor, labels: Tensor, steps: int) -> float:
    import timm
    from timm.optim import create_optimizer_v2

    network = timm.create_model(name, num_classes=CLASSES).to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-4, fused=True)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_function(network(images), labels)
        loss.backward()
        optimizer.step()

    return timed(step, steps)


class Clock(L.Callback):
    """When each batch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def in_trainer(classifier: Classifier, pixels: Tensor, labels: Tensor, steps: int, precision: str) -> float:
    """Seconds of a step inside `Trainer.fit`, from the end of the first batch on."""

    keep_freed_memory()
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        default_root_dir=Path("/tmp"),
    )
    trainer.fit(classifier, DataLoader([(pixels, labels)] * (steps + 1), batch_size=None))
    return (clock.ends[-1] - clock.ends[0]) / steps


if __name__ == "__main__":
    main()
