"""`what=augmentation`: one image as the training transform makes it, draw by draw; and every augmentation alone."""

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
from torchvision.transforms import v2

from cnnlab.config import CONFIG_DIR, build_entries, compose, trusted_prefixes
from cnnlab.data.decoding import decode
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING, EvalTransform, TrainTransform
from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.sheets import grid, resized, side_by_side, stacked, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.seeds import derived_rng

TILE = 160
"""Pixels of a draw in the picture."""
CHOSEN = "_apply_image_or_video_transform"
"""Where torchvision's automatic augmentations apply what they have chosen."""
INTERNAL = ("fn_idx", "needs_crop", "needs_pad", "padding", "batch_size", "labels")
"""Parameters of torchvision's transforms that say nothing about the draw."""
NOTHING = ("", "no", "0.00", "-0.00", "(0, 0)", "(0.00, 0.00)")
"""Values that leave the image as it is."""


@dataclass
class Options:
    """images: a picture; without it the first training image. draws: how many times it is augmented.

    alone: whether a second sheet shows every augmentation by itself.
    """

    images: str | None = None
    draws: int = 11
    alone: bool = True


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write draws.png and draws.json, with the parameters of every draw, and alone.png."""
    if options.draws < 1:
        raise InputError(f"draws={options.draws}: at least 1 is needed.")
    name, images = source(subject, options.images)
    seed = subject.cfg["seed"]
    trusted = trusted_prefixes({"trusted_packages": list(subject.packages)})
    entries = build_entries(subject.cfg["augmentation"], trusted)
    with Album(output) as album:
        made = [augmented(images, entries, subject, seed, number) for number in range(options.draws)]
        chain = ", ".join(entries) or "none"
        sheet = titled(
            _row(images[0], subject, made, columns=6),
            f"{subject.name} · augmentation=[{chain}]",
            f"{name}, as {options.draws} epochs of training see it (seed {seed}); what each draw chose below it",
        )
        album.add("draws", sheet)
        album.numbers("draws", {"image": name, "augmentation": list(entries), "draws": [each for _, each in made]})
        if options.alone:
            album.add("alone", _alone(subject, images, seed))
    return album.paths


def source(subject: Subject, images: str | None) -> tuple[str, list[Image.Image]]:
    """The name of the image, and the image with a second one, which it is mixed with."""
    if images is None:
        if not subject.has_data:
            raise InputError("images=FILE is needed, or data=... with data.root=FOLDER.")
        part = subject.data.parts.train
        return part.name(0), [part.load(index, subject.spec.channels) for index in (0, len(part) - 1)]
    _, paths = find_pictures(Path(images))
    first = decode(paths[0], subject.spec.channels)
    mirrored = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return paths[0].name, [first, decode(paths[1], subject.spec.channels) if len(paths) > 1 else mirrored]


def augmented(
    images: Sequence[Image.Image], entries: Mapping[str, nn.Module], subject: Subject, seed: int, number: int
) -> tuple[Image.Image, dict[str, str]]:
    """Draw `number` of the first image, and for each augmentation what it did: its parameters, or "-" for nothing.

    Exactly what a training batch has of the image: the transform of the workers, then those of the device on floats.
    """
    transform = TrainTransform(entries.values(), subject.spec.image_size, subject.spec.resize_size)
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
    """A dictionary that fills with what every augmentation does inside the block: name -> its parameters as text."""
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
    """Make a transform tell what it does to an image; RandAugment and TrivialAugment choose operations by name."""
    transform, chosen = step.transform, getattr(step, CHOSEN, step.transform)

    def telling(image: Any, params: dict[str, Any]) -> Any:
        if isinstance(image, Tensor) and image.ndim >= 3:
            note(described(params) or _fixed(step))
        return transform(image, params)

    def telling_choice(image: Any, operation: str, magnitude: float, *others: Any, **options: Any) -> Any:
        note(operation if operation == "Identity" else f"{operation} {magnitude:.2g}")
        return chosen(image, operation, magnitude, *others, **options)

    if hasattr(step, CHOSEN):
        setattr(step, CHOSEN, telling_choice)
    elif type(step).transform is not v2.Transform.transform:
        setattr(step, "transform", telling)  # noqa: B010


def described(params: Mapping[str, Any]) -> str:
    """`angle 12.3, top 4`: the parameters of a draw that change something."""
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
    """What a transform without random parameters is set to."""
    return f"sigma {step.sigma}" if isinstance(step, v2.GaussianNoise) else "applied"


def _alone(subject: Subject, images: Sequence[Image.Image], seed: int, draws: int = 5) -> Image.Image:
    """A row for every option of configs/augmentation: the image, then draws of that option and nothing else."""
    rows = []
    for path in sorted((CONFIG_DIR / "augmentation").glob("*.yaml")):
        size = [f"model.image_size={subject.spec.image_size}", f"model.resize_size={subject.spec.resize_size}"]
        cfg = compose([f"augmentation=[{path.stem}]", *size])
        entries = build_entries(OmegaConf.to_container(cfg.augmentation, resolve=True))  # type: ignore[arg-type]
        made = [augmented(images, entries, subject, seed, number) for number in range(draws)]
        first = path.read_text(encoding="utf-8").splitlines()[0]
        rows.append(titled(_row(images[0], subject, made, columns=draws + 1), f"augmentation={path.stem}", first[2:]))
    half = -(-len(rows) // 2)
    return side_by_side([stacked(part, gap=0) for part in (rows[:half], rows[half:]) if part])


def _row(
    image: Image.Image, subject: Subject, made: Sequence[tuple[Image.Image, dict[str, str]]], columns: int
) -> Image.Image:
    """The image as evaluation sees it, then its draws with their parameters, one augmentation a line."""
    plain = tensor_image(EvalTransform(subject.spec.image_size, subject.spec.resize_size)(image))
    tiles = [resized(plain, TILE), *(resized(picture, TILE) for picture, _ in made)]
    texts = ["evaluation sees", *("\n".join(_caption(done)) for _, done in made)]
    return grid(tiles, texts, columns=columns, gap=6, below=True)


def _caption(done: dict[str, str]) -> list[str]:
    """One line for each augmentation; the name alone where it has no parameters."""
    if len(done) == 1:
        return list(done.values())
    return [f"{name}: {text}" if text != "applied" else name for name, text in done.items() if text != "-"] or ["-"]
