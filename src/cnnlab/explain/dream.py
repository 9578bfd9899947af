"""`what=dream`: amplify what a layer sees in an image, octave by octave (Mordvintsev et al. 2015)."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from cnnlab.data.decoding import decode, to_pixels
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.maps import layer_title
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import DataError, InputError
from cnnlab.explain.maximize import channel_numbers
from cnnlab.explain.subject import SMALLEST, Subject
from cnnlab.models.feature_maps import layer_maps, layer_patterns, resolve_layers, stage_index
from cnnlab.models.gradients import input_gradient
from cnnlab.seeds import derived_rng
from cnnlab.system.files import load_tensors, write_bytes


@dataclass
class Options:
    """Draw what a layer sees in an image, amplified octave by octave.

    image: a file; null: the first validation image.
    layer: index of a stage, or a name; null: the middle stage.
    channel: one channel of the layer; null: all of them.
    size: largest length of the longer side, in pixels.
    octaves: number of image sizes.
    scale: ratio of one size to the next.
    steps: number of gradient steps at each size.
    lr: mean change of a pixel in each step.
    jitter: largest random shift in each step, in pixels.
    seed: seed of the shifts.
    """

    image: str | None = None
    layer: str | None = None
    channel: int | None = None
    size: int = 448
    octaves: int = 4
    scale: float = 1.4
    steps: int = 12
    lr: float = 0.012
    jitter: int = 24
    seed: int = 0


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write dream.png, strip.png (the image after each octave) and dream.json.

    Octaves too small for the layer are left out. The state is saved to state.safetensors after each octave, so that the
    same command continues an interrupted dream.
    """
    if options.octaves < 1 or options.steps < 1 or options.scale <= 1:
        raise InputError("octaves and steps must be at least 1, and scale must be larger than 1.")
    image = source(subject, options)
    blank = subject.preprocessing(torch.zeros(1, subject.spec.channels, *2 * [subject.spec.image_size]))
    layers = resolve_layers(subject.network, layer_patterns(options.layer or "auto"), blank)
    name = list(layers)[0 if options.layer else len(layers) // 2]
    layer = layers[name]
    with torch.no_grad():
        count = layer_maps(subject.network, blank, {name: layer})[name].shape[1]
    if options.channel is not None:
        channel_numbers(str(options.channel), count)

    def answer(pixels: Tensor) -> Tensor:
        found = layer_maps(subject.network, subject.preprocessing(pixels), {name: layer})[name]
        chosen = found if options.channel is None else found[:, options.channel]
        return chosen.flatten(1).square().mean(1) if options.channel is None else chosen.flatten(1).mean(1)

    sizes = [s for s in octave_sizes(image.shape[2:], options.octaves, options.scale) if _takes(answer, image, s)]
    if not sizes:
        raise InputError(
            f"{subject.name} up to {name} does not accept an image of {image.shape[2]} x {image.shape[3]} pixels. "
            f"Its own input has {subject.spec.image_size} x {subject.spec.image_size}: use an image of this size."
        )
    state = State(output / "state.safetensors", fingerprint(subject, options, image))
    details = state.read()
    title = layer_title(subject.name, name, layer, stage_index(subject.network, name))
    title += "" if options.channel is None else f", channel {options.channel}"
    with Album(output) as album:
        if details:
            print(f"Continuing after octave {len(details)} of {len(sizes)}.")
        for octave in range(len(details), len(sizes)):
            base = F.interpolate(image, sizes[octave], mode="bilinear", antialias=True)
            before = F.interpolate(details[-1], sizes[octave], mode="bilinear") if details else torch.zeros_like(base)
            dreamed = (base + before).clamp(0, 1)
            for step in tqdm(range(options.steps), f"Octave {octave + 1} of {len(sizes)}", unit="step", disable=None):
                with derived_rng(options.seed, "dream", octave, step):
                    down, right = torch.randint(-options.jitter, options.jitter + 1, (2,)).tolist()
                gradient = input_gradient(answer, dreamed.roll((down, right), (2, 3))).roll((-down, -right), (2, 3))
                length = gradient.abs().mean().clamp_min(1e-12)
                dreamed = (dreamed + options.lr * gradient / length).clamp(0, 1)
            details.append(dreamed - base)
            state.write(details)
        pictures = [
            image,
            *(
                F.interpolate(image, s, mode="bilinear", antialias=True) + d
                for s, d in zip(sizes, details, strict=True)
            ),
        ]
        tiles = [resized(tensor_image(to_uint8(each[0])), 224) for each in pictures]
        captions = ["the image", *(f"octave {n + 1}: {h} x {w}" for n, (h, w) in enumerate(sizes))]
        album.add("strip", titled(grid(tiles, captions, columns=len(tiles), gap=6, below=True), title))
        album.add("dream", tensor_image(to_uint8(pictures[-1][0])))
        with torch.no_grad():
            answers = [float(answer(pixels)) for pixels in (image, pictures[-1])]
        album.numbers("dream", {"layer": name, "octaves": sizes, "start": answers[0], "end": answers[1]})
    state.path.unlink(missing_ok=True)
    return album.paths


def source(subject: Subject, options: Options) -> Tensor:
    """Return the image as float32 1 x C x H x W in [0, 1], its longer side at most `options.size` pixels."""
    if options.image is None:
        return subject.picture(None).batch
    picture = decode(find_pictures(Path(options.image))[1][0], subject.spec.channels, subject.spec.ranges or {})
    if min(picture.size) < SMALLEST:
        raise DataError(f"{options.image} has {picture.width} x {picture.height} pixels; {SMALLEST} a side are needed.")
    picture.thumbnail((options.size, options.size), Image.Resampling.LANCZOS)
    return to_pixels(picture)[None].float() / 255


def octave_sizes(size: Sequence[int], octaves: int, scale: float) -> list[tuple[int, int]]:
    """Return (height, width) of each octave, from the smallest to the size of the image."""
    height, width = size
    return [(round(height / scale**k), round(width / scale**k)) for k in reversed(range(octaves))]


@torch.no_grad()
def _takes(answer: Callable[[Tensor], Tensor], image: Tensor, size: tuple[int, int]) -> bool:
    """Return whether the layers accept images of a size: small maps vanish, and some preprocessing fixes the size."""
    try:
        return bool(answer(F.interpolate(image, size)).isfinite().all())
    except InputError:
        return False


def fingerprint(subject: Subject, options: Options, image: Tensor) -> str:
    """Return a hash of network, options and image, to which a saved state belongs."""
    digest = hashlib.blake2b(json.dumps(asdict(options), sort_keys=True).encode(), digest_size=16)
    digest.update(image.numpy().tobytes())
    for parameter in subject.network.parameters():
        digest.update(parameter.detach().double().sum().numpy().tobytes())
    return digest.hexdigest()


class State:
    """The details that each finished octave added, saved to a file; only a dream with the same `key` reads them."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key

    def read(self) -> list[Tensor]:
        kept = load_tensors(self.path) if self.path.is_file() else {}
        own = sorted(name for name in kept if name.startswith(self.key))
        return [kept[name] for name in own]

    def write(self, details: list[Tensor]) -> None:
        contents = {f"{self.key}-{number:03d}": detail.contiguous() for number, detail in enumerate(details)}
        write_bytes(self.path, save(contents))
