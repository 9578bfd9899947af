"""The keys of the config and their types: one dataclass for each node without `_target_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Target:
    """A node with a `_target_` and the arguments to build it with."""


@dataclass
class Entries:
    """A group of named nodes with a `_target_`; null switches one off."""


@dataclass
class Checkpoints(Entries):
    """The callbacks that write checkpoints, and how often they do within an epoch."""

    every_n_steps: int | None


@dataclass
class ModelConfig:
    name: str
    network: Target
    weights: str | None
    in_channels: int
    image_size: int | None
    resize_size: int | None


@dataclass
class TaskConfig:
    """The task, its default metric, and every metric with its mode (min or max)."""

    name: str
    implementation: Target
    metric: str
    metrics: dict[str, str]


@dataclass
class DataConfig:
    """The keys that all data have; the task's `data_schema` defines the others."""

    name: str


@dataclass
class FreezeConfig:
    phases: Any
    batch_norm: str
    cache: str
    cache_views: int | None


@dataclass
class SpeedConfig:
    precision: str
    channels_last: bool | str
    compile: bool | str
    deterministic: bool
    benchmark: bool
    num_threads: int | str | None
    engine: str
    cache_gib: float | None


@dataclass
class PathsConfig:
    root: str
    data_dir: str
    cache_dir: str
    output_dir: str | None


@dataclass
class SweepConfig:
    dir: str | None
    resume: bool


@dataclass
class TrainConfig:
    seed: int
    resume: str | None
    resume_schedule: Literal["extend", "restart", "constant"]
    sweep: SweepConfig
    trusted_packages: list[str]
    task: TaskConfig
    metric: str
    metric_mode: str
    model: ModelConfig
    data: DataConfig
    preprocessing: Target
    augmentation: Entries
    regularization: Entries
    init: Target
    freeze: FreezeConfig
    loss: Target
    optimizer: Target
    scheduler: Target
    speed: SpeedConfig
    trainer: Target
    divergence: Target
    checkpoint: Checkpoints
    callbacks: Entries
    logger: Entries
    paths: PathsConfig


NUMBERS = Literal[64, 32, 16, "64", "32", "16", "bf16"]
PRECISIONS = Literal["64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"]
ENGINES = Literal["transformer-engine", "transformer-engine-float16"]
"""What lightning.Trainer takes as its precision."""
OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "loss": {"class_weights": Any},
    "trainer": {"scale_lr": str, "precision": Literal["auto"] | NUMBERS | PRECISIONS | ENGINES | None},
    "augmentation.random_crop": {"size": int | list | None},
    "augmentation.random_resized_crop": {"size": int | list | None, "interpolation": str | None},
}
"""Extra arguments of a target, or other types for its own: node -> name -> type. What is null is the network's."""
SUPPLIED_ARGUMENTS = {
    "task.implementation": {"name", "metrics"},
    "model.network": {"num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "preprocessing": {"images_NCHW"},
    "init": {"module", "only", "images"},
}
"""Node -> arguments that the program passes, so that a config need not give them."""
NEEDED_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "optimizer": ("lr",),
    "trainer": (
        *("accelerator", "devices", "strategy", "precision", "deterministic"),
        *("max_epochs", "max_steps", "scale_lr"),
    ),
}
"""Node -> arguments that the program itself reads, so that they may not be deleted, though the target has defaults."""
OPEN_TARGETS: dict[str, dict[str, Any]] = {
    "cnnlab.models.initialization.initialize": {
        **dict.fromkeys(("a", "b", "mean", "std", "gain", "tolerance"), float),
        **dict.fromkeys(("mode", "nonlinearity"), str),
        "max_iterations": int,
    },
    "cnnlab.models.preprocessing.fit": {
        "per": str,
        "components": float | None,
        "epsilon": float,
        "patch": int | None,
    },
}
"""Targets that take **kwargs -> the accepted names and their types; networks are asked themselves."""
CHECKPOINTS = {
    "best": "the run is scored by best.ckpt, which is that of the best epoch",
    "last": "the run is resumed from last.ckpt, which is that of the last epoch",
}
"""Entries of the group checkpoint whose files the program reads -> what it relies on."""
CHECKPOINT_OPTIONS = {
    "best": ("_target_", "monitor", "mode", "verbose"),
    "last": ("_target_", "every_n_epochs", "save_on_train_epoch_end", "verbose"),
}
"""Keys that an entry of CHECKPOINTS may set freely, as far as other checks allow."""
CHECKPOINT_FIXED = {"save_top_k": 1, "auto_insert_metric_name": False, "enable_version_counter": False}
"""Keys and values that an entry of CHECKPOINTS may have besides its name."""
STORED = {
    "seed": int,
    "task": TaskConfig,
    "metric": str,
    "metric_mode": str,
    "model": ModelConfig,
    "augmentation": Entries,
    "paths": PathsConfig,
}
"""The keys of a run's config that verbs read, except `data`, whose schema comes from the task."""
STORED_NEEDED = ("task.name", "task.implementation", "model.name", "paths.data_dir", "paths.cache_dir")
"""Keys that a stored config must have; others may have been added after the run was made."""
