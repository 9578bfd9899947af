"""Draw feature maps as grids of grey channels, with the numbers behind them."""

import math
from typing import Any

from PIL import Image
from torch import Tensor, nn

from cnnlab.drawing.grids import finite, grey_maps
from cnnlab.drawing.sheets import grid, side_by_side, titled
from cnnlab.models.receptive_fields import Field

GRID = 1000
"""Target width of a grid in pixels; channels are enlarged by whole factors, so it is rarely met exactly."""
NONLINEAR = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)


def layer_title(network: str, name: str, layer: nn.Module, index: int | None = None) -> str:
    """Return a title such as "vgg16 · features.0 (layer 0) · Conv2d, before the nonlinearity"."""
    kind = type(layer).__name__
    if isinstance(layer, NONLINEAR):
        kind += ", after the nonlinearity"
    elif isinstance(layer, nn.Conv2d):
        kind += ", before the nonlinearity"
    return " · ".join([network, name if index is None else f"{name} (layer {index})", kind])


def describe_maps(maps_CHW: Tensor, field: Field | None) -> dict[str, Any]:
    """Return the numbers behind a grid of channels.

    shape: C, H, W. zeros: share of values that are exactly 0. dead: number of channels that are 0 everywhere.
    stride, receptive_field: in pixels of the network's input; a pair if height and width differ, None if unknown.
    """
    maps = finite(maps_CHW)
    dead = (maps == 0).all(dim=2).all(dim=1)
    channels = [
        {"min": float(each.min()), "max": float(each.max()), "mean": float(each.mean()), "zeros": share_of_zeros(each)}
        for each in maps
    ]
    return {
        "shape": list(maps.shape),
        "min": float(maps.min()),
        "max": float(maps.max()),
        "zeros": share_of_zeros(maps),
        "dead": int(dead.sum()),
        "dead_channels": dead.nonzero().flatten().tolist(),
        "stride": field and field.stride,
        "receptive_field": field and field.size,
        "channels": channels,
    }


def share_of_zeros(values: Tensor) -> float:
    return float((values == 0).float().mean())


def channel_tiles(maps_CHW: Tensor, scale: str, least: int) -> list[Image.Image]:
    """Return each channel in grey, enlarged by the smallest whole factor that makes its longer side >= `least`."""
    factor = max(1, math.ceil(least / max(maps_CHW.shape[1:])))
    large = grey_maps(maps_CHW, scale).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return [Image.fromarray(pixels) for pixels in large.numpy()]


def maps_sheet(
    title: str,
    maps_CHW: Tensor,
    numbers: dict[str, Any],
    scale: str = "channel",
    image: Image.Image | None = None,
    image_name: str = "",
    width: int = GRID,
) -> Image.Image:
    """Draw all channels in a near-square grid below a title with their numbers, beside the input image."""
    count, height, across = maps_CHW.shape
    columns = math.ceil(math.sqrt(count))
    tiles = channel_tiles(maps_CHW, scale, min(160, max(40, width // columns)))
    picture = grid(tiles, [str(channel) for channel in range(count)], numbers["dead_channels"], columns)
    if image is not None:
        picture = side_by_side([grid([image], [image_name]), picture])
    lines = [
        f"{count} channels of {height} x {across} · values {numbers['min']:.3g} to {numbers['max']:.3g} · "
        f"{numbers['zeros']:.0%} zeros · {numbers['dead']} of {count} dead" + (" (crossed)" if numbers["dead"] else ""),
        " · ".join([*_seen(numbers), scale_text(scale, numbers["min"])]),
    ]
    return titled(picture, title, *lines)


def scale_text(scale: str, least: float) -> str:
    own = "each channel to its own range" if scale == "channel" else "all channels to one range"
    return f"{own}, {'0 is black' if least >= 0 else 'dark is low, 0 within'}"


def _seen(numbers: dict[str, Any]) -> list[str]:
    if numbers["stride"] is None:
        return []
    size, stride = (
        [each] if isinstance(each, int) else each for each in (numbers["receptive_field"], numbers["stride"])
    )
    return [f"receptive field {size[0]} x {size[-1]} pixels", f"stride {' x '.join(map(str, stride))}"]
