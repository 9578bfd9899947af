"""Prepare pretrained weights to be scored on all images of a data set."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.config import Config, build
from cnnlab.data.datamodule import ImageDataModule, check_loading
from cnnlab.data.images import LabelledImages, Splits, joined
from cnnlab.data.scanning import scan
from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.data.splitting import select
from cnnlab.errors import InputError
from cnnlab.models.building import input_spec, pretrained_network, weights_statistics
from cnnlab.models.preprocessing import fit
from cnnlab.models.weights import find_weights, outputs_of
from cnnlab.tasks.base import Pretrained
from cnnlab.tasks.classification.module import Classifier


def pretrained_classifier(cfg: Config, trusted: Sequence[str]) -> Pretrained:
    """Return the network of the config group `model` with its weights, and all images of the config group `data`."""
    model, options = cfg["model"], cfg["data"]
    if not model["weights"]:
        raise InputError("cnnlab evaluate model=... needs model.weights=...: without weights the network is untrained.")
    check_loading(options["batch_size"], options["num_workers"])
    weights = find_weights(model["weights"], model["name"], Path(cfg["paths"]["data_dir"]))
    images, classes = matched(every_image(options, Path(cfg["paths"]["cache_dir"]), trusted), outputs_of(weights))
    spec = input_spec(model)
    module = Classifier(
        fit("weights", [], **weights_statistics(weights, spec)),
        pretrained_network(build({**model["network"], "_partial_": True}, trusted), weights),
        classes,
        {},
    )
    data = ImageDataModule(
        Splits(images),
        skipped={},
        augmentations=(),
        channels=spec.channels,
        image_size=spec.image_size,
        resize_size=spec.resize_size,
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=0,
    )
    return Pretrained(module.eval(), data, images)


def every_image(options: dict[str, Any], cache_dir: Path, trusted: Sequence[str]) -> LabelledImages:
    """Return the selected images of a data set, from all parts that it publishes."""
    published: Splits = build(options["dataset"], trusted)()
    images = functools.reduce(joined, [part for part in (published.train, published.val, published.test) if part])
    chosen = select(images, options["classes"], options["images_per_class"], options["split_seed"])
    return scan(chosen, options["bad_images"], cache_dir).images


def matched(images: LabelledImages, outputs: int) -> tuple[LabelledImages, list[str]]:
    """Return the images with the network's output indices as labels, and the names of all outputs.

    Classes named by WordNet id are matched to the 1,000 outputs of ImageNet. Raises InputError if the number of classes
    does not match otherwise.
    """
    wnids = list(imagenet_classes())
    named = images.wnids or (images.classes if set(images.classes) <= set(wnids) else None)
    if outputs == len(wnids) and named:
        index = np.array([wnids.index(wnid) for wnid in named])
        return replace(images, labels=index[images.labels]), list(imagenet_classes().values())  # type: ignore[type-var]
    if outputs == len(images.classes):
        return images, images.classes
    raise InputError(
        f"The weights have {outputs} classes, the data {len(images.classes)}. To score ImageNet weights on a subset, "
        "name the class folders by WordNet id."
    )
