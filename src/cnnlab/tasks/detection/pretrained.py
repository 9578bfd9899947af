"""Detectors with pretrained weights: to predict with, or to be scored on all images of a data set."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnlab.config import Config, build
from cnnlab.data.datamodule import check_loading
from cnnlab.errors import DataError, InputError, listed
from cnnlab.models.building import build_network, weights_preprocessing
from cnnlab.models.inputs import InputSpec, network_node, require_statistics, statistics_by_hand
from cnnlab.models.weights import fitting, summary
from cnnlab.tasks.base import Pretrained
from cnnlab.tasks.detection.annotated import AnnotatedSplits, joined
from cnnlab.tasks.detection.data import DetectionDataModule, read_parts
from cnnlab.tasks.detection.detector_weights import DetectorWeights, find_detector_weights, holds_detector
from cnnlab.tasks.detection.module import DetectionModule

log = logging.getLogger(__name__)
COMPUTED = ("anchor_generator.", "num_batches_tracked")
"""Parts of the names of what a detector computes itself, which weights need not bring along."""


def pretrained_detector(cfg: Config, spec: InputSpec, trusted: Sequence[str]) -> Pretrained:
    """Return the detector of the config group `model` with its weights, and all images of the config group `data`."""
    model, options, preprocessing = cfg["model"], cfg["data"], cfg["preprocessing"]
    if not model["weights"]:
        raise InputError(
            "cnnlab evaluate model=... needs model.weights=...: without weights the detector is untrained."
        )
    check_loading(options["batch_size"], options["num_workers"])
    require_statistics(preprocessing, model["in_channels"])
    weights = find_detector_weights(model, Path(cfg["paths"]["data_dir"]))
    images = joined(AnnotatedSplits(**read_parts(cfg, spec, trusted, {})))
    if not any(len(images.truth(index).labels) for index in range(len(images))):
        raise DataError(
            f"None of the {len(images)} images has an object, so that average precision is undefined. Check the "
            "annotations."
        )
    constructor = build(network_node(model, spec), trusted)
    network = pretrained_network(constructor, weights, images.classes)
    if weights.labels is not None and weights.classes is not None:
        network.head.labels = matched(weights, images.classes)  # type: ignore[union-attr]
    statistics = None if statistics_by_hand(preprocessing) else weights
    described = {"input": {"image_size": spec.image_size, "resize_size": spec.resize_size}}
    module = DetectionModule(weights_preprocessing(statistics, spec), network, images.classes, described)
    data = DetectionDataModule(
        AnnotatedSplits(images),
        split_hash="",
        skipped={},
        augmentations={},
        channels=spec.channels,
        short=spec.image_size,
        long=spec.resize_size,
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=0,
        with_masks=False,
    )
    return Pretrained(module.eval(), data, images)


def pretrained_network(
    constructor: Callable[..., Any], weights: DetectorWeights, classes: Sequence[str] | None = None
) -> nn.Module:
    """Return a detector in eval mode that detects the classes of its weights.

    classes: those that it is to have if its weights do not name theirs. Raises InputError if the weights are those of a
    backbone, or their classes are unknown; DataError if they leave a layer at random numbers.
    """
    if not holds_detector(weights.state):
        raise InputError(
            f"{weights.source} holds the weights of a backbone only: a detector on it finds nothing yet. Train one, "
            "then use run=FOLDER; or use model.weights=COCO_V1 with model=mask_rcnn, faster_rcnn, retinanet or fcos."
        )
    if weights.labels is None:
        if classes is None:
            raise InputError(f"{weights.source} does not name its classes. Use run=FOLDER, or model.weights=COCO_V1.")
        log.warning(
            "%s does not name its classes: they are taken to be those of the data in their order: %s.",
            *(weights.source, listed(classes)),
        )
    outputs = len(weights.labels if weights.labels is not None else classes or [])
    network = build_network(constructor, num_classes=outputs, weights=weights, seed=0).eval()
    own = network.state_dict()
    fits = fitting(weights, own)
    if left := [name for name in own if name not in fits and not any(part in name for part in COMPUTED)]:
        raise DataError(
            f"{weights.source} has no weights for these layers of a detector of {outputs} classes: {summary(left)}. "
            "Choose the model, the backbone and the arguments (model.network.*) that they were trained with."
        )
    if weights.labels is not None:
        network.head.labels = torch.tensor(weights.labels)  # type: ignore[union-attr]
    return network


def matched(weights: DetectorWeights, classes: Sequence[str]) -> torch.Tensor:
    """Return for each output of the weights the number of its class in the data, by name, or -1, int64.

    Raises InputError if a class of the data is none of the weights'.
    """
    assert weights.classes is not None
    assert weights.labels is not None
    if unknown := [name for name in classes if name not in weights.classes]:
        raise InputError(
            f"The weights do not know these classes of the data: {listed(unknown)}. "
            f"They know {listed(weights.classes)}. Rename the classes of the data."
        )
    if others := [name for name in weights.classes if name not in classes]:
        log.info("Detections of classes that the data do not have are left out: %s.", listed(others))
    names = [weights.classes[label] if label >= 0 else None for label in weights.labels]
    return torch.tensor([classes.index(name) if name in classes else -1 for name in names])
