"""`what=augmentation`: one image as training sees it in several epochs, and every augmentation alone."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnnlab.config import CONFIG_DIR, build_entries, compose, trusted_prefixes
from cnnlab.data.decoding import decode
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING, EvalTransform, TrainTransform, needs_objects
from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.sheets import grid, resized, side_by_side, stacked, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.models.inputs import crops_for
from cnnlab.seeds import derived_rng

TILE = 160
"""Side of an augmented image in the picture, in pixels."""
CHOSEN = "_apply_image_or_video_transform"
"""The method in which torchvision's automatic augmentations apply the operation they have chosen."""
INTERNAL = ("fn_idx", "needs_crop", "needs_pad", "padding", "batch_size", "labels", "is_within_crop_area")
"""Parameters of torchvision's transforms that do not describe the augmentation."""
NOTHING = ("", "no", "0.00", "-0.00", "(0, 0)", "(0.00, 0.00)")
"""Values of parameters that leave the image unchanged."""


@dataclass
class Options:
    """Draw one image as training sees it in several epochs, and every augmentation alone.

    images: a picture; null: the first training image.
    draws: number of times the image is augmented.
    alone: whether a second sheet shows every augmentation by itself.
    """

    images: str | None = None
    draws: int = 11
    alone: bool = True


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write draws.png and draws.json, the augmented images and their parameters, and alone.png."""
    if options.draws < 1:
        raise InputError(f"draws={options.draws}: at least 1 is needed.")
    name, images = source(subject, options.images)
    seed = subject.cfg["seed"]
    trusted = trusted_prefixes({"trusted_packages": list(subject.packages)})
    entries = build_entries(crops_for(subject.spec, subject.cfg["augmentation"]), trusted)
    with Album(output) as album:
        made = [augmented(images, entries, subject, seed, number) for number in range(options.draws)]
        chain = ", ".join(entries) or "none"
        sheet = titled(
            _row(images[0], subject, made, columns=6),
            f"{subject.name} · augmentation=[{chain}]",
            f"{name}, as {options.draws} epochs of training see it (seed {seed}); below each, its parameters",
        )
        album.add("draws", sheet)
        album.numbers("draws", {"image": name, "augmentation": list(entries), "draws": [each for _, each in made]})
        if options.alone:
            album.add("alone", _alone(subject, images, seed))
    return album.paths


def source(subject: Subject, images: str | None) -> tuple[str, list[Image.Image]]:
    """Return the name of the image, and the image with a second one to mix it with."""
    if images is None:
        if not subject.has_data:
            raise InputError("images=FILE is required, or data=... with data.root=FOLDER.")
        part = subject.data.parts.train
        return part.name(0), [part.load(index, subject.spec.channels) for index in (0, len(part) - 1)]
    _, paths = find_pictures(Path(images))
    channels, ranges = subject.spec.channels, subject.spec.ranges or {}
    first = decode(paths[0], channels, ranges)
    mirrored = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return paths[0].name, [first, decode(paths[1], channels, ranges) if len(paths) > 1 else mirrored]


def augmented(
    images: Sequence[Image.Image], entries: Mapping[str, nn.Module], subject: Subject, seed: int, number: int
) -> tuple[Image.Image, dict[str, str]]:
    """Return the first image after random augmentation `number`, and the parameters of each augmentation ("-": none).

    The steps are those of training: the workers' transform, then the device's transforms on a float batch.
    """
    transform = TrainTransform(entries.values(), **subject.spec.resizing)
    with recorded(entries) as done, derived_rng(seed, "augmentation", number, 0):
        first = transform(images[0])
        kept = dict(done)
        batch = torch.stack([first, transform(images[1])]).float() / 255
        done.clear()
        done.update(kept)
        labels = torch.tensor([0, 1])
        for step in entries.values():
            if isinstance(step, MIXING):
                step.num_classes = 2
                batch, labels = step(batch, labels)
            elif isinstance(step, BATCH_TRANSFORMS):
                batch = step(batch)
    return tensor_image(to_uint8(batch[0])), {name: done.get(name, "-") for name in entries}


@contextmanager
def recorded(entries: Mapping[str, nn.Module]) -> Iterator[dict[str, str]]:
    """Record what every augmentation does inside the block; yield name -> its parameters as text."""
    done: dict[str, str] = {}
    entered = [(name, step) for name, entry in entries.items() for step in entry.modules()]
    steps = [(name, step) for name, step in entered if isinstance(step, v2.Transform)]
    for name, step in steps:
        _watch(step, functools.partial(_note, done, name))
    try:
        yield done
    finally:
        for _, step in steps:
            for method in ("transform", CHOSEN):
                step.__dict__.pop(method, None)


def _note(done: dict[str, str], name: str, text: str) -> None:
    done[name] = f"{done[name]}, {text}" if name in done else text


def _watch(step: v2.Transform, note: Callable[[str], None]) -> None:
    """Make a transform call `note` with what it does to an image; RandAugment and TrivialAugment give an operation."""
    transform, chosen = step.transform, getattr(step, CHOSEN, step.transform)

    def noting(image: Any, params: dict[str, Any]) -> Any:
        if isinstance(image, Tensor) and image.ndim >= 3 and not isinstance(image, tv_tensors.Mask):
            note(described(params) or _fixed(step))
        return transform(image, params)

    def noting_choice(image: Any, operation: str, magnitude: float, *others: Any, **options: Any) -> Any:
        note(operation if operation == "Identity" else f"{operation} {magnitude:.2g}")
        return chosen(image, operation, magnitude, *others, **options)

    if hasattr(step, CHOSEN):
        setattr(step, CHOSEN, noting_choice)
    elif type(step).transform is not v2.Transform.transform:
        setattr(step, "transform", noting)  # noqa: B010


def described(params: Mapping[str, Any]) -> str:
    """Return the parameters that change the image as text, such as "angle 12.30, top 4"."""
    values = {name.removesuffix("_factor"): _value(value) for name, value in params.items() if name not in INTERNAL}
    return ", ".join(
        f"{name} {value}"
        for name, value in values.items()
        if value not in NOTHING and (name, value) != ("scale", "1.00")
    )


def _value(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list | tuple):
        inner = [_value(each) for each in value]
        return f"({', '.join(inner)})" if any(inner) else ""
    return str(value) if isinstance(value, int | str) else ""


def _fixed(step: v2.Transform) -> str:
    """Describe a transform that has no random parameters."""
    return f"sigma {step.sigma}" if isinstance(step, v2.GaussianNoise) else "applied"


def _alone(subject: Subject, images: Sequence[Image.Image], seed: int, draws: int = 5) -> Image.Image:
    """Draw a row for every option of configs/augmentation: the image, then that option alone, applied `draws` times."""
    rows = []
    for path in sorted((CONFIG_DIR / "augmentation").glob("*.yaml")):
        size = [f"model.image_size={subject.spec.image_size}", f"model.resize_size={subject.spec.resize_size}"]
        cfg = compose([f"augmentation=[{path.stem}]", *size])
        options: Any = OmegaConf.to_container(cfg.augmentation, resolve=True)
        entries = build_entries(crops_for(subject.spec, options))
        if any(map(needs_objects, entries.values())):
            continue
        made = [augmented(images, entries, subject, seed, number) for number in range(draws)]
        first = path.read_text(encoding="utf-8").splitlines()[0]
        rows.append(titled(_row(images[0], subject, made, columns=draws + 1), f"augmentation={path.stem}", first[2:]))
    half = -(-len(rows) // 2)
    return side_by_side([stacked(column, gap=0) for column in (rows[:half], rows[half:]) if column])


def _row(
    image: Image.Image, subject: Subject, made: Sequence[tuple[Image.Image, dict[str, str]]], columns: int
) -> Image.Image:
    """Draw the image as evaluation sees it, then each augmented image with its parameters, one augmentation a line."""
    plain = tensor_image(EvalTransform(**subject.spec.resizing)(image))
    tiles = [resized(plain, TILE), *(resized(picture, TILE) for picture, _ in made)]
    texts = ["evaluation sees", *("\n".join(_caption(done)) for _, done in made)]
    return grid(tiles, texts, columns=columns, gap=6, below=True)


def _caption(done: dict[str, str]) -> list[str]:
    """Return one line for each augmentation that did something: its name, and its parameters if it has any."""
    if len(done) == 1:
        return list(done.values())
    return [f"{name}: {text}" if text != "applied" else name for name, text in done.items() if text != "-"] or ["-"]
