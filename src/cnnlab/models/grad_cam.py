"""Grad-CAM: the positions of a layer's maps that raise the score of a class (Selvaraju et al. 2017)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models.axes import AxisTracker
from cnnlab.models.feature_maps import LISTS, layer_patterns, outputs_of_layers, require_maps, resolve_layers
from cnnlab.models.gradients import differentiable
from cnnlab.models.stages import stages


def grad_cam(network: nn.Module, inputs: Tensor, layer: str, targets: Tensor) -> Tensor:
    """Return relu(sum_k mean(dy / dA_k) A_k) for each image, N x H x W of the layer's maps (equations 1 and 2).

    network: in eval mode. inputs: preprocessed images. targets: index of the class of each image.
    """
    maps, slopes = _maps_and_slopes(network, inputs, resolve_layers(network, [layer]), targets)[layer]
    return (slopes.mean((2, 3), keepdim=True) * maps).sum(1).relu()


def cam_layer(network: nn.Module, inputs: Tensor, targets: Tensor, layer: str | None = None) -> str:
    """Return the layer for `grad_cam`: the last with maps larger than a pixel that the scores depend on.

    The last block of a ViT is not such a layer: its classifier reads the class token, and no patch of this block.
    layer: names, indices or globs; the first match is used. Raises InputError if it cannot be used, or if
    there is none.
    """
    if layer is not None:
        name, module = next(iter(resolve_layers(network, layer_patterns(layer), inputs).items()))
        require_maps(network, inputs[:1], {name: module})
        if name not in _useful(network, inputs, {name: module}, targets, pixels=1):
            last = cam_layer(network, inputs, targets)
            raise InputError(f"layer={name}: the score does not depend on the maps of this layer. Use layer={last}.")
        return name
    candidates = {
        name: module
        for stage, module in stages(network).items()
        if stage != "classifier"
        for name, module in {stage: module, **_children(stage, module)}.items()
    }
    useful = _useful(network, inputs, candidates, targets)
    if not useful:
        raise InputError(
            f"Grad-CAM needs a layer with maps larger than a pixel that the score depends on; {type(network).__name__} "
            "has none."
        )
    return useful[-1]


def _useful(
    network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module], targets: Tensor, pixels: int = 2
) -> list[str]:
    """Return the layers with maps of at least `pixels` a side that the scores depend on, in order of execution."""
    found = _maps_and_slopes(network, inputs[:1], layers, targets[:1])
    return [name for name, (maps, slopes) in found.items() if min(maps.shape[2:]) >= pixels and bool(slopes.any())]


def _maps_and_slopes(
    network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module], targets: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return layer -> its maps and the derivatives of each image's score by them, both N x C x H x W."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with differentiable(inputs) as (variable,):
        with AxisTracker(variable) as axes, outputs_of_layers(layers) as outputs:
            scores = network.forward(variable)
        of_targets = scores[range(len(targets)), targets].sum()
        varying = {name: output for name, output in outputs.items() if output.requires_grad}
        slopes = torch.autograd.grad(of_targets, list(varying.values()), allow_unused=True, materialize_grads=True)
        for (name, output), slope in zip(varying.items(), slopes, strict=True):
            layout = axes.layout(output)
            if layout is not None and layout.has_positions:
                found[name] = (layout.maps(output.detach()), layout.maps(slope))
    return found


def _children(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers in a stage, with those in lists in place of the lists."""
    found: dict[str, nn.Module] = {}
    for key, child in module.named_children():
        inner = _children(f"{name}.{key}", child) if isinstance(child, LISTS) else {}
        found |= inner | {f"{name}.{key}": child}
    return found
