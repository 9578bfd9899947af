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
    backbone = str(model["backbone"])
    found = find_weights(model["weights"], backbone.removeprefix(TIMM), data_dir)
    return replace(found, state=renamed(found.state))


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
