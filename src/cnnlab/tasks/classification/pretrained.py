"""Prepare pretrained weights to be scored on all images of a data set."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.config import Config, build
from cnnlab.data.datamodule import check_loading
from cnnlab.data.image_datamodule import ImageDataModule
from cnnlab.data.images import LabelledImages, Splits, joined
from cnnlab.data.levels import Ranges
from cnnlab.data.scanning import scan
from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.data.splitting import select
from cnnlab.errors import InputError, listed
from cnnlab.models.building import pretrained_network, weights_preprocessing
from cnnlab.models.inputs import input_spec, network_node, require_statistics, statistics_by_hand
from cnnlab.models.weights import Weights, find_weights, outputs_of
from cnnlab.tasks.base import Pretrained
from cnnlab.tasks.classification.module import Classifier

log = logging.getLogger(__name__)


def pretrained_classifier(cfg: Config, trusted: Sequence[str]) -> Pretrained:
    """Return the network of the config group `model` with its weights, and all images of the config group `data`."""
    model, options, preprocessing = cfg["model"], cfg["data"], cfg["preprocessing"]
    if not model["weights"]:
        raise InputError("cnnlab evaluate model=... needs model.weights=...: without weights the network is untrained.")
    check_loading(options["batch_size"], options["num_workers"])
    require_statistics(preprocessing, model["in_channels"])
    spec = input_spec(model, preprocessing)
    weights = find_weights(model, Path(cfg["paths"]["data_dir"]))
    images, classes = matched(every_image(options, Path(cfg["paths"]["cache_dir"]), trusted, spec.ranges), weights)
    module = Classifier(
        weights_preprocessing(None if statistics_by_hand(preprocessing) else weights, spec),
        pretrained_network(build(network_node(model, spec), trusted), weights),
        classes,
        {},
    )
    data = ImageDataModule(
        Splits(images),
        skipped={},
        augmentations=(),
        channels=spec.channels,
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=0,
        **spec.resizing,
    )
    return Pretrained(module.eval(), data, images)


def every_image(
    options: dict[str, Any], cache_dir: Path, trusted: Sequence[str], ranges: Ranges | None = None
) -> LabelledImages:
    """Return the selected images of a data set, from all parts that it publishes.

    ranges: of samples that are not unsigned 8-bit numbers, if the run whose weights are scored has some.
    """
    published: Splits = build(options["dataset"], trusted)()
    images = functools.reduce(joined, [part for part in (published.train, published.val, published.test) if part])
    chosen = select(images, options["classes"], options["images_per_class"], options["split_seed"])
    return scan(chosen, options["bad_images"], cache_dir, ranges).images


def matched(images: LabelledImages, weights: Weights) -> tuple[LabelledImages, list[str]]:
    """Return the images with the network's output indices as labels, and the names of all outputs.

    Classes are matched by WordNet id or by name; where the weights do not name their outputs, by their order, and a
    warning says so. Raises InputError that lists both if some class of the data is none of the network's.
    """
    outputs = outputs_of(weights)
    imagenet = imagenet_classes()
    published = weights.preprocessing is None  # a run names its own classes
    wnids = weights.wnids or (list(imagenet) if published and outputs == len(imagenet) else [])
    if images.classes == weights.classes:
        return images, images.classes
    for known in (wnids, weights.classes or []):
        index = {name: number for number, name in enumerate(known)}
        for own in (images.wnids or [], images.classes):
            if own and set(own) <= set(index):
                labels = np.array([index[name] for name in own])[images.labels]
                return replace(images, labels=labels), output_names(known, imagenet)  # type: ignore[type-var]
    if weights.classes is None and not wnids and outputs == len(images.classes):
        log.warning(
            "%s does not name its classes: its %d outputs are taken to be the classes of the data in their order: %s.",
            *(weights.source, outputs, listed(images.classes)),
        )
        return images, images.classes
    raise InputError(difference(images, weights, outputs))


def output_names(known: Sequence[str], imagenet: Mapping[str, str]) -> list[str]:
    """Return names of outputs, in words if they are WordNet ids of ImageNet's 1,000 classes."""
    return [imagenet.get(name, name) for name in known]


def difference(images: LabelledImages, weights: Weights, outputs: int) -> str:
    """Return what is wrong with the classes of the data, and what to do."""
    if weights.classes is None and not weights.wnids:
        return (
            f"The weights have {outputs} classes, the data {len(images.classes)}. To score ImageNet weights on a "
            "subset, name the class folders by WordNet id."
        )
    known = weights.classes or weights.wnids or []
    unknown = [name for name in images.classes if name not in known]
    return (
        f"The weights do not know these classes of the data: {listed(unknown)}. They know {listed(known)}; the data "
        f"have {listed(images.classes)}. Rename the class folders, or choose some: data.classes=[NAME,...]."
    )
