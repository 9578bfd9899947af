"""What torchvision and timm publish about a network: the input its weights were trained on, and its arguments."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from torchvision.models import WeightsEnum

from cnnlab.errors import InputError

WITH_AUXILIARY_LOSSES = ("googlenet", "inception_v3")
"""Networks of torchvision that it builds differently with pretrained weights."""


@dataclass(frozen=True)
class Origin:
    """The library that a network is from, "torchvision" or "timm", and the name that it has there."""

    library: str
    name: str
    builds: bool
    """Whether the library also builds it; False for a network of another package that takes its weights."""


def origin_of(model: Mapping[str, Any]) -> Origin | None:
    """Return where the network of the config group `model` is from; None if no library publishes anything about it.

    A network of another package counts as torchvision's if it has weights and the name of one (cnnlab's vgg16).
    """
    node = model["network"]
    target = node["_target_"]
    if target == "timm.create_model":
        return Origin("timm", current_name(node["model_name"]), builds=True)
    if target.startswith("torchvision.models."):
        name = node["name"] if target.endswith(".get_model") else target.rpartition(".")[2]
        return Origin("torchvision", name.lower(), builds=True) if name.lower() in classification_names() else None
    known = model["weights"] and model["name"] in classification_names()
    return Origin("torchvision", model["name"], builds=False) if known else None


@functools.cache
def classification_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    return torchvision.models.list_models(module=torchvision.models)


@functools.cache
def current_name(name: str) -> str:
    """Return the name that timm gives today to a network that it once called `name`."""
    import timm

    return timm.models.get_deprecated_models().get(name) or name


def published_input(origin: Origin, weights: str | None, image_size: int | None) -> dict[str, Any]:
    """Return image_size, resize_size, mean, std, interpolation and crop_mode, by which the weights are evaluated.

    image_size: a size other than the published one; resize_size then grows or shrinks with it.
    Raises InputError if the published size is not square and no other is given.
    """
    if origin.library == "timm":
        return timm_input(origin.name, image_size)
    own = torchvision_entry(origin.name, weights).transforms()
    size, resize = own.crop_size[0], own.resize_size[0]
    return {
        "image_size": image_size or size,
        "resize_size": resize if image_size in (None, size) else round(image_size * resize / size),
        "mean": list(own.mean),
        "std": list(own.std),
        "interpolation": own.interpolation.value,
        "crop_mode": "center",
    }


def torchvision_entry(name: str, weights: str | None) -> WeightsEnum:
    """Return torchvision's entry for `weights`, a name or a file.

    For a file of another name than the published ones, and without weights, it is the entry of the smallest input.
    """
    entries = torchvision.models.get_model_weights(name)
    if weights in entries.__members__:
        return entries[weights]
    file = Path(weights or "").name
    published = [entry for entry in entries if entry.url.rsplit("/", 1)[-1] == file]
    return published[0] if published else min(entries, key=lambda entry: entry.transforms().crop_size[0])


def timm_cfg(name: str) -> Any:
    """Return timm's pretrained_cfg of a network, with or without the tag of its weights; else raise InputError."""
    import timm

    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"model.name={name}: {error}") from error
    return found or timm.models.PretrainedCfg()


def timm_input(name: str, image_size: int | None) -> dict[str, Any]:
    """Return what `published_input` does, as timm's own transform for evaluation has it."""
    from timm.data import resolve_data_config

    own = resolve_data_config(pretrained_cfg=timm_cfg(name).to_dict())
    height, width = own["input_size"][1:]
    if height != width and not image_size:
        raise InputError(
            f"model.name={name} takes images of {height} x {width} pixels; those of cnnlab are square. "
            "Set a size: model.image_size=N."
        )
    size = image_size or height
    return {
        "image_size": size,
        "resize_size": math.floor(size / own["crop_pct"]),
        "mean": list(own["mean"]),
        "std": list(own["std"]),
        "interpolation": own["interpolation"],
        "crop_mode": own["crop_mode"],
    }


def implied_arguments(origin: Origin, weights: str | None, image_size: int, channels: int) -> dict[str, Any]:
    """Return the arguments that the library's own builder passes to the network for these weights and this input."""
    if not origin.builds:
        return {}
    if origin.library == "timm":
        cfg = timm_cfg(origin.name)
        sizes = {"img_size": image_size} if cfg.fixed_input_size and (image_size,) * 2 != cfg.input_size[1:] else {}
        return {"model_name": origin.name} | sizes | ({"in_chans": channels} if channels != cfg.input_size[0] else {})
    if origin.name in WITH_AUXILIARY_LOSSES:
        if not weights:
            return {"init_weights": True}
        unused = {"aux_logits": False} if origin.name == "googlenet" else {}  # its published auxiliary heads
        return {"transform_input": True, "init_weights": False, **unused}
    if origin.name.startswith("vgg") and weights:
        return {"init_weights": False}
    if origin.name.startswith("vit_"):
        return {"image_size": image_size}
    return {"input_size": [image_size, image_size]} if origin.name.startswith("maxvit") else {}
