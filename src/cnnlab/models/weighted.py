"""Find the weights of a network, on which regularization acts, and layers by name or glob."""

import fnmatch
from collections.abc import Collection, Sequence

from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.heads import head_names


def weights_of(module: nn.Module, modules: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """Return name -> parameter of every weight: those with at least two dimensions, except of normalization layers.

    modules: names or globs of the layers to include ("classifier" always means the head); None: all.
    Raises InputError for a pattern that matches no layer.
    """
    leaves = [layer for layer in module.modules() if next(layer.children(), None) is None]
    of_norms = {id(p) for layer in leaves if "Norm" in type(layer).__name__ for p in layer.parameters()}
    weights = {name: p for name, p in module.named_parameters() if p.ndim > 1 and id(p) not in of_norms}
    if modules is None:
        return weights
    layers = list(dict.fromkeys(_layer(name) for name in weights))
    chosen = set(matching(layers, modules, head_names(module)))
    return {name: weight for name, weight in weights.items() if _layer(name) in chosen}


def matching(names: Collection[str], patterns: Sequence[str], heads: Collection[str] = ()) -> list[str]:
    """Return those of the layers `names` that match a pattern (name or glob), or whose parent matches one.

    heads: children that are the network's head, which patterns may call classifier.
    Raises InputError that lists the names for a pattern that matches none.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if any(fnmatch.fnmatch(path, pattern) for path in _paths(name, heads))]
        if not found:
            raise InputError(f"No layer with weights is named {pattern!r}. Available: {', '.join(names)}.")
        chosen.update(found)
    return [name for name in names if name in chosen]


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _paths(name: str, heads: Collection[str]) -> list[str]:
    """Return the paths a, a.b, a.b.c of the name a.b.c; for layers of the head also those with the name classifier."""
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    if parts[0] in heads:
        paths += [".".join(["classifier", *parts[1:end]]) for end in range(1, len(parts) + 1)]
    return paths
