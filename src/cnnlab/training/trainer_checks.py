"""Refuse arguments of `trainer` that would fail during the run, do nothing, or do something else than they say."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks

from cnnlab.config import Config
from cnnlab.data.datamodule import DataModule
from cnnlab.errors import InputError, Problems
from cnnlab.system.files import load_tensors
from cnnlab.training.recipe import Recipe

log = logging.getLogger(__name__)

REPLACED = {
    "barebones": "it would leave out what a run records. callbacks=none logger=none record the least",
    "callbacks": "add a callback with +callbacks.NAME={_target_: ...}",
    "default_root_dir": "paths.output_dir=FOLDER names the run folder",
    "enable_progress_bar": "callbacks.progress=null switches the bar off",
    "fast_dev_run": "debug=smoke runs a few batches through every step",
    "limit_predict_batches": "a run predicts nothing. cnnlab predict does",
    "logger": "choose loggers with logger=[tensorboard,csv]",
    "model_registry": "a run uploads nothing. Its best weights are in best_weights.pth",
    "plugins": "speed.precision and trainer.strategy choose them",
    "use_distributed_sampler": "the data are divided among the processes already",
}
"""Arguments of lightning.Trainer that a run sets itself -> what to use instead."""
UNSUITABLE: dict[type, str] = {
    callbacks.BaseFinetuning: "freeze=... freezes stages by epoch",
    callbacks.BatchSizeFinder: "it replaces data.batch_size without a record. cnnlab check shows the memory of a batch",
    callbacks.LearningRateFinder: "it replaces the learning rates of all stages by one. Sweep optimizer.lr instead",
    callbacks.StochasticWeightAveraging: "its average is never saved. regularization=[ema] saves one",
}
"""Callback -> why not, and what to use instead."""
PROFILERS = ("simple", "advanced", "pytorch")
DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")
UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def _is_duration(value: Any) -> bool:
    if isinstance(value, str):
        return DURATION.fullmatch(value) is not None
    if not isinstance(value, dict) or not value:
        return False
    return set(value) <= set(UNITS) and all(isinstance(number, int | float) and number > 0 for number in value.values())


def _is_share(value: Any) -> bool:
    return isinstance(value, int) or 0 <= value <= 1


DURATIONS = "a time such as 00:12:00:00 (days:hours:minutes:seconds) or {hours: 12}"
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (lambda value: value >= 1, "at least 1"),
    "check_val_every_n_epoch": (lambda value: value >= 1, "at least 1, or null to count batches over all epochs"),
    "gradient_clip_val": (lambda value: value >= 0, "at least 0"),
    "limit_test_batches": (lambda value: _is_share(value) and value >= 0, "a number of batches, or a share up to 1.0"),
    "limit_train_batches": (
        lambda value: _is_share(value) and value > 0,
        "at least 1 batch, or a share above 0 and up to 1.0",
    ),
    "limit_val_batches": (lambda value: _is_share(value) and value >= 0, "a number of batches, or a share up to 1.0"),
    "log_every_n_steps": (lambda value: value >= 0, "at least 1, or 0 for never"),
    "max_epochs": (lambda value: value >= 1 or value == -1, "at least 1, or -1 for no limit"),
    "max_steps": (lambda value: value >= 1 or value == -1, "at least 1, or -1 for no limit"),
    "max_time": (_is_duration, DURATIONS),
    "min_epochs": (lambda value: value >= 0, "at least 0"),
    "min_steps": (lambda value: value >= 0, "at least 0"),
    "num_nodes": (lambda value: value >= 1, "at least 1"),
    "num_sanity_val_steps": (lambda value: value >= -1, "at least 0, or -1 for all batches"),
    "overfit_batches": (
        lambda value: _is_share(value) and value >= 0,
        "a number of batches, or a share of the images up to 1.0",
    ),
    "profiler": (lambda value: isinstance(value, dict) or value in PROFILERS, f"one of {', '.join(PROFILERS)}"),
    "reload_dataloaders_every_n_epochs": (lambda value: value >= 0, "at least 0"),
    "val_check_interval": (
        lambda value: _is_duration(value) if isinstance(value, str | dict) else _is_share(value) and value > 0,
        f"at least 1 batch, a share of the epoch above 0 and up to 1.0, or {DURATIONS}",
    ),
}
"""Argument -> whether a value works, and which values do."""
NEEDED = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "max_epochs", "overfit_batches")
"""Arguments that cannot be null, for which Lightning has defaults of its own."""


def check_arguments(cfg: Mapping[str, Any]) -> None:
    """Raise one InputError for everything wrong with the group `trainer` that shows without data and network.

    What lightning.Trainer refuses by itself, such as an unknown accelerator, is left to it.
    """
    trainer, problems = cfg["trainer"], Problems()
    for name, instead in REPLACED.items():
        with problems:
            if trainer.get(name):
                raise InputError(f"trainer.{name} cannot be set: {instead}.")
    for name, (works, words) in RANGES.items():
        with problems:
            value = trainer.get(name)
            if (value is None and name in NEEDED and name in trainer) or (value is not None and not works(value)):
                raise InputError(f"trainer.{name}={'null' if value is None else value}: must be {words}.")
    for check in (_check_minimum, _check_clipping, _check_determinism, _check_precision):
        problems.attempt(check, trainer)
    problems.raise_all("The trainer cannot be:")


def _check_minimum(trainer: Mapping[str, Any]) -> None:
    problems = Problems()
    for unit in ("epochs", "steps"):
        least, most = trainer.get(f"min_{unit}") or 0, trainer[f"max_{unit}"]
        with problems:
            if most and 0 < most < least:
                raise InputError(f"trainer.min_{unit}={least} is more than trainer.max_{unit}={most}.")
    problems.raise_all("The trainer cannot be:")


def _check_clipping(trainer: Mapping[str, Any]) -> None:
    if trainer.get("gradient_clip_algorithm") and not trainer["gradient_clip_val"]:
        raise InputError("trainer.gradient_clip_algorithm clips nothing: set trainer.gradient_clip_val too.")


def _check_determinism(trainer: Mapping[str, Any]) -> None:
    if trainer["deterministic"] and trainer["benchmark"]:
        raise InputError(
            "trainer.deterministic and trainer.benchmark exclude each other: cuDNN's benchmark takes whichever "
            "algorithm is fastest. Use speed=exact, or speed.benchmark=false."
        )


def _check_precision(trainer: Mapping[str, Any]) -> None:
    on_cpu = trainer["accelerator"] == "cpu" or (
        trainer["accelerator"] == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
    if on_cpu and str(trainer["precision"]) in ("16", "16-mixed"):
        raise InputError(
            f"speed.precision={trainer['precision']}: the CPU has no mixed precision in float16. Use bf16-mixed."
        )


# --- With the data and the trainer ---


def check_trainer(trainer: L.Trainer, cfg: Config, data: DataModule, recipe: Recipe) -> None:
    """Raise InputError if the trainer does not fit the data."""
    require_work_for_all(data, trainer.world_size)
    check_callbacks(trainer)
    check_batches(trainer, data)
    check_followers(trainer, data, metric_followers(cfg, recipe.regularizers), recipe.monitor)


def check_callbacks(trainer: L.Trainer) -> None:
    """Raise InputError for callbacks of Lightning that do something else in a run than they say."""
    problems = Problems()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        with problems:
            if instead := next((text for kind, text in UNSUITABLE.items() if isinstance(callback, kind)), None):
                raise InputError(f"{type(callback).__name__} does not work in a run: {instead}.")
    problems.raise_all("These callbacks do not work:")


def check_batches(trainer: L.Trainer, data: DataModule) -> None:
    """Raise one InputError for limits that do not fit the number of batches per epoch."""
    problems = Problems()
    for part in ("train", "val", "test"):
        limit, count = getattr(trainer, f"limit_{part}_batches"), data.count_batches(part, trainer.world_size)
        with problems:
            if isinstance(limit, float) and limit > 0 and count > 0 and int(count * limit) < 1:
                raise InputError(
                    f"trainer.limit_{part}_batches={limit}: this share of {count} batches is less than one. "
                    f"Set a number of batches, or at least {math.ceil(1000 / count) / 1000}."
                )
    problems.raise_all("The trainer cannot be:")
    batches, interval = _epoch_batches(trainer, data), _val_interval(trainer)
    validates = data.parts.val is not None and trainer.limit_val_batches
    with problems:
        if validates and isinstance(interval, int) and trainer.check_val_every_n_epoch and interval > batches:
            raise InputError(
                f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch. Lower it, or "
                "count over all epochs: trainer.check_val_every_n_epoch=null."
            )
    least, steps = trainer.min_steps or 0, run_steps(trainer, data)
    with problems:
        if least > steps:
            raise InputError(f"trainer.min_steps={least}: the run ends after {steps} steps. Raise trainer.max_epochs.")
    problems.raise_all("The trainer cannot be:")


def run_steps(trainer: L.Trainer, data: DataModule) -> float:
    """Return the number of optimizer steps of the whole run; infinity if it is not limited."""
    steps = math.ceil(_epoch_batches(trainer, data) / trainer.accumulate_grad_batches)
    epochs: float = trainer.max_epochs or -1
    return min(
        steps * epochs if epochs > 0 else math.inf,
        trainer.max_steps if trainer.max_steps > 0 else math.inf,
    )


def never_validates(trainer: L.Trainer, data: DataModule) -> bool:
    """Return whether the run ends before its first validation; False if that depends on the time."""
    batches, interval = _epoch_batches(trainer, data), _val_interval(trainer)
    if interval is None:
        return False
    first = interval if isinstance(interval, int) else max(1, int(batches * interval))
    if trainer.check_val_every_n_epoch:
        first += (trainer.check_val_every_n_epoch - 1) * batches
    epochs, steps = divmod(run_steps(trainer, data), math.ceil(batches / trainer.accumulate_grad_batches))
    return first > epochs * batches + steps * trainer.accumulate_grad_batches


def check_followers(trainer: L.Trainer, data: DataModule, followers: Sequence[str], monitor: str) -> None:
    """Raise InputError if config entries that follow a validation metric would wait for it in vain.

    followers: names of the entries, such as scheduler and regularization.early_stopping.
    """
    names = " and ".join(followers)
    if followers and never_validates(trainer, data):
        raise InputError(
            f"{names} needs {monitor}, but the run ends before its first validation. Raise trainer.max_epochs or "
            "trainer.max_steps, or lower trainer.check_val_every_n_epoch or trainer.val_check_interval."
        )
    if "scheduler" in followers and not (trainer.check_val_every_n_epoch and _val_interval(trainer)):
        raise InputError(
            f"scheduler=plateau needs {monitor} at the end of epochs: set trainer.check_val_every_n_epoch to a number, "
            "and trainer.val_check_interval to none or to a share of the epoch."
        )


def require_validation(cfg: Config, regularizers: Mapping[str, Any], data: DataModule) -> None:
    """Raise InputError if something follows a validation metric and nothing is validated."""
    followers = metric_followers(cfg, regularizers)
    if followers and (data.parts.val is None or cfg["trainer"]["limit_val_batches"] == 0):
        raise InputError(
            f"{', '.join(followers)} follows val/{cfg['metric']}, but nothing is validated: raise data.val_fraction."
        )


def metric_followers(cfg: Config, regularizers: Mapping[str, Any]) -> list[str]:
    """Return the names of the config entries that follow the run's metric."""
    plateau = ["scheduler"] if cfg["scheduler"]["_target_"].endswith(".ReduceLROnPlateau") else []
    stopping = [
        f"regularization.{name}" for name, entry in regularizers.items() if isinstance(entry, callbacks.EarlyStopping)
    ]
    return plateau + stopping


def require_work_for_all(data: DataModule, processes: int) -> None:
    """Raise InputError if a process would get no example of a part: the others would wait for it forever."""
    for name in ("train", "val", "test"):
        part = getattr(data.parts, name)
        if part is not None and len(part) < processes:
            raise InputError(
                f"{data.examples}: {len(part)} in {name} are too few for {processes} processes, which need one each. "
                "Lower trainer.devices, or give more (data.val_fraction, data.test_fraction)."
            )


def require_rest(trainer: L.Trainer, data: DataModule, recipe: Recipe, checkpoint: Path) -> None:
    """Raise InputError if a run cannot continue from a checkpoint as its config says; nothing is written then."""
    contents = load_tensors(checkpoint)
    done, steps = contents["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"], contents["global_step"]
    for name, limit, reached in (("max_epochs", trainer.max_epochs, done), ("max_steps", trainer.max_steps, steps)):
        if limit and 0 < limit < reached:
            raise InputError(f"trainer.{name}={limit}: the run has had {reached} already. Set a larger number.")
    if recipe.waits_for_plateaus:
        return
    if "schedule" not in contents:
        raise InputError(f"{checkpoint} was written by an older version of cnnlab: it cannot be resumed.")
    if contents["schedule"]["total_steps"] == run_steps(trainer, data) <= steps:
        log.info("The run has had all its %d steps: raise trainer.max_epochs to train on.", steps)


def _val_interval(trainer: L.Trainer) -> int | float | None:
    """Return the batches, or the share of an epoch, between validations; None if it is a time."""
    return getattr(trainer, "val_check_interval", None)


def _epoch_batches(trainer: L.Trainer, data: DataModule) -> int:
    """Return the number of training batches in an epoch, in each process."""
    count, limit = data.count_batches("train", trainer.world_size), trainer.limit_train_batches
    return min(count, limit) if isinstance(limit, int) else int(count * limit)
