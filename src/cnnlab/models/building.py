"""Build a network from its config: modify it, load weights, and initialize the parameters without weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.initialization import initialize
from cnnlab.models.stages import head_name, with_features_and_classifier
from cnnlab.models.weights import (
    Weights,
    fitting,
    has_classifier,
    load_weights,
    outputs_of,
    torchvision_weights,
)
from cnnlab.seeds import derived_rng

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class InputSpec:
    """Input of a network: `channels` x `image_size` x `image_size`, cropped after resizing to `resize_size`.

    resize_size: pixels of the short side. mean, std: statistics for preprocessing=weights, one of each per channel.
    """

    channels: int
    image_size: int
    resize_size: int
    mean: list[float]
    std: list[float]
    ranges: Mapping[str, Sequence[float]] | None = None
    """Kind of values -> the values of black and white (data.levels); None if they are to be found in the data."""


def input_spec(model: Mapping[str, Any]) -> InputSpec:
    """Return the input that the config group `model` describes.

    Mean, std and sizes that are null come from its torchvision weights, or else are those of ImageNet.
    """
    name, weights = model["name"], model["weights"]
    own: Any = None
    if weights is not None and name in torchvision.models.list_models():
        enum = torchvision.models.get_model_weights(name)
        own = (torchvision_weights(name, weights) if weights in enum.__members__ else enum["DEFAULT"]).transforms()
    size = model["image_size"] or (own.crop_size[0] if own else 224)
    resize = model["resize_size"] or (own.resize_size[0] if own else round(size / 0.875))
    return InputSpec(
        channels=model["in_channels"],
        image_size=size,
        resize_size=max(resize, size),
        mean=list(own.mean) if own else IMAGENET_MEAN,
        std=list(own.std) if own else IMAGENET_STD,
    )


def weights_statistics(weights: Weights | None, spec: InputSpec) -> dict[str, list[float]]:
    """Return the mean and std of each channel with which pretrained weights were trained.

    Raises InputError if the network takes another number of channels.
    """
    mean, std = (weights and weights.mean) or spec.mean, (weights and weights.std) or spec.std
    if len(mean) != spec.channels:
        raise InputError(
            f"preprocessing=weights has statistics of {len(mean)} channels, but the network takes {spec.channels}. "
            "Use preprocessing=standardize."
        )
    return {"mean": mean, "std": std}


def build_network(
    network: Callable[..., nn.Module],
    *,
    num_classes: int,
    weights: Weights | None,
    surgery: Sequence[Callable[[nn.Module], None]] = (),
    init: Callable[..., None] = initialize,
    seed: int,
) -> nn.Module:
    """Build a network with `features` and `classifier` that is ready to train.

    network: called with num_classes. surgery: functions that modify the network in place before weights are loaded.
    init: called with the network and, as `only`, the names of the parameters that no weights filled.
    Raises InputError if the network cannot have that many classes, or surgery finds no suitable layer.
    """
    with derived_rng(seed, "init"):
        try:
            built = with_features_and_classifier(network(num_classes=num_classes))
        except ValueError as error:
            raise InputError(f"The model cannot be built for {num_classes} classes: {error}") from error
        before = built.state_dict(keep_vars=True)
        for operation in surgery:
            operation(built)
        filled: set[int] = set()
        if weights:
            # If surgery inserted batch normalization, weights of vgg16 match the names before it, of vgg16_bn after it.
            own = max((before, built.state_dict(keep_vars=True)), key=lambda own: len(fitting(weights, own)))
            filled = {id(own[name]) for name in load_weights(built, weights, own)}
        new = {name for name, parameter in built.named_parameters() if id(parameter) not in filled}
        init(built, only=new)
    return built


def meta_network(network: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    """Return the network on torch's meta device, without memory for its parameters, to check settings against it."""
    try:
        with torch.device("meta"):
            return build_network(network, num_classes=num_classes, weights=None, seed=0)
    except RuntimeError:  # the constructor reads the values of parameters
        return build_network(network, num_classes=num_classes, weights=None, seed=0)


def pretrained_network(network: Callable[..., nn.Module], weights: Weights) -> nn.Module:
    """Return the network in eval mode with the weights, and as many outputs as they have.

    If the weights have no head, the network outputs its flattened features.
    """
    known = has_classifier(weights)
    built = build_network(network, num_classes=outputs_of(weights) if known else 1, weights=weights, seed=0)
    if known:
        return built.eval()
    head = head_name(built)
    setattr(built, head, nn.Flatten())
    if head != "classifier":
        object.__setattr__(built, "classifier", built.get_submodule(head))
    return built.eval()
