"""Find layers by name, index or pattern, and record their outputs as maps."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnlab.errors import InputError
from cnnlab.models.axes import AxisTracker
from cnnlab.models.heads import head_name
from cnnlab.models.stages import stages

LISTS = (nn.ModuleList, nn.Sequential)


def first_conv(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the name and module of the first convolution; raise InputError if there is none.

    timm names it (`first_conv` of pretrained_cfg; of several, the first); elsewhere it is the first by name.
    """
    published = getattr(network, "pretrained_cfg", None)
    first = published.get("first_conv") if isinstance(published, dict) else None
    for name in [first] if isinstance(first, str) else first or ():
        module = dict(network.named_modules()).get(name)
        if isinstance(module, nn.Conv2d):
            return name, module
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise InputError(f"{type(network).__name__} has no convolution.")


def layer_patterns(text: str) -> list[str]:
    """Return the names, indices and globs in an option such as `0`, `0,3`, `[0, 3]` or `features.1*,classifier`."""
    return [pattern.strip(" '\"") for pattern in text.strip("[] ").split(",") if pattern.strip(" '\"")]


def resolve_layers(network: nn.Module, layers: Sequence[str], inputs: Tensor | None = None) -> dict[str, nn.Module]:
    """Return name -> module of every layer that matches.

    layers: an index counts the stages (VGG16's 0 is features.0); a name or glob matches any layer; `all` means all
        stages; `auto` the first, the middle and the last of the `layers_with_maps`.
    inputs: preprocessed images, which `auto` needs.
    Raises InputError that lists the stages for a pattern that matches none, or if `auto` finds no maps.
    """
    of_stages = stages(network)
    modules = {name: module for name, module in network.named_modules() if name} | of_stages
    modules["classifier"] = network.get_submodule(head_name(network))  # one layer, also of a network with several heads
    found: dict[str, nn.Module] = {}
    for pattern in layers:
        if pattern == "auto" and inputs is not None:
            names = list(layers_with_maps(network, inputs[:1]))
            if not names:
                raise InputError(f"{type(network).__name__} has no layers with maps: no output has height and width.")
            names = [names[number] for number in (0, len(names) // 2, -1)]
        elif pattern == "all":
            names = list(of_stages)
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


def layers_with_maps(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return name -> maps of the stages before the classifier that have some, in order of execution.

    A list of layers that the network calls one by one stands for these layers. Stages that change nothing, such as
    dropout, are left out, and so are maps of one pixel unless the network has no others.
    """
    of_stages = {name: module for name, module in stages(network).items() if name != "classifier"}
    found = feature_maps(
        network, inputs, {name: module for each in of_stages.items() for name, module in _nested(*each)}
    )
    names = {name for each in of_stages.items() for name in _outermost(*each, found)}
    maps: dict[str, Tensor] = {}
    for name, each in found.items():
        if name in names and not (maps and torch.equal(each, list(maps.values())[-1])):
            maps[name] = each
    return {name: each for name, each in maps.items() if min(each.shape[2:]) > 1} or maps


@torch.no_grad()
def feature_maps(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return layer name -> maps N x C x H x W, float32 on the CPU, for preprocessed `inputs`, in order of execution.

    Maps are computed from outputs of any order of axes, and from sequences of patches. Layers without rows and columns
    are left out, and those for which they cannot be told. The network's mode is not changed.
    """
    if inputs.ndim != 4:
        return {}
    found = {}
    with AxisTracker(inputs) as axes, outputs_of_layers(layers) as outputs:
        network.forward(inputs)  # not compiled: the operations of a compiled network cannot be followed
        for name, output in outputs.items():
            layout = axes.layout(output)
            if layout is not None and layout.has_positions:
                found[name] = layout.maps(output).float().cpu().contiguous()
    return found


def require_maps(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the feature maps of all `layers`; raise InputError that names one without maps, and those with some."""
    found = feature_maps(network, inputs, layers)
    for name in layers:
        if name not in found:
            raise InputError(f"layer={name} has no maps: {_why(network, inputs, name)}. {_drawable(network, inputs)}")
    return {name: found[name] for name in layers}


def layer_maps(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return layer name -> its first output as maps N x C x H x W, which gradients flow through.

    Outputs N x C have maps of one pixel. The forward pass ends once all outputs are recorded, so that inputs may have
    sizes that the classifier would refuse. Raises InputError if the axes of an output cannot be told, or if the network
    refuses the inputs.
    """
    found: dict[str, Tensor] = {}

    def stop(module: nn.Module, arguments: tuple, output: Any) -> None:
        if len(outputs) == len(layers):
            raise _ReachedError

    with AxisTracker(inputs) as axes, outputs_of_layers(layers) as outputs:
        handles = [module.register_forward_hook(stop) for module in layers.values()]
        try:
            network.forward(inputs)
        except _ReachedError:
            pass
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            size = " x ".join(map(str, inputs.shape[2:]))
            raise InputError(f"{type(network).__name__} does not accept inputs of {size} pixels: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        for name, output in outputs.items():
            if layout := axes.layout(output):
                found[name] = layout.maps(output)
    for name in layers:
        if name not in found:
            raise InputError(
                f"layer={name} has no channels: {_why(network, inputs, name)}. {_drawable(network, inputs)}"
            )
    return found


@contextmanager
def outputs_of_layers(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Record each layer's output in the yielded dictionary whenever the network runs inside the block.

    The layers behind get a copy, because an in-place ReLU after a convolution would change its output. Layers that
    return none or several tensors are left out.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple, Any], Any]:
        def hook(module: nn.Module, arguments: tuple, output: Any) -> Any:
            tensors = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
            if len(tensors) != 1:
                return None
            outputs[name] = tensors[0]
            return tree_map(lambda each: each.clone() if each is tensors[0] else each, output)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(Exception):
    """Ends a forward pass once the outputs of all layers are recorded."""


def _nested(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a layer and, if it is a list of layers, those in it."""
    yield name, module
    if isinstance(module, LISTS):
        for key, child in module.named_children():
            yield from _nested(f"{name}.{key}", child)


def _outermost(name: str, module: nn.Module, found: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the layer if it is in `found`, else those in it that are."""
    if name in found:
        yield name
    elif isinstance(module, LISTS):
        for key, child in module.named_children():
            yield from _outermost(f"{name}.{key}", child, found)


@torch.no_grad()
def _why(network: nn.Module, inputs: Tensor, layer: str) -> str:
    """Return why a layer has no maps or channels, as the end of a sentence."""
    returned: list[Any] = []
    handle = resolve_layers(network, [layer])[layer].register_forward_hook(
        lambda _, inputs, output: returned.append(output)
    )
    try:
        network.forward(inputs)
    finally:
        handle.remove()
    if not returned:
        return "the network does not call it"
    tensors = [each for each in tree_leaves(returned[-1]) if isinstance(each, Tensor)]
    if len(tensors) != 1:
        return f"it returns {len(tensors) or 'no'} tensors"
    shape = " x ".join(["N", *map(str, tensors[0].shape[1:])])
    if tensors[0].ndim <= 2:
        return f"its output, {shape}, has no height and width"
    return f"nothing says which axes of its output, {shape}, are height and width"


def _drawable(network: nn.Module, inputs: Tensor) -> str:
    names = list(layers_with_maps(network, inputs[:1]))
    return f"Layers with maps: {', '.join(names)}." if names else f"{type(network).__name__} has no layers with maps."


def _listed(names: list[str]) -> str:
    shown = [f"{number} {name}" for number, name in enumerate(names)]
    return f"Its stages are: {', '.join(shown)}. Names and globs of layers inside them work too."
