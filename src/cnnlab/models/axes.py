"""Follow the axes of images through a network, to find the channels, rows and columns in the output of any layer.

Most networks compute N x C x H x W. Swin computes N x H x W x C, a ViT a sequence of patches behind a class token, and
others cut maps into windows. A shape alone does not say which, so the axes are followed through each operation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "squeeze", "unsqueeze"}
"""Operations that keep the order of all values."""
REDUCTIONS = {"mean", "sum", "prod", "amax", "amin", "max", "min", "argmax", "logsumexp", "var", "std"}
REORDERINGS = {"index", "gather", "take", "sort", "topk", "scatter", "masked_select"}
"""Operations that move values, so that output and input positions differ."""


class Factor(NamedTuple):
    """A factor of a tensor's dimension: `size` steps of `stride` along an axis of the images.

    axis: N, H or W; C, the channels of any layer; "?", unknown; or T, a sequence of `size` tokens, in which `before`
    tokens without a position (class tokens) precede those at the positions `positions`.
    """

    axis: str
    stride: int
    size: int
    before: int = 0
    positions: "Dimension" = ()


Dimension = tuple[Factor, ...]
"""A dimension of a tensor: its factors, the slowest first; () if its size is 1."""
Dimensions = tuple[Dimension, ...]


@dataclass(frozen=True)
class Layout:
    """Where the channels, rows and columns of the images are in a layer's output."""

    dimensions: Dimensions

    @property
    def has_positions(self) -> bool:
        """Whether the output has rows and columns; if not, each channel is a single value."""
        return len(self.dimensions) == 4 or any(it.axis in "HWT" for dim in self.dimensions for it in dim)

    def maps(self, output: Tensor) -> Tensor:
        """Return the output as N x C x H x W, without tokens that have no position; gradients flow through."""
        factors: list[Factor] = []
        for number, dimension in enumerate(self.dimensions):
            if _is_tokens(dimension):
                tokens = dimension[0]
                output = output.narrow(number, tokens.before, _size(tokens.positions))
                dimension = tokens.positions
            factors += dimension
        order = [number for axis in "NCHW" for number in _places(factors, axis)]
        sizes = [math.prod(factors[number].size for number in _places(factors, axis)) for axis in "NCHW"]
        return output.reshape([it.size for it in factors]).permute(order).reshape(sizes)


class AxisTracker(TorchDispatchMode):
    """A context in which every operation on `images`, N x C x H x W, and on what is computed from them, is followed."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.size: Any = images.shape
        self._known = WeakTensorKeyDictionary()
        self._known[images] = tuple(_whole(axis, size) for axis, size in zip("NCHW", images.shape, strict=True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        if any(each in self._known for each in tensors):
            given = [(each, self._known.get(each)) for each in tensors]
            for number, output in enumerate(each for each in tree_leaves(result) if isinstance(each, Tensor)):
                found = _dimensions(func.overloadpacket.__name__.rstrip("_"), args, given, output, number)
                if found is not None and tuple(map(_size, found)) == tuple(output.shape):
                    self._known[output] = _coarsest(found)
                else:
                    self._known.pop(output, None)
        return result

    def layout(self, output: Tensor) -> Layout | None:
        """Return the layout of a layer's output; None if it has none, or if it cannot be told.

        An output whose axes got lost is read by its shape if only one reading fits the size of the images.
        """
        if output.ndim == 2 and len(output) == self.size[0]:
            return Layout((_whole("N", len(output)), _whole("C", output.shape[1])))
        known = self._known.get(output)
        if known is None or any(it.axis == "?" for dimension in known for it in dimension):
            return self._by_shape(output)
        return Layout(known) if _is_complete(known) else None

    def _by_shape(self, output: Tensor) -> Layout | None:
        if output.ndim != 4 or len(output) != self.size[0]:
            return None
        readings = []
        for axes, rows, columns in (("NCHW", 2, 3), ("NHWC", 1, 2)):
            strides = zip((output.shape[rows], output.shape[columns]), self.size[2:], strict=True)
            if set.intersection(*(_strides(part, whole) for part, whole in strides)):
                readings.append(axes)
        if len(readings) != 1:
            return None
        return Layout(tuple(_whole(axis, size) for axis, size in zip(readings[0], output.shape, strict=True)))


Given = Sequence[tuple[Tensor, Dimensions | None]]
"""The tensors of an operation, with their dimensions if they are known."""


def _dimensions(name: str, args: Any, given: Given, output: Tensor, number: int) -> Dimensions | None:
    """Return the dimensions of the result with this number of an aten operation; None if they are unknown."""
    first = given[0][1]
    if name in PRODUCTS:
        return PRODUCTS[name](given, output)
    if name == "cat":
        return _concatenated(args, given, output)
    if first is None or name in REORDERINGS:
        return None if name in REORDERINGS else _elementwise(given, output)
    if name in VIEWS:
        return _regrouped(first, output.shape)
    if name in ("permute", "transpose", "t"):
        return _permuted(name, args, first)
    if name in ("select", "unbind"):
        return _without(first, [args[1] if len(args) > 1 else 0])
    if name == "stack":
        place = (args[1] if len(args) > 1 else 0) % output.ndim
        return (*first[:place], _whole("C", output.shape[place]), *first[place:])
    if name in REDUCTIONS and output.ndim < len(first):
        return _without(first, args[1]) if len(args) > 1 else None
    if name in ("slice", "split", "split_with_sizes"):
        return _sliced(name, args, first, output, number)
    if name == "convolution":
        return (first[0], _whole("C", output.shape[1]), *map(_resized, first[2:], output.shape[2:]))
    return _elementwise(given, output)


def _elementwise(given: Given, output: Tensor) -> Dimensions | None:
    """Return the dimensions of a result whose values are where those of the inputs are: sums, norms, poolings, ..."""
    known = [dimensions for _, dimensions in given if dimensions is not None and len(dimensions) == output.ndim]
    found = []
    for number, size in enumerate(output.shape):
        each = [dimensions[number] for dimensions in known]
        fitting = [it for it in each if _size(it) == size and all(factor.axis != "?" for factor in it)]
        found += [fitting[0]] if fitting else [_resized(each[0], size)] if each else []
    return tuple(found) if known else None


def _regrouped(dimensions: Dimensions, shape: Sequence[int]) -> Dimensions | None:
    """Return the dimensions after a view: the same factors in the same order, split and merged to fit the shape."""
    rest = [it for dimension in dimensions for it in dimension][::-1]
    found = []
    for size in shape:
        own: list[Factor] = []
        while (missing := size // math.prod(it.size for it in own)) > 1:
            if not rest:
                return None
            it = rest.pop()
            if it.size > missing:  # take its slow part, and leave the fast one to the next dimension
                if it.size % missing or it.axis == "T":
                    return None
                fast = it.size // missing
                rest.append(it._replace(size=fast))
                it = it._replace(stride=it.stride * fast, size=missing)
            if own and own[-1].axis == it.axis != "T" and own[-1].stride == it.stride * it.size:
                it = it._replace(size=own.pop().size * it.size)
            own.append(it)
        found.append(tuple(own))
    return tuple(found)


def _permuted(name: str, args: Any, dimensions: Dimensions) -> Dimensions:
    order = list(range(len(dimensions)))
    if name == "permute":
        order = list(args[1])
    elif order:
        first, second = args[1:3] if name == "transpose" else (0, -1)
        order[first], order[second] = order[second], order[first]
    return tuple(dimensions[number] for number in order)


def _without(dimensions: Dimensions, numbers: int | Sequence[int]) -> Dimensions:
    gone = {number % len(dimensions) for number in ([numbers] if isinstance(numbers, int) else numbers)}
    return tuple(dimension for number, dimension in enumerate(dimensions) if number not in gone)


def _linear(given: Given, output: Tensor) -> Dimensions | None:
    """Return the dimensions of inputs x weights; given: [bias,] inputs, weights, or inputs, weights[, bias]."""
    *others, own = next(known for _, known in given if known is not None)
    return (*others, _mixed(own, others, output.shape[-1]))


def _matrix_product(given: Given, output: Tensor) -> Dimensions | None:
    """Return the dimensions of a (batched) matrix product, [bias,] left, right: an attention, or a linear layer."""
    left, right = given[-2][1], given[-1][1]
    if right is None:
        return _linear(given, output) if left is not None else None
    if left is None:
        *others, own, last = right
        return (*others, _mixed(own, [*others, last], output.shape[-2]), last)
    return (*left[:-1], right[-1])


def _mixed(own: Dimension, others: Sequence[Dimension], size: int) -> Dimension:
    """Return a dimension of weighted sums over `own`: channels, unless each channel's positions were mixed."""
    return _unknown(size) if _has("C", *others) and not _has("C", own) else _whole("C", size)


PRODUCTS: dict[str, Callable[[Given, Tensor], Dimensions | None]] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "matmul"), _matrix_product),
    "linear": _linear,
}


def _concatenated(args: Any, given: Given, output: Tensor) -> Dimensions | None:
    place = (args[1] if len(args) > 1 else 0) % output.ndim
    size = output.shape[place]
    parts = [(number, known) for number, (_, known) in enumerate(given) if known is not None]
    placed = [(number, known) for number, known in parts if _has("HWT", known[place])]
    number, base = (placed or parts)[0]
    own = base[place]
    if len(placed) == 1 and len(given) > 1 and (_is_tokens(own) or {it.axis for it in own} == {"H", "W"}):
        tokens = own[0] if _is_tokens(own) else Factor("T", 1, size, 0, own)
        before = tokens.before + sum(each.shape[place] for each, _ in given[:number])
        own = (tokens._replace(size=size, before=before),)
    else:
        own = _resized(own, size) if placed else _whole("C", size)
    return (*base[:place], own, *base[place + 1 :])


def _sliced(name: str, args: Any, dimensions: Dimensions, output: Tensor, number: int) -> Dimensions:
    """Return the dimensions of a part of a tensor: what is left of tokens, and a shorter axis of anything else."""
    if name == "slice":
        given: tuple[Any, ...] = (*args[1:], *(0, 0, None, 1)[len(args) - 1 :])
        place, start, _, step = given
    else:
        place, step = args[2] if len(args) > 2 else 0, 1
        start = number * args[1] if isinstance(args[1], int) else sum(args[1][:number])
    own, size = dimensions[place], output.shape[place]
    if _is_tokens(own) and step == 1 and size < own[0].size:
        tokens, count = own[0], _size(own[0].positions)
        before = tokens.before - (start or 0) % tokens.size
        inside = before >= 0 and size >= before + count
        own = (tokens._replace(size=size, before=before),) if inside else _unknown(size)
        own = tokens.positions if inside and size == count else own
    else:
        own = _resized(own, size)
    place %= len(dimensions)
    return (*dimensions[:place], own, *dimensions[place + 1 :])


# --- Dimensions ---


def _whole(axis: str, size: int) -> Dimension:
    return (Factor(axis, 1, size),) if size > 1 else ()


def _unknown(size: int) -> Dimension:
    return _whole("?", size)


def _size(dimension: Dimension) -> int:
    return math.prod(it.size for it in dimension)


def _has(axes: str, *dimensions: Dimension) -> bool:
    return any(it.axis in axes for dimension in dimensions for it in dimension)


def _is_tokens(dimension: Dimension) -> bool:
    return len(dimension) == 1 and dimension[0].axis == "T"


def _resized(dimension: Dimension, size: int) -> Dimension:
    """Return the dimension at another size, as after pooling or padding; unknown if it is more than one axis."""
    axes = {it.axis for it in dimension}
    if _size(dimension) == size:
        return dimension
    if axes == {"C"} or (len(dimension) == 1 and axes <= {"H", "W"} and dimension[0].stride == 1):
        return _whole(axes.pop(), size)
    return _unknown(size)


def _coarsest(dimensions: Dimensions) -> Dimensions:
    """Return the dimensions with the smallest stride of rows and of columns as 1: merged patches are new positions."""
    for axis in "HW":
        least = min((it.stride for dimension in dimensions for it in dimension if it.axis == axis), default=1)
        if least > 1:
            dimensions = tuple(
                tuple(it._replace(stride=it.stride // least) if it.axis == axis else it for it in dimension)
                for dimension in dimensions
            )
    return dimensions


def _is_complete(dimensions: Dimensions) -> bool:
    """Return whether images come first, and every row and column occurs once: attentions and windows have others."""
    first, *others = dimensions
    if any(it.axis != "N" for it in first) or _has("N", *others):
        return False
    factors = [it for dim in others for it in (dim[0].positions if _is_tokens(dim) else dim)]
    for axis in "HW":
        stride = 1
        for number in reversed(_places(factors, axis)):
            if factors[number].stride != stride:
                return False
            stride *= factors[number].size
    return not _has("T", tuple(factors))


def _places(factors: Sequence[Factor], axis: str) -> list[int]:
    """Return where the factors of an axis are: channels as they come, the others from the slowest to the fastest."""
    places = [number for number, it in enumerate(factors) if it.axis == axis]
    return places if axis == "C" else sorted(places, key=lambda number: -factors[number].stride)


def _strides(part: int, whole: int) -> set[int]:
    """Return the strides at which `whole` pixels become `part` positions, rounded down or up."""
    return {stride for stride in range(1, whole + 1) if part in (whole // stride, -(-whole // stride))}
