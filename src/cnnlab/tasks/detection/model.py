"""The config group `model` of a detector."""

from dataclasses import dataclass

from cnnlab.config.schema import ModelConfig


@dataclass
class DetectionModel(ModelConfig):
    """A detector and its backbone.

    backbone: a classification network of torchvision, or timm:NAME. anchors: default or auto; absent if the detector
    has none to choose.
    """

    backbone: str = ""
    anchors: str = "default"
