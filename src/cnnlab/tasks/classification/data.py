"""The data of classification: images with one class each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnlab.config import Config, build
from cnnlab.config.schema import Target
from cnnlab.data.image_datamodule import ImageDataModule, build_data
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec

OF_TABLES = ("file", "image_column", "label_column", "split_column", "bad_rows")
"""Keys of the data group that only a table has."""
NOT_ARGUMENTS = ("name", "root", "channels", "dataset", "record_cache", *OF_TABLES)
"""Keys of the data group that are not arguments of build_data."""


@dataclass
class ClassificationData:
    """The config group `data` for images with one class each."""

    name: str
    dataset: Target
    root: str | None
    channels: int
    batch_size: int
    num_workers: int | None
    record_cache: str
    memory_gib: float
    val_fraction: float
    test_fraction: float
    split_seed: int
    bad_images: str
    classes: Any
    images_per_class: int | None
    train_fraction: float
    sampler: str | None = None
    folds: int | None = None
    fold: int | None = None
    groups: str | None = None
    file: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    bad_rows: str | None = None


ClassificationData.NEEDED = ("name", "dataset")  # type: ignore[attr-defined]


def build_images(
    cfg: Config,
    spec: InputSpec,
    augmentations: Mapping[str, nn.Module],
    trusted: Sequence[str],
    stratified: bool = True,
) -> ImageDataModule:
    """Return the images of the config group `data`, at the size that `spec` asks for."""
    if others := [f"data.{key}" for key in OF_TABLES if key in cfg["data"] and key not in cfg["data"]["dataset"]]:
        raise InputError(f"{', '.join(others)}: data={cfg['data']['name']} does not read a table. Use data=table.")
    options = {key: value for key, value in cfg["data"].items() if key not in NOT_ARGUMENTS}
    return build_data(
        build(cfg["data"]["dataset"], trusted),
        augmentations=list(augmentations.values()),
        cache_dir=Path(cfg["paths"]["cache_dir"]),
        seed=cfg["seed"],
        channels=spec.channels,
        **spec.resizing,
        stratified=stratified,
        ranges=spec.ranges,
        **options,
    )
