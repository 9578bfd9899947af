"""`what=maximize`: images grown from noise to maximize the response of a class or channel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.maps import layer_title
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.feature_maps import layer_maps, layer_patterns, resolve_layers, stage_index
from cnnlab.models.gradients import differentiable
from cnnlab.seeds import derived_rng

TILE = 160
SHOWN = 9
"""Number of channels or classes that are drawn if none is named."""
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the colour covariance of ImageNet (Olah et al. 2017, lucid's color_correlation_svd_sqrt)."""


@dataclass
class Options:
    """Draw images grown from noise to maximize the response of a class or channel.

    target: classes (names or numbers, separated by commas); null: the first nine, unless layer is given.
    layer: index of a stage, or a name.
    channels: channels of the layer, such as 0,5,7.
    size: side of the image in pixels; null: the network's input size.
    steps: number of optimization steps.
    lr: learning rate of Adam.
    jitter: largest random shift in each step, in pixels; null: a sixteenth of the size.
    seed: seed of the noise and of the shifts.
    """

    target: str | None = None
    layer: str | None = None
    channels: str = ",".join(map(str, range(SHOWN)))
    size: int | None = None
    steps: int = 200
    lr: float = 0.05
    jitter: int | None = None
    seed: int = 0


class FourierImages(nn.Module):
    """Images in (0, 1) with their scaled spectrum as parameters, and decorrelated colours (Olah et al. 2017).

    The spectrum is scaled by 1 / frequency. Equal steps in the spectrum change all frequencies alike; steps in pixels
    would favour the highest ones.
    """

    scale: Tensor

    def __init__(self, count: int, channels: int, size: int) -> None:
        super().__init__()
        frequencies = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
        self.size = size
        self.register_buffer("scale", size / frequencies.clamp_min(1 / size))
        self.spectrum = nn.Parameter(0.01 * torch.randn(count, channels, *frequencies.shape, 2))

    def forward(self) -> Tensor:
        """Return the images, N x C x size x size."""
        spectrum = torch.view_as_complex(self.spectrum) * self.scale
        images = torch.fft.irfft2(spectrum, s=(self.size, self.size)) / 4
        if images.shape[1] == 3:
            colours = torch.tensor(COLOURS)
            images = torch.einsum("nchw,dc->ndhw", images, colours / colours.norm(dim=0).max())
        return images.sigmoid()


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write maximize.png, maximize.json and film.gif, which shows how the images grow."""
    if options.steps < 1:
        raise InputError(f"steps={options.steps}: at least 1 is needed.")
    title, names, objective = goals(subject, options)
    size = options.size or subject.spec.image_size
    jitter = size // 16 if options.jitter is None else options.jitter
    with derived_rng(options.seed, "maximize"), Album(output) as album:
        images = FourierImages(len(names), subject.spec.channels, size)
        frames, values = [], []
        kept = {0, options.steps // 16, options.steps // 8, options.steps // 4, options.steps // 2, options.steps}
        for step, (pixels, value) in enumerate(ascend(images, objective, options.steps, options.lr, jitter)):
            values.append(value)
            if step in kept:
                frames.append(_sheet(f"{title} · step {step}", pixels, names, value))
                album.events.add_scalar("maximize/mean", float(value.mean()), step)
        album.film("film", frames, columns=3)
        album.add("maximize", _sheet(title, pixels, names, values[-1]))
        starts, ends = values[0].tolist(), values[-1].tolist()
        album.numbers(
            "maximize",
            {name: {"start": start, "end": end} for name, start, end in zip(names, starts, ends, strict=True)},
        )
    return album.paths


def goals(subject: Subject, options: Options) -> tuple[str, list[str], Callable[[Tensor], Tensor]]:
    """Return the title, the name of each goal, and the objective: pixels N x C x H x W -> N, image i for goal i."""
    if options.layer is None:
        asked = layer_patterns(options.target or ",".join(map(str, range(min(SHOWN, len(subject.classes))))))
        classes = [subject.class_index(text) for text in asked]

        def logits(pixels: Tensor) -> Tensor:
            return subject.model(pixels)[range(len(classes)), classes]

        return f"{subject.name} · what a class looks for", [subject.classes[index] for index in classes], logits
    blank = subject.preprocessing(torch.zeros(1, subject.spec.channels, *2 * [subject.spec.image_size]))
    name, layer = next(iter(resolve_layers(subject.network, layer_patterns(options.layer), blank).items()))
    with torch.no_grad():
        count = layer_maps(subject.network, blank, {name: layer})[name].shape[1]
    channels = channel_numbers(options.channels, count, options.channels == Options.channels)

    def answers(pixels: Tensor) -> Tensor:
        found = layer_maps(subject.network, subject.preprocessing(pixels), {name: layer})[name]
        return found.flatten(2).mean(2)[range(len(channels)), channels]

    title = layer_title(subject.name, name, layer, stage_index(subject.network, name))
    return title, [f"channel {channel}" for channel in channels], answers


def channel_numbers(text: str, count: int, clipped: bool = False) -> list[int]:
    """Parse channel numbers such as 0,5,7.

    clipped: drop numbers that are not below `count` instead of raising InputError.
    """
    patterns = layer_patterns(text)
    numbers = [int(pattern) for pattern in patterns if pattern.isdigit()]
    wrong = [pattern for pattern in patterns if not pattern.isdigit()] + [str(n) for n in numbers if n >= count]
    if not numbers or (wrong and not clipped):
        raise InputError(f"channels={text}: the layer has channels 0 to {count - 1}.")
    return [number for number in numbers if number < count]


def ascend(
    images: FourierImages, objective: Callable[[Tensor], Tensor], steps: int, lr: float, jitter: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pixels and the values of the goals at the start and after each Adam step on shifted images."""
    optimizer = torch.optim.Adam(images.parameters(), lr=lr)
    for _ in tqdm(range(steps), "Growing", unit="step", disable=None):
        with differentiable():
            pixels = images()
            value = objective(_shifted(pixels, jitter))
            optimizer.zero_grad()
            (-value.sum()).backward()
        yield pixels.detach(), value.detach()
        optimizer.step()
    with torch.no_grad():
        yield images(), objective(images())


def _shifted(pixels: Tensor, jitter: int) -> Tensor:
    if not jitter:
        return pixels
    down, right = torch.randint(-jitter, jitter + 1, (2,)).tolist()
    return pixels.roll((down, right), (2, 3))


def _sheet(title: str, pixels: Tensor, names: list[str], values: Tensor) -> Image.Image:
    tiles = [resized(tensor_image(image), max(TILE, image.shape[-1])) for image in to_uint8(pixels)]
    captions = [f"{name}\n{value:.3g}" for name, value in zip(names, values.tolist(), strict=True)]
    return titled(
        grid(tiles, captions, gap=6, below=True), title, "grown from noise; below each, its goal and the value reached"
    )
