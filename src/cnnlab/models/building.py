"""From a model config to a network: built, given weights, changed by surgery, and initialised where it is new."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.initialization import initialize
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.models.surgery import Surgery
from cnnlab.models.weights import Weights, fitting, load_weights, torchvision_weights
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


def input_spec(
    name: str, weights: str | None, in_channels: int, image_size: int | None, resize_size: int | None
) -> InputSpec:
    """The input of a model; sizes that are None, mean and std are those of its torchvision weights, else ImageNet's."""
    own: Any = None
    if weights is not None and name in torchvision.models.list_models():
        enum = torchvision.models.get_model_weights(name)
        own = (torchvision_weights(name, weights) if weights in enum.__members__ else enum["DEFAULT"]).transforms()
    size = image_size or (own.crop_size[0] if own else 224)
    resize = resize_size or (own.resize_size[0] if own else round(size / 0.875))
    return InputSpec(
        channels=in_channels,
        image_size=size,
        resize_size=max(resize, size),
        mean=list(own.mean) if own else IMAGENET_MEAN,
        std=list(own.std) if own else IMAGENET_STD,
    )


def build_network(
    network: Callable[..., nn.Module],
    *,
    num_classes: int,
    weights: Weights | None,
    surgery: Sequence[Surgery] = (),
    init: Callable[..., None] = initialize,
    seed: int,
) -> nn.Module:
    """A network with `features` and `classifier`, ready to train.

    network: called with num_classes. init: called with the network and, as `only`, the names that no weights filled.
    Raises InputError if the network cannot have that many classes, or surgery finds no place.
    """
    with derived_rng(seed, "init"):
        try:
            built = with_features_and_classifier(network(num_classes=num_classes))
        except ValueError as error:
            raise InputError(f"The model cannot be built for {num_classes} classes: {error}") from error
        before = built.state_dict(keep_vars=True)
        for operation in surgery:
            operation.operate(built)
        filled: set[int] = set()
        if weights:
            # Weights of vgg16 and of vgg16_bn both fit vgg16 with batch normalization, by the names before and after.
            own = max((before, built.state_dict(keep_vars=True)), key=lambda own: len(fitting(weights, own)))
            filled = {id(own[name]) for name in load_weights(built, weights, own)}
        new = {name for name, parameter in built.named_parameters() if id(parameter) not in filled}
        init(built, only=new)
    return built
