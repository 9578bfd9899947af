"""Weights of a detector: of its backbone alone, or of torchvision's detectors; names are made those of `Detector`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnlab.models.weights import Weights, find_weights
from cnnlab.tasks.detection.backbones import TIMM

TORCHVISION = {
    "backbone.body.": "features.",
    "backbone.fpn.": "head.pyramid.",
    "rpn.": "head.model.rpn.",
    "roi_heads.": "head.model.roi_heads.",
    "head.": "head.model.head.",
}
"""Beginnings of names in torchvision's detectors on a feature pyramid -> ours."""


def find_detector_weights(model: Mapping[str, Any], data_dir: Path) -> Weights:
    """Return the weights that model.weights names, for the backbone model.backbone or for the whole detector.

    A file or run folder may hold a classifier, the bare features of one, or a detector of ours or of torchvision.
    """
    found = find_weights(backbone_model(model), data_dir)
    return replace(found, state=renamed(found.state), classes=None)  # those of a backbone are not the detector's


def backbone_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config group `model` of the detector's backbone as a classification network."""
    name = str(model.get("backbone", model["name"]))
    if name.startswith(TIMM):
        network = {"_target_": "timm.create_model", "model_name": name.removeprefix(TIMM)}
    else:
        network = {"_target_": "torchvision.models.get_model", "name": name}
    return {**model, "name": name.removeprefix(TIMM), "network": network}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names that they have in a `Detector`."""
    if any(name.startswith("backbone.body.") for name in state):
        return {_of_torchvision(name): value for name, value in state.items()}
    if any(name.startswith("features.") for name in state):
        return dict(state)
    return {f"features.{name}": value for name, value in state.items()}


def _of_torchvision(name: str) -> str:
    prefix = next((each for each in TORCHVISION if name.startswith(each)), "")
    return TORCHVISION.get(prefix, "") + name.removeprefix(prefix)
