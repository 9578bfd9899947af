"""Detection as a `Task`: boxes and outlines of the objects in images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab import explain
from cnnlab.config import Config
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec, input_spec
from cnnlab.models.weights import Weights
from cnnlab.tasks.base import Pretrained, Task
from cnnlab.tasks.detection.anchors import fit_anchors
from cnnlab.tasks.detection.augmenting import Fit
from cnnlab.tasks.detection.data import DetectionData, DetectionDataModule, build_detection_data
from cnnlab.tasks.detection.detector_weights import DetectorWeights, backbone_model, find_detector_weights
from cnnlab.tasks.detection.evaluation import DetectionScores, EvaluateOptions, score
from cnnlab.tasks.detection.losses import WeightedSum
from cnnlab.tasks.detection.model import DetectionModel
from cnnlab.tasks.detection.module import DetectionModule
from cnnlab.tasks.detection.prediction import PredictOptions
from cnnlab.tasks.detection.predictions import Objects, write_predictions
from cnnlab.tasks.detection.pretrained import pretrained_detector, pretrained_network
from cnnlab.tasks.detection.tiles import Prepared, prepare
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers import acting

LONG_SIDE = 5 / 3
"""Largest long side of images, as a multiple of the short side, if model.resize_size is null (COCO: 1333 to 800)."""

PICTURES = {
    name: f"cnnlab.tasks.detection.explain.{name}"
    for name in ("detections", "anchors", "proposals", "features", "attribution", "augmentation")
}
"""Pictures of a detector -> the module that draws them."""


class Detection(Task):
    """The task of finding objects: their classes, boxes and, with model=mask_rcnn, outlines."""

    data_schema = DetectionData
    model_schema = DetectionModel
    module_class = DetectionModule
    pictures: ClassVar[Mapping[str, str]] = {**explain.OF_NETWORKS, **PICTURES}
    needs_head = True
    max_pixels = 178_956_970  # beyond it, Pillow opens nothing
    evaluate_options = EvaluateOptions
    predict_options = PredictOptions

    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> DetectionDataModule:
        require_detector(cfg["model"])
        if not cfg["model"]["weights"] and cfg["model"]["network"].get("norm") == "frozen":
            raise InputError(
                "model.network.norm=frozen keeps the statistics that weights bring along, and model.weights=null "
                "brings none. Use model.network.norm=batch."
            )
        return build_detection_data(cfg, spec, augmentations, trusted)

    def fit_network(self, network: nn.Module, data: Any) -> None:
        fit_anchors(network, data.train_sides())

    def build_batch_transforms(self, augmentations: Mapping[str, nn.Module], num_classes: int) -> list[nn.Module]:
        return [
            step
            for step in augmentations.values()
            if isinstance(step, BATCH_TRANSFORMS) and not isinstance(step, MIXING)
        ]

    def input_spec(self, model: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> InputSpec:
        spec = input_spec(backbone_model(model), preprocessing)  # mean and std are those of the backbone's weights
        long = model["resize_size"] or round(LONG_SIDE * spec.image_size)
        return replace(
            spec, resize_size=max(long, spec.image_size), interpolation="bilinear", crop_mode="center"
        )  # as `Fit` resizes

    def find_weights(self, model: Mapping[str, Any], data_dir: Path) -> Weights:
        return find_detector_weights(model, data_dir)

    def pretrained_network(self, constructor: Callable[..., nn.Module], weights: Weights) -> nn.Module:
        assert isinstance(weights, DetectorWeights)
        return pretrained_network(constructor, weights)

    def pretrained(self, cfg: Config, trusted: Sequence[str]) -> Pretrained:
        require_detector(cfg["model"])
        return pretrained_detector(cfg, self.input_spec(cfg["model"], cfg["preprocessing"]), trusted)

    def check_recipe(self, recipe: Recipe, augmentations: Mapping[str, nn.Module]) -> None:
        """Raise InputError for regularization that changes the targets of a classifier."""
        for name, each in recipe.regularizers.items():
            if acting([each], "on_batch") or bool(getattr(each, "label_smoothing", False)):
                raise InputError(f"regularization=[{name}] changes the class of an image, and detection has boxes.")
        if not isinstance(recipe.loss(), WeightedSum):
            raise InputError(f"{type(recipe.loss()).__name__} cannot be the loss of a detector. Use loss=detection.")

    def evaluate(self, module: Any, data: Any, part: Any, options: Any) -> DetectionScores:
        return score(module, data, part, options)

    def prepare(self, pixels: Tensor, spec: InputSpec, options: Any = None) -> Prepared:
        chosen = options or PredictOptions()
        return prepare(pixels, Fit(spec.image_size, spec.resize_size), chosen.tile, chosen.overlap)

    def stack(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        return list(prepared)

    @torch.inference_mode()
    def predict(self, module: Any, inputs: Any, options: Any) -> list[Objects]:
        found = module.predict(inputs, options.min_score)
        return [Objects(each, picture.size, module.classes) for each, picture in zip(found, inputs, strict=True)]

    def sheet_picture(self, prediction: Any, image: Image.Image) -> Image.Image:
        return prediction.draw_small(image)

    def write_predictions(self, folder: Path, predictions: Mapping[str, Any]) -> None:
        write_predictions(folder, predictions)


def require_detector(model: Mapping[str, Any]) -> None:
    """Raise InputError if the config group `model` describes a classifier."""
    if "backbone" not in model:
        name = model["name"]
        raise InputError(
            f"model={name} is not a detector. Use model=faster_rcnn, mask_rcnn, retinanet, fcos, ssd or ssdlite, "
            f"with model.backbone={name} if it is a network of torchvision."
        )
