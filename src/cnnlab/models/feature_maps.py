"""Find layers by name, index or pattern, and record their outputs."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models.stages import stages


def first_conv(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the name and module of the first convolution; raise InputError if there is none."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise InputError(f"{type(network).__name__} has no convolution.")


def layer_patterns(text: str) -> list[str]:
    """Return the names, indices and globs in an option such as `0`, `0,3`, `[0, 3]` or `features.1*,classifier`."""
    return [pattern.strip(" '\"") for pattern in text.strip("[] ").split(",") if pattern.strip(" '\"")]


def resolve_layers(network: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Return name -> module of every layer that matches.

    layers: an index counts the stages (VGG16's 0 is features.0); a name or glob matches any layer; `all` means all
        stages; `auto` means the first, the middle and the last stage before the classifier.
    Raises InputError that lists the stages for a pattern that matches none.
    """
    of_stages = stages(network)
    modules = {name: module for name, module in network.named_modules() if name} | of_stages
    found: dict[str, nn.Module] = {}
    for pattern in layers:
        if pattern in ("auto", "all"):
            names = _auto(network) if pattern == "auto" else list(of_stages)
        elif pattern.isdigit():
            names = list(of_stages)[int(pattern) :][:1]
        else:
            names = fnmatch.filter(modules, pattern)
        if not names:
            raise InputError(f"No layer of {type(network).__name__} is named {pattern!r}. {_listed(list(of_stages))}")
        found |= {name: modules[name] for name in names}
    return found


def stage_index(network: nn.Module, layer: str) -> int | None:
    """Return the index of the layer for `resolve_layers`; None if it is inside a stage."""
    names = list(stages(network))
    return names.index(layer) if layer in names else None


@torch.no_grad()
def feature_maps(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return layer name -> output N x C x H x W, float32 on the CPU, for preprocessed `inputs`.

    Layers with outputs of another shape are left out. The network's mode is not changed. Outputs are copied in the
    hook, because an in-place ReLU after a convolution would change them.
    """
    with outputs_of_layers(layers, detached=True) as outputs:
        network(inputs)
    return {name: outputs[name] for name in layers if name in outputs and outputs[name].ndim == 4}


@contextmanager
def outputs_of_layers(layers: Mapping[str, nn.Module], detached: bool = False) -> Iterator[dict[str, Tensor]]:
    """Record a copy of each layer's output in the yielded dictionary whenever the network runs inside the block.

    detached: outputs are float32 on the CPU, instead of tensors that gradients flow through.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, arguments: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().float().cpu().clone() if detached else output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(Exception):
    """Ends a forward pass once the outputs of all layers are recorded."""


def layer_outputs(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return layer name -> copy of its first output, which gradients flow through.

    The forward pass ends once all outputs are recorded, so that inputs may have sizes that the classifier would refuse.
    """

    def stop(module: nn.Module, arguments: tuple, output: Any) -> None:
        if len(outputs) == len(layers):
            raise _ReachedError

    with outputs_of_layers(layers) as outputs:
        handles = [module.register_forward_hook(stop) for module in layers.values()]
        try:
            network(inputs)
        except _ReachedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
    return outputs


def _auto(network: nn.Module) -> list[str]:
    names = [name for name in stages(network) if name != "classifier"]
    return list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))


def _listed(names: list[str]) -> str:
    shown = [f"{number} {name}" for number, name in enumerate(names)]
    return f"Its stages are: {', '.join(shown)}. Names and globs of layers inside them work too."
