"""From a model config to a network: built, given weights, changed by surgery, and initialised where it is new."""

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
    """What a network takes: `channels` x `image_size` x `image_size`, cut from a short side of `resize_size` pixels."""

    channels: int
    image_size: int
    resize_size: int
    mean: list[float]
    std: list[float]


def input_spec(model: Mapping[str, Any]) -> InputSpec:
    """Return the input of the config group `model`.

    Sizes that are null, mean and std are those of its torchvision weights, else ImageNet's.
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
    """Return mean and std of each channel as pretrained weights want them.

    Raises InputError if they are of another number of channels.
    """
    mean, std = (weights and weights.mean) or spec.mean, (weights and weights.std) or spec.std
    if len(mean) != spec.channels:
        raise InputError(
            f"preprocessing=weights has the statistics of {len(mean)} channels, the network takes {spec.channels}. "
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
    """A network with `features` and `classifier`, ready to train.

    network: called with num_classes. surgery: what changes it in place before it gets weights. init: called with the
        network and, as `only`, the names that no weights filled.
    Raises InputError if the network cannot have that many classes, or surgery finds no place.
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
            # Weights of vgg16 and of vgg16_bn both fit vgg16 with batch normalization, by the names before and after.
            own = max((before, built.state_dict(keep_vars=True)), key=lambda own: len(fitting(weights, own)))
            filled = {id(own[name]) for name in load_weights(built, weights, own)}
        new = {name for name, parameter in built.named_parameters() if id(parameter) not in filled}
        init(built, only=new)
    return built


def meta_network(network: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    """Return the network without memory for its parameters, to check settings on before anything is loaded."""
    try:
        with torch.device("meta"):
            return build_network(network, num_classes=num_classes, weights=None, seed=0)
    except RuntimeError:  # a constructor that looks at the values of its parameters
        return build_network(network, num_classes=num_classes, weights=None, seed=0)


def pretrained_network(network: Callable[..., nn.Module], weights: Weights) -> nn.Module:
    """Return the network in eval mode with as many outputs as the weights have.

    Weights without a head leave their flattened features in its place.
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
