"""The config's keys and their types: one dataclass for each node without `_target_`."""

from __future__ import annotations

from collections.abc import Mapping
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
class DataConfig:
    """Pictures."""

    name: str
    dataset: Target
    root: str | None
    channels: int
    batch_size: int
    num_workers: int | None
    record_cache: str
    val_fraction: float
    test_fraction: float
    split_seed: int
    bad_images: str
    classes: Any
    images_per_class: int | None
    train_fraction: float


@dataclass
class GoConfig:
    """Positions of Go games: what a data config with `features` describes."""

    name: str
    root: str
    channels: int
    size: int
    features: int
    capture_encoding: str
    eye: str
    symmetric: bool
    batch_size: int
    num_workers: int | None
    positions_per_epoch: int | None
    val_fraction: float
    test_fraction: float
    split_seed: int
    min_rank: str | None
    max_handicap: int | None
    first_date: str | int | None
    last_date: str | int | None
    results: list[str] | None
    max_games: int | None


def is_go(data: Mapping[str, Any]) -> bool:
    """Whether a config of the group `data` is of Go positions, not of pictures."""
    return "features" in data


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
STORED = {"seed": int, "model": ModelConfig, "data": DataConfig, "augmentation": Entries, "paths": PathsConfig}
"""What verbs read of a run's config."""
STORED_NEEDED = (
    *("data.name", "data.dataset", "data.size", "data.features", "data.capture_encoding", "data.eye"),
    *("model.name", "paths.data_dir", "paths.cache_dir"),
)
"""Keys without which there is nothing to work with; others may be newer than the run."""
