"""Describe a small network as a chain of plain layers, whose settings and arrays any program can compute it from."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cnnlab.errors import InputError
from cnnlab.models.preprocessing import Normalize

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What a layer computes: its kind, a short text for people, plain settings, and float32 arrays."""

    kind: str
    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One layer of a chain.

    name: of its module, or of its function. shape: of its output without the batch, C x H x W or C.
    """

    name: str
    shape: Shape
    description: Description


def chain_of(preprocessing: nn.Module, network: nn.Module, input_shape: Shape) -> list[Layer]:
    """Return the layers of preprocessing and network in order of execution; the last one outputs the logits.

    preprocessing, network: in eval mode. input_shape: C x H x W of the images.
    Raises InputError that names the layer if its kind is not supported, or if the network is not a chain.
    """
    whole = type(network).__name__
    images = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    layers: list[Layer] = []
    with torch.inference_mode():
        values = images
        for name, module in _steps(preprocessing, network):
            try:
                description, values = _computed(module, values)
            except UnsupportedError as error:
                raise InputError(f"{name} of {whole} is a {type(module).__name__}{error}: {SUPPORTED}") from error
            layers.append(Layer(name, tuple(values.shape[1:]), description))
        expected = network(preprocessing(images))
    if not bool(expected.isfinite().all()):
        raise InputError(f"The outputs of {whole} are not finite: its training has diverged.")
    if values.shape != expected.shape or not torch.allclose(values, expected, rtol=1e-4, atol=1e-4):
        raise InputError(f"{whole} does not compute what its layers compute one after the other: {SUPPORTED}")
    return layers


class UnsupportedError(Exception):
    """A layer is not supported; the message follows its class name, such as " with dilation"."""


def _computed(module: nn.Module, values: Tensor) -> tuple[Description, Tensor]:
    """Return the description of a layer and its output for `values`, which an in-place layer leaves unchanged."""
    describe = DESCRIBE.get(type(module))
    if describe is None:
        raise UnsupportedError()
    try:
        outputs = module.forward(values.clone())  # without hooks, which the page cannot run either
    except RuntimeError as error:
        raise UnsupportedError(f" that does not accept {_by(values.shape[1:])}") from error
    return describe(module, values.shape[1:], outputs.shape[1:]), outputs


def _steps(preprocessing: nn.Module, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name and module of each step; a function such as F.relu becomes the module that computes the same."""
    if not isinstance(preprocessing, nn.Identity):
        yield "preprocessing", preprocessing
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # code that cannot be traced may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{type(network).__name__} cannot be traced ({reason}): {SUPPORTED}") from error
    sizes: set[fx.Node] = set()
    previous: fx.Node | None = None
    uses: dict[str, int] = {}
    for node in graph.nodes:
        inputs = [other for other in node.all_input_nodes if other not in sizes]
        if node.op == "placeholder":
            previous = node
        elif _is_size(node) or (node.all_input_nodes and not inputs):
            sizes.add(node)
        elif inputs != [previous]:
            where = f" after {_origin(previous)}" if previous else ""
            raise InputError(f"{type(network).__name__} is not a chain ({node.name}{where}): {SUPPORTED}")
        elif node.op != "output":
            name = _origin(node)
            uses[name] = uses.get(name, 0) + 1
            yield (
                name if uses[name] == 1 else f"{name} ({uses[name]})",
                network.get_submodule(name) if node.op == "call_module" else _module_of(node, network),
            )
            previous = node


def _is_size(node: fx.Node) -> bool:
    """Return whether a node is a size, such as x.size(0) or x.shape, and not a tensor."""
    if node.op == "call_method":
        return node.target == "size"
    return bool(node.op == "call_function" and node.target is getattr and node.args[1] == "shape")


def _origin(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _module_of(node: fx.Node, network: nn.Module) -> nn.Module:
    make = FUNCTIONS.get(node.target)
    if make is None:
        raise InputError(f"{node.name} of {type(network).__name__} is not a supported layer: {SUPPORTED}")
    return make(*node.args[1:], **node.kwargs)


def _conv(module: nn.Conv2d, inputs: Shape, outputs: Shape) -> Description:
    if module.padding_mode != "zeros":
        raise UnsupportedError(f" with padding_mode={module.padding_mode}")
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module.padding, str):  # "same" puts an odd pixel at the end, "valid" pads nothing
        padding = [(d * (k - 1) // 2 if module.padding == "same" else 0) for k, d in zip(kernel, dilation, strict=True)]
    else:
        padding = list(module.padding)
    details = [f"{_by(kernel)}, {module.in_channels} → {module.out_channels}"]
    details += [f"stride {_once(stride)}"] if set(stride) != {1} else []
    details += [f"dilation {_once(dilation)}"] if set(dilation) != {1} else []
    details += [f"{module.groups} groups"] if module.groups > 1 else []
    settings = {
        "kernel": list(kernel),
        "stride": list(stride),
        "padding": padding,
        "dilation": list(dilation),
        "groups": module.groups,
    }
    return Description("conv", f"Conv2d {', '.join(details)}", settings, _weights(module))


def _linear(module: nn.Linear, inputs: Shape, outputs: Shape) -> Description:
    if len(inputs) != 1:
        raise UnsupportedError(f" with an input of {_by(inputs)}, not a vector")
    return Description("linear", f"Linear {module.in_features} → {module.out_features}", {}, _weights(module))


def _weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: _array(value) for name, value in module.named_parameters(recurse=False)}


def _normalize(module: Normalize, inputs: Shape, outputs: Shape) -> Description:
    arrays = {"mean": _array(module.mean).ravel(), "std": _array(module.std).ravel()}
    return Description("normalize", "(x − mean) / std", {}, arrays)


def _batch_norm(module: nn.BatchNorm2d, inputs: Shape, outputs: Shape) -> Description:
    if module.running_mean is None or module.running_var is None:
        raise UnsupportedError(" with track_running_stats=False")
    std = (module.running_var.double() + module.eps).sqrt()
    arrays = {"mean": _array(module.running_mean), "std": _array(std)} | _weights(module)
    return Description("normalize", type(module).__name__, {}, arrays)


def _response_norm(module: nn.LocalResponseNorm, inputs: Shape, outputs: Shape) -> Description:
    settings = {name: getattr(module, name) for name in ("size", "alpha", "beta", "k")}
    return Description("response_norm", f"LocalResponseNorm {module.size}", settings)


def _max_pool(module: nn.MaxPool2d, inputs: Shape, outputs: Shape) -> Description:
    if _pair(module.dilation) != (1, 1) or module.return_indices:
        raise UnsupportedError(" with dilation or return_indices")
    return Description("max_pool", *_pooled(module, inputs, outputs))


def _avg_pool(module: nn.AvgPool2d, inputs: Shape, outputs: Shape) -> Description:
    text, settings = _pooled(module, inputs, outputs)
    for name in ("rows", "columns"):  # a sum is divided by the product of the third numbers of its two windows
        if module.divisor_override:
            divisor = module.divisor_override if name == "rows" else 1
            settings[name] = [[start, end, divisor] for start, end, _ in settings[name]]
        elif not module.count_include_pad:
            settings[name] = [[start, end, end - start] for start, end, _ in settings[name]]
    return Description("avg_pool", text, settings)


def _pooled(module: nn.MaxPool2d | nn.AvgPool2d, inputs: Shape, outputs: Shape) -> tuple[str, dict[str, Any]]:
    """Return the text and, for rows and columns, the windows [start, end, extent].

    start, end: without padding. extent: with the padding that the window covers.
    """
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    windows = []
    for k, s, p, size, count in zip(kernel, stride, padding, inputs[1:], outputs[1:], strict=True):
        starts = [number * s - p for number in range(count)]
        windows.append([[max(at, 0), min(at + k, size), min(at + k, size + p) - at] for at in starts])
    details = [_by(kernel)] + ([f"stride {_once(stride)}"] if stride != kernel else [])
    return f"{type(module).__name__} {', '.join(details)}", {"rows": windows[0], "columns": windows[1]}


def _adaptive_pool(module: nn.AdaptiveAvgPool2d, inputs: Shape, outputs: Shape) -> Description:
    windows = []
    for size, count in zip(inputs[1:], outputs[1:], strict=True):
        spans = [(number * size // count, -(-(number + 1) * size // count)) for number in range(count)]
        windows.append([[start, end, end - start] for start, end in spans])
    settings = {"rows": windows[0], "columns": windows[1]}
    return Description("avg_pool", f"AdaptiveAvgPool2d to {_by(outputs[1:])}", settings)


def _flatten(module: nn.Flatten, inputs: Shape, outputs: Shape) -> Description:
    if outputs != (math.prod(inputs),):
        raise UnsupportedError(f" with the output {_by(outputs)}, not a vector")
    return Description("flatten", "Flatten")


def _elementwise(kind: str) -> Callable[[nn.Module, Shape, Shape], Description]:
    return lambda module, inputs, outputs: Description(kind, type(module).__name__)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float32).contiguous().numpy()


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _by(sizes: Any) -> str:
    return " × ".join(map(str, sizes))


def _once(pair: tuple[int, ...]) -> str:
    return str(pair[0]) if len(set(pair)) == 1 else _by(pair)


DESCRIBE: dict[type, Callable[[Any, Shape, Shape], Description]] = {
    Normalize: _normalize,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.LocalResponseNorm: _response_norm,
    nn.ReLU: _elementwise("relu"),
    nn.ReLU6: _elementwise("relu6"),
    nn.Tanh: _elementwise("tanh"),
    nn.Sigmoid: _elementwise("sigmoid"),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _flatten,
    nn.Identity: _elementwise("identity"),
    nn.Dropout: _elementwise("identity"),
    nn.Dropout2d: _elementwise("identity"),
}
SUPPORTED = (
    "only chains of " + ", ".join(kind.__name__ for kind in DESCRIBE if kind is not Normalize) + " can be explored."
)


def _flat(*sizes: Any, **named: Any) -> nn.Module:
    """Return Flatten for any view or reshape; comparing outputs at the end shows whether it was one."""
    return nn.Flatten()


def _nothing(*settings: Any, **named: Any) -> nn.Module:
    """Return Identity for dropout, which does nothing in eval mode."""
    return nn.Identity()


FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.tanh: nn.Tanh,
    torch.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    F.sigmoid: nn.Sigmoid,
    torch.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    torch.flatten: _flat,
    torch.reshape: _flat,
    "flatten": _flat,
    "reshape": _flat,
    "view": _flat,
    F.dropout: _nothing,
    F.dropout2d: _nothing,
}
"""Function or name of a tensor method -> what builds the module that computes the same."""
