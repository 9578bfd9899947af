"""Regression as a `Task`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab import explain
from cnnlab.config import Config
from cnnlab.config.schema import Target
from cnnlab.data.datamodule import DataModule
from cnnlab.data.image_datamodule import ImageDataModule
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING
from cnnlab.drawing.sheets import captioned
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec
from cnnlab.tasks.base import Task
from cnnlab.tasks.classification.data import build_images
from cnnlab.tasks.regression.module import Regressor
from cnnlab.tasks.regression.report import ScoredValues, score
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe


@dataclass
class RegressionData:
    """The config group `data` for images with one value each."""

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
    train_fraction: float


RegressionData.NEEDED = ("name", "dataset")  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Value:
    """The value that a network predicts for an image."""

    value: float

    def row(self) -> dict[str, str]:
        return {"value": f"{self.value:.6g}"}

    @property
    def caption(self) -> str:
        return f"{self.value:.4g}"

    def draw(self, image: Image.Image) -> Image.Image:
        return captioned([image], [self.caption], side=320)


class Regression(Task):
    """The task of predicting one value for each image."""

    data_schema = RegressionData
    module_class = Regressor
    pictures: ClassVar[Mapping[str, str]] = {**explain.OF_NETWORKS, "features": explain.OF_IMAGES["features"]}
    capabilities = frozenset({"engine", "feature_cache", "records"})

    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> ImageDataModule:
        if mixing := [name for name, step in augmentations.items() if isinstance(step, MIXING)]:
            raise InputError(f"augmentation={mixing[0]} mixes classes, which regression does not have.")
        return build_images(cfg, spec, augmentations, trusted, stratified=False)

    def build_batch_transforms(self, augmentations: Mapping[str, nn.Module], num_classes: int) -> list[nn.Module]:
        return [step for step in augmentations.values() if isinstance(step, BATCH_TRANSFORMS)]

    def check_recipe(self, recipe: Recipe, augmentations: Mapping[str, nn.Module]) -> None:
        if recipe.label_smoothing:
            raise InputError("regularization=[label_smoothing] smooths classes, which regression does not have.")

    def evaluate(self, module: TaskModule, data: DataModule, part: Any, options: Any) -> ScoredValues:
        return score(module, data, part)

    @torch.inference_mode()
    def predict(self, module: TaskModule, inputs: Tensor, options: Any) -> list[Value]:
        return [Value(value) for value in module.predict(inputs).cpu().tolist()]
