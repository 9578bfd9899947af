"""Choose the settings of a run's speed that are "auto": as its record says, as an earlier run found, or by timing."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnlab.config import Config
from cnnlab.data.datamodule import DataModule
from cnnlab.models.modes import evaluating
from cnnlab.system.devices import device_of, processor_name
from cnnlab.system.processes import is_started_with_others, starts_processes
from cnnlab.training.feature_cache import CPU_BATCH
from cnnlab.training.module import TaskModule
from cnnlab.training.race import FEWEST, choose
from cnnlab.training.recipe import Recipe
from cnnlab.training.speed import (
    PRECISIONS,
    Memory,
    Speed,
    candidates,
    recorded,
    tell_children,
    told_by_parent,
    untimed,
)
from cnnlab.training.trial_steps import TrialSteps

log = logging.getLogger(__name__)
ENDLESS = 10**9
"""Number of steps or epochs of a run without an end."""
SMALL = 5e9
"""Floating-point operations of a training step up to which one thread may be faster than all: 0.1 s on one core."""


class Work(NamedTuple):
    """The steps that take most of a run's time: their number, their batch size, and an epoch in which they occur."""

    steps: int
    batch_size: int
    epoch: int


def choose_speed(
    cfg: Config,
    network: nn.Module,
    data: DataModule,
    recipe: Recipe,
    build_module: Callable[[Recipe], TaskModule],
    *,
    caches_features: bool,
    record: Any = None,
    keeps: bool = True,
) -> Speed:
    """Return the settings for the run, and log in one line how they were chosen.

    build_module: returns a module that trains `network` by a recipe. caches_features: whether the outputs of frozen
    stages can be cached. record: `speed` in the record of a run that is resumed. keeps: whether a choice by timing is
    kept in the cache folder.
    Raises InputError for unknown settings, or if the network cannot be trained on the data.
    """
    device = device_of(cfg["trainer"]["accelerator"], cfg["trainer"]["devices"])
    options = candidates(cfg["speed"] | {"precision": cfg["trainer"]["precision"]}, device)
    starts_others = starts_processes(cfg["trainer"])
    shares_cores = starts_others or is_started_with_others()
    if len(options["num_threads"]) > 1 and (shares_cores or operations(network, data) > SMALL):
        options["num_threads"] = options["num_threads"][:1]
    if all(len(values) == 1 for values in options.values()):
        return untimed(options)
    if speed := recorded(record, options) or told_by_parent(options):
        return _said(speed, "as recorded")
    work = work_of(cfg, network, data, recipe, device, caches_features)
    memory = Memory(
        Path(cfg["paths"]["cache_dir"]) / "speed",
        [
            *(processor_name(device), torch.get_num_threads(), torch.__version__, options),
            *(
                repr(network),
                recipe.plan.trainable(work.epoch),
                [type(each).__name__ for each in recipe.batch_transforms],
            ),
            *(work.batch_size, data.channels, data.image_size),
        ],
    )
    if is_started_with_others():  # which cannot ask each other yet, and must agree
        speed = _said(untimed(options), "not timed, since the run has several processes")
    elif speed := memory.recall(options):
        _said(speed, f"timed before, {memory.path}")
    elif work.steps < FEWEST or not set(options["precision"]) <= PRECISIONS.keys():
        speed = untimed(options)
        if len(options["precision"]) > 1:
            _said(speed, f"not timed, since the run has only {work.steps} steps")
    else:
        build_module(recipe).check_step(data.probe_batch())
        batch = data.probe_batch(work.batch_size)
        with TrialSteps(
            lambda last: build_module(replace(recipe, channels_last=last)), batch, device, work.epoch
        ) as steps:
            timing = choose(options, steps, work.steps)
        if keeps:
            memory.keep(timing.best, timing.seconds)
        speed = _said(timing.best, f"timed here: {timing.describe()}")
    if starts_others:
        tell_children(speed)
    return speed


def operations(network: nn.Module, data: DataModule) -> float:
    """Return the floating-point operations of a training step, counted with one blank example.

    They are infinite for a network that does not take one. The backward pass takes twice as many as the forward pass.
    """
    example = torch.zeros(1, data.channels, data.image_size, data.image_size)
    try:
        with evaluating(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(example)
    except Exception as error:  # the trial step says what is wrong
        log.debug("The operations of %s cannot be counted: %s", type(network).__name__, error)
        return math.inf
    return float(3 * counter.get_total_flops() * data.batch_size)


def work_of(
    cfg: Config, network: nn.Module, data: DataModule, recipe: Recipe, device: torch.device, caches_features: bool
) -> Work:
    """Return the steps of the last phase, or those that compute its features if these are cached."""
    trainer, freeze, plan = cfg["trainer"], cfg["freeze"], recipe.plan
    epochs = trainer["max_epochs"] if (trainer["max_epochs"] or -1) > 0 else ENDLESS
    epoch = max(phase.epoch for phase in plan.phases if phase.epoch < epochs)
    count = len(data.parts.train)
    if caches_features and freeze["cache"] != "off" and freeze["cache_views"] and plan.first_trained(network, epoch):
        batch_size = min(data.batch_size, CPU_BATCH) if device.type == "cpu" else data.batch_size
        views = min(epochs, freeze["cache_views"]) if cfg["augmentation"] else 1
        images = views * count + len(data.parts.val or ())
        return Work(math.ceil(images / batch_size), batch_size, epoch)
    batches = max(1, (data.epoch_size or count) // data.batch_size)
    steps = limited(batches, trainer["limit_train_batches"]) * (epochs - epoch)
    if trainer["max_steps"] > 0:
        steps = min(steps, trainer["max_steps"] * trainer["accumulate_grad_batches"])
    return Work(min(steps, ENDLESS), min(data.batch_size, count), epoch)


def limited(batches: int, limit: int | float) -> int:
    """Return the number of batches under trainer.limit_train_batches or limit_val_batches."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _said(speed: Speed, how: str) -> Speed:
    log.info("Speed: %s (%s)", speed, how)
    return speed
