"""`what=filters`: the weights of a convolution as pictures."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.explain.album import Album
from cnnlab.explain.feature_maps import first_conv, layer_patterns, resolve_layers
from cnnlab.explain.grids import colour_filters, diverging, finite, magnitudes
from cnnlab.explain.sheets import CAPTION, font, grid, side_by_side, titled
from cnnlab.explain.subject import Subject

WIDTH = 1000
DEAD = 0.02
"""A filter is dead whose largest weight is below this share of the layer's largest."""


@dataclass
class Options:
    """layer: an index that counts the stages, a name or a glob; `first` is the first convolution.

    scale: filter (each by its largest magnitude) or layer (all by one). kernels: how many filters (rows) and input
    channels (columns) are shown at most of a layer whose filters have no colours.
    """

    layer: str = "first"
    scale: str = "filter"
    kernels: int = 32


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write filters_<layer>.png and .json for each convolution that is meant; returns them.

    Of a layer that the run logged while it trained, film_<layer>.gif and .png show how its filters came about.
    """
    if options.kernels < 1:
        raise InputError(f"kernels={options.kernels}: at least 1 is needed.")
    with Album(output) as album:
        for name, conv in convolutions(subject.network, options.layer).items():
            weight = conv.weight.detach().cpu()
            picture = filters_sheet(f"{subject.name} · {name}", weight, options.scale, options.kernels)
            album.add(f"filters_{name}", picture, tag=f"filters/{name}")
            album.numbers(f"filters_{name}", describe_filters(weight))
            if subject.run and len(frames := logged_pictures(subject.run, f"filters/{name}")) > 1:
                album.film(f"film_{name}", frames)
    return album.paths


def convolutions(network: nn.Module, layer: str) -> dict[str, nn.Conv2d]:
    """The convolutions that `layer` means; raises InputError if it is none."""
    if layer == "first":
        return dict([first_conv(network)])
    found = resolve_layers(network, layer_patterns(layer))
    convs = {name: module for name, module in found.items() if isinstance(module, nn.Conv2d)}
    if not convs:
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        some = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise InputError(f"layer={layer} is no convolution. Convolutions: {some}.")
    return convs


def logged_pictures(run: Path, tag: str) -> list[Image.Image]:
    """The images that a run's TensorBoard events have under `tag`, in order of their steps."""
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    if tag not in events.Tags()["images"]:
        return []
    by_step = {entry.step: entry.encoded_image_string for entry in events.Images(tag)}
    return [Image.open(io.BytesIO(by_step[step])).convert("RGB") for step in sorted(by_step)]


def describe_filters(weight_OIHW: Tensor) -> dict[str, Any]:
    """The numbers behind the pictures of filters."""
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
    """The filters that hardly answer to anything: max |w| below 2 % of the layer's."""
    each = magnitudes(weight_OIHW).flatten()
    return (each <= DEAD * each.max()).nonzero().flatten().tolist()


def filters_sheet(
    title: str, weight_OIHW: Tensor, scale: str = "filter", kernels: int = 32, width: int = WIDTH
) -> Image.Image:
    """Filters of three input channels in colour, zero in mid-grey; others in a diverging map, a single input channel as
    a grid, several as rows of filters by columns of input channels. Dead filters are crossed."""
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
    """The diverging map from -end to +end."""
    values = torch.linspace(1, -1, height)[:, None].expand(height, 18)
    page = Image.new("RGB", (110, height + 4), "white")
    page.paste(Image.fromarray(diverging(values, 1.0).permute(1, 2, 0).contiguous().numpy()), (0, 2))
    pen = ImageDraw.Draw(page)
    for y, text in ((0, f"+{end}"), (height // 2 - 6, "0"), (height - 12, f"-{end}")):
        pen.text((24, y), text, fill="black", font=font(CAPTION))
    return page


def _tiles(pixels_N3HW: Tensor, width: int, columns: int | None = None) -> list[Image.Image]:
    """Enlarged by the whole factor with which all of them in rows come nearest to `width`."""
    columns = columns or math.ceil(math.sqrt(len(pixels_N3HW)))
    factor = max(1, min(140, width // columns) // max(pixels_N3HW.shape[-2:]))
    large = pixels_N3HW.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return [Image.fromarray(pixels) for pixels in large.permute(0, 2, 3, 1).contiguous().numpy()]


def _captions(largest: Tensor) -> list[str]:
    return [f"{number}  ±{value:.2g}" for number, value in enumerate(largest.flatten().tolist())]
