"""`what=schedule`: the learning rate and freezing of every stage over the epochs, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import nn

from cnnlab.config import build, build_entries, trusted_prefixes
from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import figure_image
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.stages import stage_of_parameter, stages
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.optimizers import parameter_groups
from cnnlab.training.recipe import is_plateau


@dataclass
class Options:
    """Draw the learning rate and freezing of every stage over the epochs, without training.

    steps: optimizer steps per epoch to simulate; those of the real run follow from its data and batch size.
    """

    steps: int = 50


@dataclass(frozen=True)
class Schedule:
    """The simulated schedule of a run.

    epochs, steps: number of epochs, and of steps per epoch. rates: stage -> its learning rate before each step, even
    while it is frozen. trainable: the stages that train in each epoch. note: what the simulation leaves out.
    """

    epochs: int
    steps: int
    rates: dict[str, list[float]]
    trainable: list[list[str]]
    note: str = ""


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write schedule.png and schedule.json."""
    if options.steps < 2:
        raise InputError(f"steps={options.steps}: at least 2 steps an epoch are needed.")
    trusted = trusted_prefixes({"trusted_packages": list(subject.packages)})
    schedule = simulate(subject.meta_network, subject.cfg, options.steps, trusted)
    optimizer = subject.cfg["optimizer"]
    title = f"{subject.name} · {optimizer['_target_'].rsplit('.', 1)[-1]}, lr {optimizer['lr']:g}"
    with Album(output) as album:
        album.add("schedule", figure_image(schedule_figure(schedule, title)))
        album.numbers(
            "schedule",
            {
                "epochs": schedule.epochs,
                "steps_per_epoch": schedule.steps,
                "trainable": schedule.trainable,
                "learning_rate": {
                    name: {"start_of_epoch": rates[:: schedule.steps], "highest": max(rates), "last": rates[-1]}
                    for name, rates in schedule.rates.items()
                },
            },
        )
    return album.paths


def simulate(network: nn.Module, cfg: dict[str, Any], steps: int, trusted: tuple[str, ...]) -> Schedule:
    """Step the config's scheduler on the network's parameter groups without training.

    network: may be on the meta device.
    """
    epochs = cfg["trainer"]["max_epochs"]
    plan = FreezePlan(network, cfg["freeze"]["phases"], cfg["freeze"]["batch_norm"])
    regularizers = build_entries(cfg["regularization"], trusted).values()
    decay = sum(getattr(each, "weight_decay", 0.0) for each in regularizers)
    lr = cfg["optimizer"]["lr"]
    groups = parameter_groups(network, plan, lr, decay)
    optimizer = build(cfg["optimizer"], trusted)(groups, lr=lr)
    build_scheduler = build(cfg["scheduler"], trusted)
    follows_metric = is_plateau(build_scheduler)
    scheduler = (
        None if follows_metric else build_scheduler(optimizer, total_steps=epochs * steps, steps_per_epoch=steps)
    )
    stage_of = {id(p): stage for stage, p in _parameters(network)}
    rates: dict[str, list[float]] = {stage: [] for stage, _ in _parameters(network)}
    for _ in range(epochs * steps):
        now = {stage_of[id(p)]: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for stage, values in rates.items():
            values.append(now[stage])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    note = "without the reductions of ReduceLROnPlateau, which follow a metric" if follows_metric else ""
    return Schedule(epochs, steps, rates, [plan.trainable(epoch) for epoch in range(epochs)], note)


def schedule_figure(schedule: Schedule, title: str) -> Figure:
    """Plot the distinct learning rates and, below, the stages by epoch, coloured by learning rate (grey: frozen)."""
    names = list(schedule.rates)
    figure = Figure(figsize=(12, 4.5 + 0.24 * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=14)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, max(1.5, 0.24 * len(names))])
    time = np.arange(schedule.epochs * schedule.steps) / schedule.steps
    curves: dict[tuple[float, ...], list[str]] = {}
    for name, rates in schedule.rates.items():
        curves.setdefault(tuple(rates), []).append(name)
    for curve, stages_of_curve in curves.items():
        ends = f"{stages_of_curve[0]} to {stages_of_curve[-1]}" if len(stages_of_curve) > 1 else stages_of_curve[0]
        top.plot(time, curve, label=ends, linewidth=2)
    top.set_ylabel("learning rate")
    top.set_ylim(bottom=0)
    top.grid(alpha=0.3)
    if len(curves) > 1:
        top.legend(fontsize=8, ncols=2)
        top.set_yscale("log")
        positive = [rate for curve in curves for rate in curve if rate > 0]
        top.set_ylim(bottom=max(min(positive), max(positive) * 1e-5))
    shown = np.array([schedule.rates[name] for name in names])
    trains = np.array(
        [[name in epoch for epoch in schedule.trainable for _ in range(schedule.steps)] for name in names]
    )
    highest = max(shown.max(), 1e-12)
    colours = np.ma.masked_where(~trains, np.maximum(shown, highest * 1e-4))
    below.set_facecolor("0.85")
    picture = below.imshow(
        colours,
        aspect="auto",
        extent=(0, schedule.epochs, len(names) - 0.5, -0.5),
        norm=LogNorm(highest * 1e-4, highest),
        cmap="viridis",
        interpolation="nearest",
    )
    below.set_yticks(range(len(names)), names, fontsize=8)
    below.set_xticks(range(0, schedule.epochs + 1, max(1, -(-schedule.epochs // 20))))
    below.set_xlabel("epoch" + (f" ({schedule.note})" if schedule.note else ""))
    below.set_title("the rate at which each stage trains; grey is frozen", fontsize=10)
    figure.colorbar(picture, ax=below, label="learning rate")
    return figure


def _parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return (stage, parameter) for every parameter, in the order of the stages."""
    stage = stage_of_parameter(network)
    order = list(stages(network))
    named = [(stage[name], parameter) for name, parameter in network.named_parameters()]
    return sorted(named, key=lambda entry: order.index(entry[0]))
