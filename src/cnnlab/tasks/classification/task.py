"""Classification as a `Task`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cnnlab import explain
from cnnlab.config import Config
from cnnlab.data.datamodule import DataModule
from cnnlab.data.image_datamodule import ImageDataModule
from cnnlab.data.transforms import MIXING, batch_transforms
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec
from cnnlab.tasks.base import Pretrained, Task
from cnnlab.tasks.classification.data import ClassificationData, build_images
from cnnlab.tasks.classification.imbalance import class_weights, warn_of_smoothing
from cnnlab.tasks.classification.module import Classifier
from cnnlab.tasks.classification.predictions import Ranking
from cnnlab.tasks.classification.pretrained import pretrained_classifier
from cnnlab.tasks.classification.report import Scored, score
from cnnlab.training.focal_loss import FocalLoss
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass
class PredictOptions:
    """Keys of `cnnlab predict` for classification.

    top_k: number of most probable classes in the table.
    """

    top_k: int = 3


class Classification(Task):
    """The task of assigning each image to one of several classes."""

    data_schema: ClassVar[type] = ClassificationData
    module_class = Classifier
    pictures: ClassVar[Mapping[str, str]] = explain.OF_IMAGES
    capabilities = frozenset({"engine", "feature_cache", "records"})
    predict_options = PredictOptions

    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> ImageDataModule:
        return build_images(cfg, spec, augmentations, trusted)

    def build_batch_transforms(self, augmentations: Mapping[str, nn.Module], num_classes: int) -> list[nn.Module]:
        return batch_transforms(augmentations.values(), num_classes)

    def class_weights(self, given: Any, data: DataModule) -> list[float]:
        if given == "balanced" and getattr(data, "sampler", None) == "balanced":
            log.info(
                "loss.class_weights=balanced and data.sampler=balanced both make up for rare classes: together they "
                "let these count more than the others."
            )
        return class_weights(given, data.parts.train.labels, data.classes)

    def check_recipe(self, recipe: Recipe, augmentations: Mapping[str, nn.Module]) -> None:
        """Raise InputError if the loss does not accept class weights, or the soft targets of mixing and smoothing."""
        soft = [f"augmentation={name}" for name, entry in augmentations.items() if isinstance(entry, MIXING)]
        soft += [
            f"regularization={name}"
            for name, entry in recipe.regularizers.items()
            if getattr(entry, "label_smoothing", 0.0)
        ]
        loss = recipe.loss()
        if soft and not isinstance(loss, nn.CrossEntropyLoss | FocalLoss):
            raise InputError(
                f"{' and '.join(soft)} {'make' if len(soft) > 1 else 'makes'} soft targets, which "
                f"{type(loss).__name__} does not accept. "
                "Use loss=cross_entropy."
            )
        try:
            recipe.train_loss()
        except TypeError as error:
            raise InputError(
                f"loss.class_weights is not possible: {type(loss).__name__} takes no weights. Use loss=cross_entropy, "
                "focal, nll or multi_margin."
            ) from error
        if recipe.class_weights and recipe.label_smoothing:
            warn_of_smoothing(recipe.class_weights, recipe.label_smoothing)

    def evaluate(self, module: TaskModule, data: DataModule, part: Any, options: Any) -> Scored:
        return score(module, data, part)

    @torch.inference_mode()
    def predict(self, module: TaskModule, inputs: Tensor, options: Any) -> list[Ranking]:
        if options.top_k < 1:
            raise InputError(f"top_k={options.top_k}: at least 1 is needed.")
        values, indices = torch.topk(module.predict(inputs).cpu(), min(options.top_k, len(module.classes)))
        return [
            Ranking([(module.classes[i], float(v)) for v, i in zip(value, index.tolist(), strict=True)])
            for value, index in zip(values, indices, strict=True)
        ]

    def pretrained(self, cfg: Config, trusted: Sequence[str]) -> Pretrained:
        return pretrained_classifier(cfg, trusted)
