"""Which parameters of a network are weights, the ones that regularization acts on, and layers by name or glob."""

import fnmatch
from collections.abc import Collection, Sequence

from torch import nn

from cnnlab.errors import InputError

HEADS = ("classifier", "fc", "head", "heads")
"""What torchvision and timm call the part of a network behind its features."""


def weights_of(module: nn.Module, modules: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """Name -> parameter of every weight: at least two-dimensional and of no normalization layer, so never a bias.

    modules: names or globs of the layers to take ("classifier" is the head whatever it is called); None: all.
    Raises InputError for a pattern that names none.
    """
    leaves = [layer for layer in module.modules() if next(layer.children(), None) is None]
    of_norms = {id(p) for layer in leaves if "Norm" in type(layer).__name__ for p in layer.parameters()}
    weights = {name: p for name, p in module.named_parameters() if p.ndim > 1 and id(p) not in of_norms}
    if modules is None:
        return weights
    chosen = set(matching(list(dict.fromkeys(_layer(name) for name in weights)), modules))
    return {name: weight for name, weight in weights.items() if _layer(name) in chosen}


def matching(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """The layers among `names` that a name or glob names, or whose parent one does.

    Raises InputError, with the names, for a pattern that names none.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if any(fnmatch.fnmatch(path, pattern) for path in _paths(name))]
        if not found:
            raise InputError(f"No layer with weights is named {pattern!r}. They are: {', '.join(names)}.")
        chosen.update(found)
    return [name for name in names if name in chosen]


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _paths(name: str) -> list[str]:
    """a.b.c -> a, a.b, a.b.c; with the head also under the name classifier."""
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    if parts[0] in HEADS:
        paths += [".".join(["classifier", *parts[1:end]]) for end in range(1, len(parts) + 1)]
    return paths
