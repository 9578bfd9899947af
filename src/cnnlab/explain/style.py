"""`what=style`: the content of one image in the style of another (Gatys et al. 2016)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from cnnlab.data.decoding import decode, to_pixels
from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import SMALLEST, Subject
from cnnlab.models.feature_maps import layer_maps, layer_patterns, resolve_layers
from cnnlab.models.gradients import differentiable


@dataclass
class Options:
    """Draw the content of one image in the style of another.

    content: image file.
    style: image file.
    size: longer side of the result, in pixels.
    steps: total number of Adam steps.
    scales: number of sizes, doubling up to size, that the steps are divided among.
    lr: learning rate of Adam.
    content_weight: weight of the relative error of the content.
    style_weight: weight of the relative error of the Gram matrices.
    tv_weight: weight of the total variation.
    keep_colors: keep the colours of the content, and take only the brightness from the result.
    style_layers: layers of the style; the default is VGG16's relu1_1, 2_1, 3_1, 4_1 and 5_1.
    content_layer: layer of the content; the default is VGG16's relu4_2.
    """

    content: str | None = None
    style: str | None = None
    size: int = 256
    steps: int = 200
    scales: int = 2
    lr: float = 0.02
    content_weight: float = 1.0
    style_weight: float = 10.0
    tv_weight: float = 5.0
    keep_colors: bool = False
    style_layers: str = "features.1,features.6,features.11,features.18,features.25"
    content_layer: str = "features.20"


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write style.png (content, style, result), result.png, strip.png (intermediate steps) and style.json (losses).

    The losses are also logged to TensorBoard.
    """
    if options.steps < 1 or options.scales < 1 or options.size < 2 ** (options.scales + 3):
        raise InputError(
            f"steps={options.steps} and scales={options.scales} must be at least 1, and size={options.size} at least "
            f"{2 ** (options.scales + 3)} (2 ** (scales + 3))."
        )
    content, style = (_read(subject, name, getattr(options, name), options.size) for name in ("content", "style"))
    network = subject.network.requires_grad_(False).to(memory_format=torch.channels_last)
    layers = resolve_layers(network, layer_patterns(options.style_layers + "," + options.content_layer))
    transfer = Transfer(network, subject.preprocessing, layers, options)
    frames: list[Image.Image] = []
    losses: list[dict[str, float]] = []
    image = content
    with Album(output) as album, tqdm(total=options.steps, desc="Painting", unit="step", disable=None) as bar:
        for scale in range(options.scales):
            factor = 2 ** (scale + 1 - options.scales)
            scaled_content, scaled_style = (_scaled(each, factor) for each in (content, style))
            image = F.interpolate(image, scaled_content.shape[-2:], mode="bilinear", antialias=True)
            steps = options.steps // options.scales + (options.steps % options.scales if scale == 0 else 0)
            for painted, loss in transfer.paint(image, scaled_content, scaled_style, steps):
                image = painted
                if len(losses) % -(-options.steps // 7) == 0:
                    frames.append(_frame(image, len(losses), loss))
                for name, value in loss.items():
                    album.events.add_scalar(f"style/{name}", value, len(losses))
                losses.append(loss)
                bar.update()
        frames.append(_frame(image, len(losses), losses[-1]))
        result = tensor_image(to_uint8(image[0]))
        result = with_colors_of(tensor_image(to_uint8(content[0])), result) if options.keep_colors else result
        shown = [resized(tensor_image(to_uint8(content[0])), 320), resized(tensor_image(to_uint8(style[0])), 320)]
        sheet = grid([*shown, resized(result, 320)], ["content", "style", "result"], columns=3, gap=8, below=True)
        what = f"{options.steps} steps, content {options.content_weight:g}, style {options.style_weight:g}"
        album.add("style", titled(sheet, f"{subject.name} · style transfer", what))
        album.add("result", result)
        album.add("strip", grid(frames, columns=4, gap=6))
        album.numbers("style", {"losses": losses})
    return album.paths


class Transfer:
    """Minimizes the content, style and total-variation losses of an image."""

    def __init__(
        self, network: nn.Module, preprocessing: nn.Module, layers: Mapping[str, nn.Module], options: Options
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.layers = layers
        self.options = options
        self.content_layer = next(iter(resolve_layers(network, layer_patterns(options.content_layer))))
        self.style_layers = list(resolve_layers(network, layer_patterns(options.style_layers)))

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Return layer -> its maps for an image in [0, 1]."""
        return layer_maps(self.network, self.preprocessing(image), self.layers)

    def paint(
        self, image: Tensor, content: Tensor, style: Tensor, steps: int
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield the image, clamped to [0, 1], after each Adam step, and its losses before that step."""
        options = self.options
        with torch.no_grad():
            wanted = self.outputs(content)[self.content_layer]
            of_style = self.outputs(style)
            grams = {name: gram(of_style[name]) for name in self.style_layers}
        with differentiable(image) as (variable,):
            optimizer = torch.optim.Adam([variable], lr=options.lr)
        for _ in range(steps):
            with differentiable():
                found = self.outputs(variable)
                terms = {
                    "content": options.content_weight * relative_error(found[self.content_layer], wanted),
                    "style": options.style_weight
                    * torch.stack([relative_error(gram(found[name]), grams[name]) for name in grams]).mean(),
                    "tv": options.tv_weight * total_variation(variable),
                }
                loss = torch.stack(list(terms.values())).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                variable.clamp_(0, 1)
            yield variable.detach().clone(), {name: float(value.detach()) for name, value in terms.items()}


def gram(maps_1CHW: Tensor) -> Tensor:
    """Return the C x C inner products of the channels over all positions, divided by C * H * W.

    Gatys et al. 2016, equation 3.
    """
    _, channels, height, width = maps_1CHW.shape
    rows = maps_1CHW[0].reshape(channels, -1)
    return rows @ rows.T / (channels * height * width)


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return |found - wanted|^2 / |wanted|^2, which has the same scale in every layer, network and image."""
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels."""
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return down + (images[..., :, 1:] - images[..., :, :-1]).square().mean()


def with_colors_of(content: Image.Image, result: Image.Image) -> Image.Image:
    """Return the brightness of `result` with the colours of `content`; a grey content leaves it unchanged.

    Gatys et al. 2016, Preserving Color, section 3.2.
    """
    if content.mode == "L":
        return result
    brightness = result.convert("YCbCr").split()[0]
    _, blue, red = content.resize(result.size).convert("YCbCr").split()
    return Image.merge("YCbCr", (brightness, blue, red)).convert("RGB")


def _read(subject: Subject, key: str, path: str | None, size: int) -> Tensor:
    """Read an image as float32 1 x C x H x W in [0, 1], resized to a longer side of `size`."""
    if path is None:
        raise InputError(f"{key}=FILE is required: content=FILE style=FILE.")
    image = decode(Path(path), subject.spec.channels, subject.spec.ranges or {})
    if min(image.size) < SMALLEST:
        raise InputError(f"{key}={path} has {image.width} x {image.height} pixels; {SMALLEST} a side are needed.")
    factor = size / max(image.size)
    image = image.resize(
        (max(SMALLEST, round(image.width * factor)), max(SMALLEST, round(image.height * factor))),
        Image.Resampling.LANCZOS,
    )
    return to_pixels(image)[None].float() / 255


def _scaled(image: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=factor, mode="bilinear", antialias=True, recompute_scale_factor=True)


def _frame(image: Tensor, step: int, loss: dict[str, float]) -> Image.Image:
    text = f"step {step}: content {loss['content']:.3g}, style {loss['style']:.3g}"
    return grid([resized(tensor_image(to_uint8(image[0])), 256)], [text], below=True)
