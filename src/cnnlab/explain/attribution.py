"""`what=attribution`: the pixels that a decision is based on, by six methods, compared with a randomised network."""

import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import diverging, overlaid
from cnnlab.drawing.sheets import grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Picture, Subject
from cnnlab.models.grad_cam import cam_layer, grad_cam
from cnnlab.models.gradients import differentiable
from cnnlab.seeds import derived_rng

log = logging.getLogger(__name__)
METHODS = ("saliency", "smoothgrad", "integrated_gradients", "guided_backpropagation", "occlusion", "grad_cam")
ALIKE = 0.5
"""Rank correlation with the randomised network's map above which a map hardly depends on what was learned."""
TILE = 180


@dataclass
class Options:
    """Draw the pixels that a decision is based on, and the same for a randomised network.

    images: a file or folder; null: the first validation images.
    limit: number of images.
    methods: any of saliency, smoothgrad, integrated_gradients, guided_backpropagation, occlusion, grad_cam.
    target: the class (name or number) to explain; null: the predicted class.
    layer: layer of Grad-CAM; null: the last one with maps larger than a pixel that the score depends on.
    samples: number of SmoothGrad samples.
    steps: number of integrated-gradients steps.
    window: side of the occlusion window in pixels; null: an eighth of the image.
    seed: seed of the randomised network and of SmoothGrad's noise.
    """

    images: str | None = None
    limit: int = 1
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    target: str | None = None
    layer: str | None = None
    samples: int = 20
    steps: int = 32
    window: int | None = None
    seed: int = 0


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write <image>.png, a row of maps above the same row for a randomised network, and attribution.json."""
    if set(options.methods) - {"grad_cam"}:
        require_captum()
    if unknown := [name for name in options.methods if name not in METHODS]:
        raise InputError(f"Unknown method {unknown[0]} in methods=[...]. Available: {', '.join(METHODS)}.")
    pictures = subject.pictures(options.images, options.limit)
    target = None if options.target is None else subject.class_index(options.target)
    first = target if target is not None else int(subject.probabilities(pictures[0].batch).argmax())
    trained = plain_relus(subject.model)
    methods = usable(options.methods, trained)
    layer = None
    if "grad_cam" in methods:
        inputs = subject.preprocessing(pictures[0].batch)
        try:
            layer = cam_layer(subject.network, inputs, torch.tensor([first]), options.layer)
        except InputError as error:
            raise InputError(f"{error} Without Grad-CAM: methods=[saliency,integrated_gradients]") from error
    randomised = randomise(trained, options.seed)
    rows = []
    with Album(output) as album:
        for picture in pictures:
            explained = target if target is not None else int(subject.probabilities(picture.batch).argmax())
            maps, random_maps = (
                {name: attribute(model, name, picture.batch, explained, layer, options) for name in methods}
                for model in (trained, randomised)
            )
            likeness = {name: alike(maps[name], random_maps[name]) for name in methods}
            for name in (name for name, value in likeness.items() if value > ALIKE):
                log.warning(
                    "%s of %s resembles that of a randomised network (rank correlation %.2f): it shows the image more "
                    "than the decision.",
                    name,
                    picture.name,
                    likeness[name],
                )
            album.add(picture.name, _sheet(subject, picture, explained, layer, maps, random_maps, likeness))
            for name, value in maps.items():
                album.keep(f"{picture.name}/{name}", tensor_image(coloured(value)))
            rows.append({"image": picture.name, "class": subject.classes[explained], "randomised": likeness})
        album.numbers("attribution", {"grad_cam_layer": layer, "images": rows})
    return album.paths


def require_captum() -> None:
    """Raise InputError with the command that installs captum if it is missing."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise InputError("what=attribution needs captum: pip install 'cnnlab[explain]'.") from error


def usable(methods: list[str], model: nn.Module) -> list[str]:
    """Return the methods that work on `model`.

    Guided backpropagation needs nn.ReLU layers; without any (MobileNetV2 has ReLU6) it would equal the plain gradient.
    """
    if "guided_backpropagation" not in methods or any(isinstance(module, nn.ReLU) for module in model.modules()):
        return methods
    log.warning("guided_backpropagation is left out: it changes nn.ReLU layers, and this network has none.")
    return [name for name in methods if name != "guided_backpropagation"]


def plain_relus(model: nn.Sequential) -> nn.Sequential:
    """Return a copy whose ReLUs are not in place: captum's hooks do not work on in-place layers."""
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return copied


def randomise(model: nn.Sequential, seed: int) -> nn.Sequential:
    """Return a copy with every layer re-initialised at random (Adebayo et al. 2018, section 4)."""
    copied = copy.deepcopy(model)
    with derived_rng(seed, "randomise"):
        for module in copied.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return copied.eval()


def attribute(
    model: nn.Sequential, method: str, images: Tensor, target: int, layer: str | None, options: Options
) -> Tensor:
    """Return the attribution map H x W of the image, 1 x C x H x W, summed over channels, with the method's signs.

    model: preprocessing (0) and network (1). target: index of the class. layer: of Grad-CAM (`cam_layer`).
    """
    if method == "grad_cam" and layer is not None:
        maps = grad_cam(model[1], model[0](images), layer, torch.tensor([target]))
        return F.interpolate(maps[None], size=images.shape[-2:], mode="bilinear")[0, 0]
    from captum import attr

    window = options.window or max(2, images.shape[-1] // 8)
    with differentiable(images) as (x,), derived_rng(options.seed, method):
        methods: dict[str, Callable[[], Tensor]] = {
            "saliency": lambda: attr.Saliency(model).attribute(x, target=target),
            "smoothgrad": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(
                x, target=target, nt_samples=options.samples, nt_samples_batch_size=4, stdevs=0.1
            ),
            "integrated_gradients": lambda: attr.IntegratedGradients(model).attribute(
                x, target=target, n_steps=options.steps, internal_batch_size=4
            ),
            "guided_backpropagation": lambda: attr.GuidedBackprop(model).attribute(x, target=target),
            "occlusion": lambda: attr.Occlusion(model).attribute(
                x,
                sliding_window_shapes=(images.shape[1], window, window),
                strides=(images.shape[1], max(1, window // 2), max(1, window // 2)),
                baselines=0.5,
                target=target,
                perturbations_per_eval=8,
            ),
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting .*hooks on")  # captum removes the hooks afterwards
            return methods[method]().detach()[0].sum(dim=0)


def alike(first_HW: Tensor, second_HW: Tensor) -> float:
    """Return Spearman's rank correlation of the magnitudes; 0 if one map is constant."""
    first, second = first_HW.abs().flatten(), second_HW.abs().flatten()
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def coloured(values_HW: Tensor) -> Tensor:
    """Return uint8 3 x H x W, positive in red and negative in blue, saturated at the 99th percentile of |value|."""
    largest = values_HW.abs().flatten().quantile(0.99)
    return diverging(values_HW, max(float(largest), 1e-12))


def _sheet(
    subject: Subject,
    picture: Picture,
    target: int,
    layer: str | None,
    maps: dict[str, Tensor],
    random_maps: dict[str, Tensor],
    likeness: dict[str, float],
) -> Image.Image:
    probability = float(subject.probabilities(picture.batch)[0, target])
    tiles = [resized(tensor_image(picture.pixels), TILE)]
    captions = [f"{picture.name}\ntrained network"]
    for row, found in enumerate((maps, random_maps)):
        if row:
            tiles.append(tiles[0])
            captions.append("randomised network")
        for name, values in found.items():
            pixels = overlaid(picture.pixels, values) if name in ("grad_cam", "occlusion") else coloured(values)
            tiles.append(resized(tensor_image(pixels), TILE))
            warning = f"\nrank correlation {likeness[name]:.2f}" + (" (!)" if likeness[name] > ALIKE else "")
            captions.append(f"{name}{f' of {layer}' if name == 'grad_cam' else ''}" + (warning if row else ""))
    marked = [name for name, value in likeness.items() if value > ALIKE]
    return titled(
        grid(tiles, captions, columns=len(maps) + 1, gap=6, below=True),
        f"{subject.name} · why {subject.classes[target]} ({probability:.1%})?",
        "red is evidence for the class, blue against it; below: the same for a network with random weights"
        + (f": {', '.join(marked)} (!) hardly depends on what was learned" if marked else ""),
    )
