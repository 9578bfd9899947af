"""Compute the receptive fields of a network: the part of the input that one unit of each layer sees."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

ELEMENTWISE = {operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat, F.relu}
ELEMENTWISE |= {F.relu6, F.gelu, F.silu, F.dropout, F.hardswish, F.leaky_relu, F.sigmoid, torch.sigmoid, torch.relu}
METHODS = {"add", "add_", "mul", "mul_", "relu", "relu_", "contiguous", "float", "clone"}
LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Identity),
    *(nn.BatchNorm2d, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d),
)
"""Layers that act on each position separately, and so do not change the receptive field."""


@dataclass(frozen=True)
class Axis:
    """Receptive field along one axis: unit i sees pixels start + i * stride to start + i * stride + size - 1."""

    stride: int = 1
    size: int = 1
    start: int = 0

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> "Axis":
        """Return the axis after a sliding window over this one (Araujo et al. 2019, equations 1 and 2)."""
        reach = dilation * (kernel - 1) * self.stride
        return Axis(self.stride * stride, self.size + reach, self.start - padding * self.stride)


@dataclass(frozen=True)
class Field:
    """Receptive field of a layer's units, in pixels of the network's input."""

    rows: Axis = Axis()
    columns: Axis = Axis()

    @property
    def stride(self) -> int | list[int]:
        return _one_or_both(self.rows.stride, self.columns.stride)

    @property
    def size(self) -> int | list[int]:
        return _one_or_both(self.rows.size, self.columns.size)

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return (top, left, bottom, right) of a unit's field, the last two exclusive; it may extend past the image."""
        top = self.rows.start + row * self.rows.stride
        left = self.columns.start + column * self.columns.stride
        return top, left, top + self.rows.size, left + self.columns.size


def receptive_fields(network: nn.Module) -> dict[str, Field]:
    """Return layer name -> field of every layer whose units see a window of the input.

    Layers after anything but convolutions, poolings, sums and concatenations (for example after global pooling) are
    left out. The result is empty if torch.fx cannot trace the network.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # tracing runs the network's own code on symbolic values, which can raise anything
        return {}
    fields: dict[fx.Node, Field | None] = {}
    layers: dict[str, Field | None] = {}
    for node in graph.nodes:
        fields[node] = _field(node, network, fields)
        for name in _modules_of(node):
            layers[name] = fields[node]  # later nodes overwrite earlier ones: the last node in a module is its output
    return {name: field for name, field in layers.items() if field is not None}


class _Tracer(fx.Tracer):
    """Traces into all modules except torch's own layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return module.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)


def _field(node: fx.Node, network: nn.Module, fields: dict[fx.Node, Field | None]) -> Field | None:
    if node.op == "placeholder":
        return Field()
    known = [fields[source] for source in node.all_input_nodes]
    if not known or None in known:
        return None
    field = _union([each for each in known if each is not None])
    if node.op == "call_module":
        return _behind_layer(field, network.get_submodule(str(node.target)))
    if node.op == "call_function" and node.target in (F.max_pool2d, F.avg_pool2d):
        return _behind_function(field, node)
    same = (node.op == "call_function" and node.target in ELEMENTWISE) or (
        node.op == "call_method" and node.target in METHODS
    )
    return field if same or node.op == "output" else None


def _behind_layer(field: Field | None, layer: nn.Module) -> Field | None:
    if field is None or isinstance(layer, LAYERS):
        return field
    if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
        return _behind_window(field, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, nn.MaxPool2d):
        return _behind_window(field, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, nn.AvgPool2d):
        return _behind_window(field, layer.kernel_size, layer.stride, layer.padding, 1)
    return None


def _behind_function(field: Field | None, node: fx.Node) -> Field | None:
    names = ("kernel_size", "stride", "padding", "dilation")
    given = dict(zip(names, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in names}
    kernel: Any = given["kernel_size"]
    return field and _behind_window(
        field, kernel, given.get("stride") or kernel, given.get("padding", 0), given.get("dilation", 1)
    )


def _behind_window(field: Field, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    window = (kernel, stride, padding, dilation)
    pairs = [(value, value) if isinstance(value, int) else tuple(value) for value in window]
    rows, columns = zip(*pairs, strict=True)
    return Field(field.rows.through(*rows), field.columns.through(*columns))


def _union(fields: list[Field]) -> Field | None:
    """Return the field of a sum or concatenation of branches; None if their strides differ."""
    rows = _joined([field.rows for field in fields])
    columns = _joined([field.columns for field in fields])
    return Field(rows, columns) if rows and columns else None


def _joined(axes: list[Axis]) -> Axis | None:
    if len({axis.stride for axis in axes}) > 1:
        return None
    start = min(axis.start for axis in axes)
    return Axis(axes[0].stride, max(axis.start + axis.size for axis in axes) - start, start)


def _modules_of(node: fx.Node) -> list[str]:
    """Return the names of the modules that contain a node, including its own."""
    names = [str(name).split("@")[0] for name in node.meta.get("nn_module_stack", {})]  # relu@1 is its second call
    return [*names, *([str(node.target)] if node.op == "call_module" and str(node.target) not in names else [])]


def _one_or_both(rows: int, columns: int) -> int | list[int]:
    return rows if rows == columns else [rows, columns]
