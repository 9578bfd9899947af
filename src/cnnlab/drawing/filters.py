"""Draw the filters of a convolution as tiles, in colour or in a diverging colour map."""

import math
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cnnlab.drawing.grids import colour_filters, diverging, finite, magnitudes
from cnnlab.drawing.sheets import CAPTION, grid, side_by_side, titled
from cnnlab.system.fonts import draw_text

WIDTH = 1000
DEAD = 0.02
"""A filter is dead if its largest |w| is at most this share of the layer's largest."""


def describe_filters(weight_OIHW: Tensor) -> dict[str, Any]:
    """Return the numbers behind a picture of filters: shape, range, dead filters, and each filter's range and norm."""
    weight = finite(weight_OIHW)
    return {
        "shape": list(weight.shape),
        "min": float(weight.min()),
        "max": float(weight.max()),
        "dead": dead_filters(weight),
        "filters": [
            {"min": float(each.min()), "max": float(each.max()), "norm": float(each.norm())} for each in weight
        ],
    }


def dead_filters(weight_OIHW: Tensor) -> list[int]:
    """Return the indices of the filters whose max |w| is at most 2 % of the layer's: they respond to almost nothing."""
    each = magnitudes(weight_OIHW).flatten()
    return (each <= DEAD * each.max()).nonzero().flatten().tolist()


def filters_sheet(
    title: str, weight_OIHW: Tensor, scale: str = "filter", kernels: int = 32, width: int = WIDTH
) -> Image.Image:
    """Draw filters below a title with their numbers; dead filters are crossed.

    Filters of three input channels are in colour, with zero in mid-grey; others are in a diverging map: a grid for a
    single input channel, else rows of filters by columns of input channels.
    scale: see `magnitudes`. kernels: largest number of rows and columns. width: pixels.
    """
    count, depth, height, across = weight_OIHW.shape
    numbers = describe_filters(weight_OIHW)
    lines = [
        f"{count} filters of {depth} x {height} x {across} · weights {numbers['min']:.3g} to {numbers['max']:.3g} · "
        f"{len(numbers['dead'])} of {count} dead" + (" (crossed: below 2 % of the largest)" if numbers["dead"] else "")
    ]
    largest = magnitudes(weight_OIHW, scale)
    own = "each filter by its own largest magnitude" if scale == "filter" else "all filters by the largest magnitude"
    if depth == 3:
        pixels = colour_filters(weight_OIHW, scale)
        tiles, captions = _tiles(pixels, width), _captions(largest)
        lines.append(f"in colour, 0 is grey, {own}" + (" (written above it)" if scale == "filter" else ""))
        return titled(grid(tiles, captions, numbers["dead"]), title, *lines)
    bar = colour_bar("1 x its largest" if scale == "filter" else f"{float(largest.max()):.3g}")
    lines.append(f"blue below 0, red above, {own}")
    if depth == 1:
        tiles = _tiles(diverging(weight_OIHW[:, 0], largest[:, 0]), width)
        return titled(side_by_side([grid(tiles, _captions(largest), numbers["dead"]), bar]), title, *lines)
    rows, columns = min(count, kernels), min(depth, kernels)
    lines.append(f"rows: filters 0 to {rows - 1} of {count}; columns: input channels 0 to {columns - 1} of {depth}")
    shown = diverging(weight_OIHW[:rows, :columns], largest[:rows])
    tiles = _tiles(shown.flatten(0, 1), width, columns)
    dead = [row * columns + column for row in numbers["dead"] if row < rows for column in range(columns)]
    return titled(side_by_side([grid(tiles, dead=dead, columns=columns, gap=2, line="darkgrey"), bar]), title, *lines)


def colour_bar(end: str, height: int = 160) -> Image.Image:
    """Draw the legend of the diverging map, from -end to +end."""
    values = torch.linspace(1, -1, height)[:, None].expand(height, 18)
    page = Image.new("RGB", (110, height + 4), "white")
    page.paste(Image.fromarray(diverging(values, 1.0).permute(1, 2, 0).contiguous().numpy()), (0, 2))
    pen = ImageDraw.Draw(page)
    for y, text in ((0, f"+{end}"), (height // 2 - 6, "0"), (height - 12, f"-{end}")):
        draw_text(pen, (24, y), text, CAPTION, "black")
    return page


def _tiles(pixels_N3HW: Tensor, width: int, columns: int | None = None) -> list[Image.Image]:
    """Return each filter as an image, enlarged by the largest whole factor at which the rows fit into `width`."""
    columns = columns or math.ceil(math.sqrt(len(pixels_N3HW)))
    factor = max(1, min(140, width // columns) // max(pixels_N3HW.shape[-2:]))
    large = pixels_N3HW.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return [Image.fromarray(pixels) for pixels in large.permute(0, 2, 3, 1).contiguous().numpy()]


def _captions(largest: Tensor) -> list[str]:
    return [f"{number}  ±{value:.2g}" for number, value in enumerate(largest.flatten().tolist())]
