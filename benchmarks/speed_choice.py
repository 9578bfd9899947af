"""Whether what `speed=fast` chooses is the fastest: its choice against every candidate, timed in turn.

    python benchmarks/speed_choice.py [--quick] [--json FILE]

Steps of LeNet-5 (32 pixels, batches of 32), ResNet-18 and MobileNetV2 (224 pixels, batches of 16) without the
optimizer's. A ratio is the time of the other settings divided by that of the choice, in the same round.
"""

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torchvision
from common import IMAGENET_MEAN, IMAGENET_STD, arguments, each_apart, ratio, report
from torch import nn
from training_step import CLASSES, classifier_of

from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.preprocessing import Normalize
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.system.memory import keep_freed_memory
from cnnlab.training.module import TaskModule
from cnnlab.training.race import choose
from cnnlab.training.speed import Speed, candidates
from cnnlab.training.speed_choice import SMALL, operations
from cnnlab.training.trial_steps import TrialSteps

FAST = {"precision": "auto", "channels_last": "auto", "compile": False, "num_threads": "auto"}
STEPS = 2000
"""Of the run whose speed is chosen."""
LAP = 0.05
"""Seconds that are timed at once."""


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    size, batch, rounds = (96, 8, 3) if given.quick else (224, 16, 7)
    networks = {
        "lenet5": partial(measured, lenet5, (32, 1, 32, 32), rounds),
        "mobilenet_v2": partial(measured, partial(published, "mobilenet_v2"), (batch, 3, size, size), rounds),
        "resnet18": partial(measured, partial(published, "resnet18"), (batch, 3, size, size), rounds),
    }
    values: dict[str, Any] = {}
    ratios: dict[str, dict] = {}
    for name, measure in each_apart(networks).items():
        speed, spent, seconds = measure()
        values[name] = {"choice": speed, "seconds to choose": spent, "seconds of a step": seconds}
        fastest = min(seconds, key=lambda each: median(seconds[each]))
        print(f"{name}: chose {speed} in {spent:.2f} s; the fastest is {fastest}", flush=True)
        for what, other in {"fastest": fastest, **others(seconds)}.items():
            ratios[f"{name}: {what} / choice (time)"] = ratio(seconds[other], seconds[speed])
    report("speed_choice", given, values, ratios)


def others(seconds: dict[str, list[float]]) -> dict[str, str]:
    """What the choice is compared with besides the fastest: all threads, channels last, in each precision."""
    names = [name for name in seconds if "channels_last" in name and "1 thread" not in name]
    return {name.split(",")[0]: name for name in names}


def measured(
    build: Callable[[], tuple[nn.Module, nn.Module]], shape: tuple[int, ...], rounds: int
) -> tuple[str, float, dict[str, list[float]]]:
    """The choice for a network, how long it took, and the seconds of a step with every candidate, a value a round."""
    keep_freed_memory()
    preprocessing, network = build()

    def build_module(channels_last: bool) -> TaskModule:
        module = classifier_of(network, preprocessing)
        return type(module)(
            preprocessing, network, module.classes, {}, replace(module.recipe, channels_last=channels_last)
        )

    options = candidates(FAST, torch.device("cpu"))
    if operations(network, SimpleNamespace(channels=shape[1], image_size=shape[2], batch_size=shape[0])) > SMALL:
        options["num_threads"] = options["num_threads"][:1]
    batch = torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, CLASSES, shape[:1])
    with TrialSteps(build_module, batch, torch.device("cpu"), 0) as steps:
        began = time.perf_counter()
        timing = choose(options, steps, STEPS)
        spent = time.perf_counter() - began
        every = [Speed(*values) for values in itertools.product(*options.values())]
        seconds: dict[str, list[float]] = {str(speed): [] for speed in every}
        for speed in [each for _ in range(rounds) for each in every]:
            seconds[str(speed)].append(seconds_of(steps, speed))
    return str(timing.best), spent, seconds


def seconds_of(steps: TrialSteps, speed: Speed) -> float:
    """Seconds of a step, after one that is not counted."""
    steps.switch(speed)
    steps.take()
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < LAP or not count:
        steps.take()
        count += 1
    return spent / count


def lenet5() -> tuple[nn.Module, nn.Module]:
    return nn.Identity(), LeNet5()


def published(name: str) -> tuple[nn.Module, nn.Module]:
    network = with_features_and_classifier(torchvision.models.get_model(name, num_classes=CLASSES))
    return Normalize(IMAGENET_MEAN, IMAGENET_STD), network


if __name__ == "__main__":
    main()
