"""Split a network into ordered, named stages, which freezing, learning rates, feature maps and reports refer to."""

import fnmatch
from collections import OrderedDict

from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.heads import head_name, head_names

POOLING = (nn.MaxPool2d, nn.AvgPool2d)


def with_features_and_classifier(network: nn.Module) -> nn.Module:
    """Give any classification network the attributes `features` (an ordered container) and `classifier`; return it.

    Networks that lack them get aliases that are not part of the state_dict, so that its keys do not change.
    Raises InputError if no head is found.
    """
    heads = head_module(network)
    if not isinstance(getattr(network, "classifier", None), nn.Module):
        object.__setattr__(network, "classifier", heads)
    if not isinstance(getattr(network, "features", None), nn.Module):
        body = [(name, module) for name, module in network.named_children() if name not in head_names(network)]
        object.__setattr__(network, "features", nn.Sequential(OrderedDict(body)))
    return network


def head_module(network: nn.Module) -> nn.Module:
    """Return the head of a network, or all of its heads by name; raise InputError if there is none."""
    head_name(network)
    names = head_names(network)
    if len(names) == 1:
        return network.get_submodule(names[0])
    known = getattr(network, "classifier", None)
    return known if isinstance(known, nn.ModuleDict) else nn.ModuleDict({n: network.get_submodule(n) for n in names})


def stages(network: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of every stage in order, with `classifier` last; together they hold all parameters.

    A network with a sequence `features` has the stages features.0, features.1, ...; other networks have their children
    (conv1, ..., layer4). The head is always called classifier; several heads (of a distilled network, or for auxiliary
    losses) are this one stage.
    """
    heads = head_names(network)
    found: dict[str, nn.Module] = {}
    for name, module in network.named_children():
        if name == "features" and isinstance(module, nn.Sequential):
            found |= {f"features.{child}": stage for child, stage in module.named_children()}
        elif name not in heads:
            found[name] = module
    return {**found, "classifier": head_module(network)}


def match_stages(network: nn.Module, patterns: list[str]) -> list[str]:
    """Return the stages that match the patterns, in order.

    patterns: `all`, `features`, `last_N` (of the features with parameters), `last_block`, a stage name, or a glob.
    Raises InputError that lists the stages for a pattern that matches none.
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
            raise InputError(f"freeze: no stage is named {pattern!r}. Available: {', '.join(names)}.")
        chosen.update(found)
    return [name for name in names if name in chosen]


def last_block(network: nn.Module) -> list[str]:
    """Return the stages of the features' last block.

    If stages are blocks, it is the last one (ResNet's layer4) and a norm that follows it, if any. Otherwise it is
    everything after the last pooling that is followed by layers with parameters (VGG16's conv5_1 to conv5_3), or the
    last layer if the network never pools.
    """
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
        weighted |= any(parameter.ndim > 1 for parameter in module.parameters())  # excludes norms
    return [features[-1][0]] if features else []


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def stage_of_parameter(network: nn.Module) -> dict[str, str]:
    """Return parameter name -> stage name; parameters outside all stages (a ViT's class token) are in the first."""
    by_identity = {id(p): stage for stage, module in stages(network).items() for p in module.parameters()}
    first = next(iter(stages(network)))
    return {name: by_identity.get(id(p), first) for name, p in network.named_parameters()}
