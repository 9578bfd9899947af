"""The config's keys and their types: one dataclass for each node without `_target_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Target:
    """An entry that names what it builds: `_target_` and its arguments."""


@dataclass
class Entries:
    """Named entries with a `_target_` each; null switches one off."""


@dataclass
class Checkpoints(Entries):
    """Callbacks that write checkpoints."""

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
    """What is learned: a task, and the metrics that say how well."""

    name: str
    implementation: Target
    metric: str
    metrics: dict[str, str]


@dataclass
class DataConfig:
    """Data of any kind; a task's own schema says the other keys."""

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
    channels_last: bool
    compile: bool | None
    deterministic: bool
    benchmark: bool
    num_threads: int | None
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


OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "trainer": {"scale_lr": str},
    "augmentation.random_crop": {"size": int | list | None},
    "augmentation.random_resized_crop": {"size": int | list | None},
}
"""Arguments beside the target's own, or of other types: node -> name -> type. A size of null is the network's."""
SUPPLIED_ARGUMENTS = {
    "task.implementation": {"name", "metrics"},
    "model.network": {"num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "preprocessing": {"images_NCHW"},
    "init": {"module", "only", "images"},
}
"""Arguments that the program gives, so that a config need not."""
OPEN_TARGETS: dict[str, dict[str, Any] | None] = {
    "timm.create_model": None,
    "torchvision.models.get_model": {
        "name": str,
        "dropout": float,
        "stochastic_depth_prob": float,
        "aux_logits": bool,
        "init_weights": bool,
    },
    "torchvision.models.mobilenet_v2": {"width_mult": float, "dropout": float},
    "torchvision.models.resnet18": {"zero_init_residual": bool, "groups": int, "width_per_group": int},
    "torchvision.models.squeezenet1_1": {"dropout": float},
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
"""Targets that take **kwargs -> the names that are meant, with their types (None: any name)."""
STORED = {
    "seed": int,
    "task": TaskConfig,
    "metric": str,
    "metric_mode": str,
    "model": ModelConfig,
    "augmentation": Entries,
    "paths": PathsConfig,
}
"""What verbs read of a run's config, beside its data, whose schema the task knows."""
STORED_NEEDED = ("task.name", "task.implementation", "model.name", "paths.data_dir", "paths.cache_dir")
"""Keys without which a stored config cannot be used; others may be newer than the run."""
