"""The outputs of chosen layers for given images."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models.stages import stages


def first_conv(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the first convolution; raises InputError if there is none."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise InputError(f"{type(network).__name__} has no convolution.")


def resolve_layers(network: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Name -> module of every layer that the names or globs mean; `auto` is the first, a middle and the last stage.

    Raises InputError, with the nearest layers, for a name that means none.
    """
    modules = {name: module for name, module in network.named_modules() if name} | stages(network)
    found: dict[str, nn.Module] = {}
    for pattern in layers:
        names = _auto(network) if pattern == "auto" else fnmatch.filter(modules, pattern)
        if not names:
            some = ", ".join(list(stages(network))[:8])
            raise InputError(f"No layer of {type(network).__name__} is called {pattern!r}. Stages: {some}, ...")
        found |= {name: modules[name] for name in names}
    return found


@torch.no_grad()
def feature_maps(network: nn.Module, inputs: Tensor, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Layer name -> its output N x C x H x W for preprocessed `inputs`; the network's mode is kept.

    Layers that give anything else are left out. Outputs are copied in the hook, because the in-place ReLU that follows
    a convolution would change them.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, arguments: tuple, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps[name] = output.detach().float().cpu().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: maps[name] for name in layers if name in maps}


def _auto(network: nn.Module) -> list[str]:
    names = [name for name in stages(network) if name != "classifier"]
    return list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
