"""The ordered stages of a network: the names that freezing, learning rates, feature maps and reports use."""

import fnmatch
from collections import OrderedDict

from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.weighted import HEADS

POOLING = (nn.MaxPool2d, nn.AvgPool2d)


def with_features_and_classifier(network: nn.Module) -> nn.Module:
    """Give any classification network the attributes `features` (an ordered container) and `classifier`.

    Networks that lack them get views, which add nothing to the state_dict: its keys stay those of the origin.
    Raises InputError if no head is found.
    """
    head = head_name(network)
    if not isinstance(getattr(network, "classifier", None), nn.Module):
        object.__setattr__(network, "classifier", network.get_submodule(head))
    if not isinstance(getattr(network, "features", None), nn.Module):
        body = [(name, module) for name, module in network.named_children() if name != head]
        object.__setattr__(network, "features", nn.Sequential(OrderedDict(body)))
    return network


def head_name(network: nn.Module) -> str:
    """The name of the child that turns features into class scores."""
    children = dict(network.named_children())
    for name in HEADS:
        if name in children:
            return name
    raise InputError(
        f"{type(network).__name__} has no classifier: none of {', '.join(HEADS)} is among {', '.join(children)}."
    )


def stages(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of every stage in order, `classifier` last; together they hold all parameters.

    A network that is built of `features` and `classifier` has the stages features.0, features.1, ...; another has its
    children (conv1, ..., layer4). The head is called classifier whatever the origin calls it.
    """
    head = head_name(network)
    found: dict[str, nn.Module] = {}
    for name, module in network.named_children():
        if name == "features" and isinstance(module, nn.Sequential):
            found |= {f"features.{child}": stage for child, stage in module.named_children()}
        elif name != head:
            found[name] = module
    return {**found, "classifier": network.get_submodule(head)}


def match_stages(network: nn.Module, patterns: list[str]) -> list[str]:
    """The stages that the patterns name: `all`, `features`, `last_N` (of the features), `last_block`, a stage name, or
    a glob.

    Raises InputError, with the list of stages, for a pattern that names nothing.
    """
    names = list(stages(network))
    features = names[:-1]
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern == "all":
            found = names
        elif pattern == "features":
            found = features
        elif pattern.startswith("last_") and pattern[5:].isdigit():
            with_parameters = [name for name in features if _has_parameters(stages(network)[name])]
            found = with_parameters[max(0, len(with_parameters) - int(pattern[5:])) :]
        elif pattern == "last_block":
            found = last_block(network)
        else:
            found = fnmatch.filter(names, pattern)
        if not found:
            raise InputError(f"freeze: no stage is named {pattern!r}. The stages are: {', '.join(names)}.")
        chosen.update(found)
    return [name for name in names if name in chosen]


def last_block(network: nn.Module) -> list[str]:
    """The features' last block: the last stage if stages are blocks (ResNet's layer4; with the norm behind it, if any),
    else all behind the last pooling that layers with parameters follow (VGG16's conv5_1 to conv5_3); the last layer of
    a chain that never pools."""
    features = list(stages(network).items())[:-1]
    while features and not _has_parameters(features[-1][1]):
        features.pop()
    behind: list[str] = []
    weighted = False
    for name, module in reversed(features):
        if isinstance(module, POOLING):
            return behind
        if next(module.children(), None) is not None:
            return behind if weighted else [name, *behind]
        behind.insert(0, name)
        weighted |= any(parameter.ndim > 1 for parameter in module.parameters())  # not a norm's
    return [features[-1][0]] if features else []


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def stage_of_parameter(network: nn.Module) -> dict[str, str]:
    """Parameter name -> stage name; parameters outside every stage (a ViT's class token) belong to the first stage."""
    by_identity = {id(p): stage for stage, module in stages(network).items() for p in module.parameters()}
    first = next(iter(stages(network)))
    return {name: by_identity.get(id(p), first) for name, p in network.named_parameters()}
