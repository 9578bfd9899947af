"""Initialize weights by scheme name: those of torch.nn.init, a fast orthogonal one, and LSUV."""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cnnlab.errors import InputError
from cnnlab.models.heads import head_names
from cnnlab.models.weighted import matching

WEIGHTED = (_ConvNd, nn.Linear)


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Fill `weight` with a random matrix with orthonormal rows (or columns, if fewer) times `gain` (Saxe et al. 2014).

    weight: at least two dimensions, viewed as a matrix of the first x all others.
    The distribution is that of torch.nn.init.orthogonal_ (Haar), but large matrices take much less time: one at least
    twice as long as wide is well conditioned, so that the Cholesky factor of its small Gram matrix orthogonalizes it
    accurately (tests/models/test_initialization.py).
    """
    rows, columns = weight.shape[0], weight[0].numel()
    short, long = sorted((rows, columns))
    if long < 2 * short:
        return nn.init.orthogonal_(weight, gain=gain)
    random = torch.randn(short, long, device=weight.device)
    factor = torch.linalg.cholesky(_gram(random))
    orthonormal = torch.linalg.solve_triangular(factor, random, upper=False)
    return weight.copy_(gain * (orthonormal if rows == short else orthonormal.T).reshape(weight.shape))


def _gram(rows: Tensor, blocks: int = 8) -> Tensor:
    """Compute rows @ rows.T on and below the diagonal only, which is all that Cholesky reads, to save work."""
    gram = rows.new_zeros(len(rows), len(rows))
    for block in torch.arange(len(rows), device=rows.device).chunk(blocks):
        first, end = int(block[0]), int(block[-1]) + 1
        gram[first:end, :end] = rows[first:end] @ rows[:end].T
    return gram


SCHEMES: dict[str, Callable[..., Tensor]] = {
    "zero": nn.init.zeros_,
    "random": partial(nn.init.normal_, mean=0.0, std=0.01),
    "uniform": partial(nn.init.uniform_, a=-0.05, b=0.05),
    "normal": partial(nn.init.normal_, mean=0.0, std=1.0),
    "orthogonal": orthogonal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, mode="fan_in", nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "trunc_normal": partial(nn.init.trunc_normal_, mean=0.0, std=0.02, a=-0.04, b=0.04),
    "lsuv": partial(orthogonal_, gain=1.0),
}
"""Name -> function that draws one weight tensor, with the scheme's defaults; `lsuv` then rescales the weights."""
LSUV_OPTIONS = {"tolerance", "max_iterations"}


def initialize(
    module: nn.Module,
    name: str = "default",
    bias: float = 0.0,
    modules: Sequence[str] | None = None,
    only: set[str] | None = None,
    images: Tensor | None = None,
    **options: Any,
) -> None:
    """Initialize the weights of convolutions and linear layers in place; norm layers are not changed.

    name: "default" (keep the initialization of the network's authors), or a key of `SCHEMES`.
    bias: value of the biases. options: arguments of the scheme, such as `gain` for orthogonal.
    modules: names or globs of the layers to initialize ("classifier" always means the head). None: those whose
        parameters are in `only`.
    only: names of parameters; None: all.
    images: N x C x H x W as the network takes them; required by lsuv.
    Raises InputError for an unknown name, option or module, and for lsuv without images.
    """
    layers = check_initialization(module, name, modules, options)
    if modules is not None:
        only = None
    balancing = {option: options.pop(option) for option in LSUV_OPTIONS & set(options)}
    drawn = []
    for prefix, layer in layers.items():
        dot = f"{prefix}." if prefix else ""
        if only is None or f"{dot}weight" in only:
            SCHEMES[name](layer.weight, **options)
            drawn.append(layer)
        if layer.bias is not None and (only is None or f"{dot}bias" in only):
            nn.init.constant_(layer.bias, bias)
    if name == "lsuv":
        if images is None:
            raise InputError("init=lsuv needs images: it scales every layer by the variance of its output.")
        unit_variance(module, drawn, images, **balancing)


def check_initialization(
    module: nn.Module, name: str, modules: Sequence[str] | None, options: Collection[str]
) -> dict[str, Any]:
    """Return name -> layer that `initialize` may change; raise InputError for arguments that it would refuse."""
    if name == "default":
        if options or modules is not None:
            raise InputError("init=default takes no options. Choose another init for them.")
        return {}
    if name not in SCHEMES:
        raise InputError(f"init.name={name}: use default, {', '.join(SCHEMES)}.")
    known = set(inspect.signature(SCHEMES[name]).parameters) - {"tensor", "weight", "generator"}
    known |= LSUV_OPTIONS if name == "lsuv" else set()
    unknown = [option for option in options if option not in known]
    if unknown:
        has = ", ".join(sorted(known)) or "none"
        raise InputError(f"init={name} has no option {', '.join(unknown)}. Available: {has}.")
    layers = {prefix: layer for prefix, layer in module.named_modules() if isinstance(layer, WEIGHTED)}
    try:
        if modules is None:
            return layers
        return {prefix: layers[prefix] for prefix in matching(layers, modules, head_names(module))}
    except InputError as error:
        raise InputError(f"init.modules: {error}") from error


@torch.no_grad()
def unit_variance(
    module: nn.Module, layers: Sequence[nn.Module], images: Tensor, tolerance: float = 0.1, max_iterations: int = 10
) -> None:
    """Divide each layer's weight by the standard deviation of its output, in the order of the forward pass.

    This is layer-sequential unit variance (Mishkin and Matas 2016, algorithm 1): each layer is rescaled until its
    variance over `images` is within `tolerance` of 1, at most `max_iterations` times. A layer with constant output is
    not changed.
    """
    training = {part: part.training for part in module.modules()}
    module.eval()
    order = _order_of_execution(module, layers, images)
    for layer in order:
        for _ in range(max_iterations):
            variance = _output(module, layer, images).float().var(correction=0).item()
            if abs(variance - 1) <= tolerance or variance < 1e-12:
                break
            layer.weight.div_(math.sqrt(variance))
    for part, mode in training.items():
        part.training = mode


class _LayerReached(Exception):  # noqa: N818 - ends a forward pass, not an error
    """Ends a forward pass at the layer whose output is wanted."""


def _output(module: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        outputs.append(output)
        raise _LayerReached

    handle = layer.register_forward_hook(keep)
    try:
        module(images)
    except _LayerReached:
        pass
    finally:
        handle.remove()
    return outputs[0]


def _order_of_execution(module: nn.Module, layers: Sequence[nn.Module], images: Tensor) -> list[Any]:
    order: list[nn.Module] = []
    handles = [layer.register_forward_hook(lambda reached, *_: order.append(reached)) for layer in layers]
    module(images[:1])
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(order))
