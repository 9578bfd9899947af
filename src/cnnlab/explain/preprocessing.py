"""`what=preprocessing`: the same images, and their covariance, after every kind of preprocessing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import diverging, to_uint8
from cnnlab.drawing.sheets import grid, resized, side_by_side, stacked, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.preprocessing import NAMES, fit

TILE, COVARIANCE = 96, 200
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("the images as they are", {}),
    "zero_mean": ("minus the mean of each channel", {}),
    "standardize": ("minus the mean, by the standard deviation of each channel", {}),
    "max_abs": ("by the largest magnitude of each channel", {}),
    "pca": ("projected onto the components of 90 % of the variance, and back", {"components": 0.9}),
    "pca_whiten": ("coordinates along the components, each of variance 1 (not an image any more)", {"epsilon": 1e-3}),
    "zca": ("whitened and turned back: of all whitenings the closest to the image", {"epsilon": 1e-3}),
}
"""Kind of preprocessing -> what it does, and the options it is drawn with."""


@dataclass
class Options:
    """Draw the same images, and their covariance, after every kind of preprocessing.

    images: a folder; null: the training images.
    limit: number of images for the statistics.
    shown: number of images that are drawn.
    size: side to which images are resized, in pixels; null: 32 for grey and 16 for colour images. The covariance grows
        with its fourth power.
    """

    images: str | None = None
    limit: int = 2000
    shown: int = 12
    size: int | None = None


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write preprocessing.png, a row for each kind, and preprocessing.json."""
    if options.shown < 1:
        raise InputError(f"shown={options.shown}: at least 1 is needed.")
    size = options.size or (32 if subject.spec.channels == 1 else 16)
    images = F.interpolate(source(subject, options), (size, size), mode="bilinear", antialias=True)
    rows, numbers = [], {}
    for name, (text, settings) in KINDS.items():
        if name in NAMES:
            made = fit(name, images, **settings)(images)
            covariance, numbers[name] = described(made)
            pictures = [resized(tensor_image(shown(each, name == "none")), TILE) for each in made[: options.shown]]
            small = reduced(covariance, COVARIANCE)
            square = resized(tensor_image(diverging(small, float(small.abs().max()) / 2)), COVARIANCE)
            row = side_by_side([grid(pictures, columns=-(-len(pictures) // 2), gap=4), square])
            rows.append(titled(row, f"preprocessing={name}", text, _text(numbers[name]), least_width=760))
    with Album(output) as album:
        head = (
            f"statistics of {len(images)} training images of {size} x {size} pixels; right: the covariance of all "
            "pairs of pixels, red above 0, blue below, white 0; full colour from half the largest"
        )
        album.add("preprocessing", titled(stacked(rows, gap=0), f"{subject.name} · preprocessing", head))
        album.numbers("preprocessing", {"images": len(images), "size": size, **numbers})
    return album.paths


def source(subject: Subject, options: Options) -> Tensor:
    """Return the training images, or those of a folder, as float32 N x C x H x W in [0, 1]."""
    if options.images is not None or not subject.has_data:
        found = torch.cat([picture.batch for picture in subject.pictures(options.images, options.limit, spread=True)])
    else:
        found = subject.data.sample(options.limit).float() / 255
    if len(found) < 2:
        raise InputError("At least two images are needed for a covariance.")
    return found


def described(images: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the covariance D x D of the flattened images, D = C * H * W, and its key numbers."""
    rows = images.flatten(1).double()
    covariance = torch.cov(rows.T)
    variances = covariance.diag()
    apart = covariance - variances.diag()
    scale = (variances[:, None] * variances[None]).sqrt()
    correlations = torch.where(scale > 1e-12, apart / scale.clamp_min(1e-12), 0.0).abs()
    pairs = max(1, len(variances) * (len(variances) - 1))
    return covariance.float(), {
        "min": float(images.min()),
        "max": float(images.max()),
        "mean": float(images.mean()),
        "smallest_variance": float(variances.min()),
        "largest_variance": float(variances.max()),
        "mean_correlation": float(correlations.sum() / pairs),
    }


def reduced(values: Tensor, side: int) -> Tensor:
    """Reduce a square matrix to at most `side` rows, keeping each block's entry of largest magnitude."""
    block = -(-len(values) // side)
    highest, lowest = (sign * F.max_pool2d(sign * values[None], block, ceil_mode=True)[0] for sign in (1, -1))
    return torch.where(highest >= -lowest, highest, lowest)


def shown(image_CHW: Tensor, raw: bool) -> Tensor:
    """Return an image as uint8: unchanged if `raw`, else with 0 in mid-grey and a symmetric range around it."""
    return to_uint8(image_CHW if raw else 0.5 + 0.5 * image_CHW / image_CHW.abs().max().clamp_min(1e-12))


def _text(numbers: dict[str, float]) -> str:
    return (
        f"values {numbers['min']:.3g} to {numbers['max']:.3g}, mean {numbers['mean']:.3g} · variance of a pixel "
        f"{numbers['smallest_variance']:.3g} to {numbers['largest_variance']:.3g} · mean |correlation| of two pixels "
        f"{numbers['mean_correlation']:.3f}"
    )
