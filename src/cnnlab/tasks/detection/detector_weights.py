"""Weights of a detector: of its backbone alone, or of torchvision's detectors; names are made those of `Detector`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from cnnlab.errors import InputError
from cnnlab.models.published import Origin
from cnnlab.models.weights import Weights, find_weights, published_name, published_weights
from cnnlab.tasks.detection.backbones import TIMM

COCO = "COCO_V1"
PUBLISHED = {
    "mask_rcnn": "maskrcnn_resnet50_fpn",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "fcos": "fcos_resnet50_fpn",
}
"""Our detector -> the one of torchvision with the same layers, whose COCO weights it can take."""
TWO_STAGES = ("mask_rcnn", "faster_rcnn")
WITHOUT_EPS = (*TWO_STAGES, "retinanet")
"""Detectors whose COCO weights torchvision evaluates with batch normalization that adds nothing to the variance."""
EPS = 1e-5
"""What batch normalization adds to the variance in the backbones here."""
UNNAMED = ("__background__", "N/A")
"""What torchvision calls outputs for which COCO has no class."""
HEAD = "head.model"
"""The layers of a `Detector` that know its classes."""
TORCHVISION = {
    "backbone.body.": "features.",
    "backbone.fpn.": "head.pyramid.",
    "rpn.": "head.model.rpn.",
    "roi_heads.": "head.model.roi_heads.",
    "head.": "head.model.head.",
}
"""Beginnings of names in torchvision's detectors on a feature pyramid -> ours."""


@dataclass(frozen=True)
class DetectorWeights(Weights):
    """Weights of a backbone, or of a whole detector; `classes` are those of a whole one, None if they are unknown."""

    heads: Sequence[str] = (HEAD,)
    labels: Sequence[int] | None = None
    """For each output of the detector the number of its class, or -1 for one that stands for none."""


def find_detector_weights(model: Mapping[str, Any], data_dir: Path) -> DetectorWeights:
    """Return the weights that model.weights names, for the backbone model.backbone or for the whole detector.

    A file or run folder may hold a classifier, the bare features of one, or a detector of ours or of torchvision.
    Raises InputError or DataError as `find_weights` does, and for COCO weights that do not fit the detector.
    """
    if model["weights"] == COCO:
        return coco_weights(model, data_dir)
    found = find_weights(backbone_model(model), data_dir)
    state, name = renamed(found.state), PUBLISHED.get(model["name"])
    if name and Path(found.source).name == published_name(name, COCO):
        return of_coco(state, found.source, model["name"])
    if not holds_detector(state) or found.classes is None:
        return DetectorWeights(state, found.source, found.preprocessing)
    return DetectorWeights(state, found.source, found.preprocessing, found.classes, labels=range(len(found.classes)))


def coco_weights(model: Mapping[str, Any], data_dir: Path) -> DetectorWeights:
    """Return torchvision's COCO weights, downloaded or from `data_dir/weights`."""
    name, backbone = model["name"], model["backbone"]
    if name not in PUBLISHED:
        raise InputError(
            f"model.weights={COCO}: torchvision's COCO weights of {name} belong to a backbone that was changed for "
            f"them, and fit none here. Use model={', '.join(PUBLISHED)}, or weights of the backbone."
        )
    needed = model["published"][COCO]["backbone"]
    if backbone != needed:
        raise InputError(
            f"model.weights={COCO} were trained with model.backbone={needed}, not {backbone}. Leave model.backbone out."
        )
    found = published_weights(COCO, Origin("torchvision", PUBLISHED[name], builds=True), data_dir)
    return of_coco(renamed(found.state), found.source, name)


def of_coco(state: Mapping[str, Tensor], source: str, name: str) -> DetectorWeights:
    """Return torchvision's COCO weights of the detector `name` with the names of their classes.

    The backbone's variances are reduced by what batch normalization adds, where torchvision lets it add nothing.
    """
    shift = EPS if name in WITHOUT_EPS else 0.0
    moved = {key: value - shift if key.endswith("running_var") else value for key, value in state.items()}
    categories = torchvision.models.get_model_weights(PUBLISHED[name])[COCO].meta["categories"]
    outputs = categories[1:] if name in TWO_STAGES else categories  # the others have an output for the background
    classes = [each for each in outputs if each not in UNNAMED]
    labels = [classes.index(each) if each in classes else -1 for each in outputs]
    return DetectorWeights(moved, source, classes=classes, labels=labels)


def holds_detector(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights, under the names of a `Detector`, are more than those of a backbone."""
    return any(name.startswith(f"{HEAD}.") for name in state)


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
