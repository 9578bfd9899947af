"""The config group `model` of a detector."""

from dataclasses import dataclass
from typing import Any

from cnnlab.config.schema import ModelConfig


@dataclass
class DetectionModel(ModelConfig):
    """A detector and its backbone.

    backbone: a classification network of torchvision, or timm:NAME. anchors: default or auto; absent if the detector
    has none to choose. published: name of torchvision's weights of the whole detector -> the settings that they need.
    """

    backbone: str = ""
    anchors: str = "default"
    published: dict[str, Any] | None = None
