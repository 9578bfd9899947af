"""`what=augmentation` of a detector: one image with its objects as training sees it, and every augmentation alone."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from cnnlab.config import CONFIG_DIR, build_entries, compose, plain_config, trusted_prefixes
from cnnlab.data.transforms import BATCH_TRANSFORMS
from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.sheets import grid, resized, side_by_side, stacked, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.augmentation import recorded
from cnnlab.explain.subject import Subject
from cnnlab.models.inputs import crops_for
from cnnlab.seeds import derived_rng
from cnnlab.tasks.detection.augmenting import Augmentation, refusal
from cnnlab.tasks.detection.data import DetectionDataset
from cnnlab.tasks.detection.drawing import Box, draw_boxes
from cnnlab.tasks.detection.mixing import MixingObjects
from cnnlab.tasks.detection.samples import Sample
from cnnlab.tasks.detection.truth import encode_masks

TILE = 240
"""Longer side of an augmented image in the picture, in pixels."""


@dataclass
class Options:
    """Draw a training image with its objects as several epochs see it, and every augmentation alone.

    index: number of the training image; null: the first with at least two objects.
    draws: number of times the image is augmented.
    alone: whether a second sheet shows every augmentation by itself.
    """

    index: int | None = None
    draws: int = 11
    alone: bool = True


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write draws.png and draws.json, the augmented images and their parameters, and alone.png."""
    if options.draws < 1:
        raise InputError(f"draws={options.draws}: at least 1 is needed.")
    if not subject.has_data:
        raise InputError("what=augmentation moves objects: add data=shapes, or data=coco_folder data.root=FOLDER.")
    data: Any = subject.data
    dataset = data.train_dataset()
    dataset.reads_masks = data.has_masks
    index = image_index(data, options.index)
    trusted = trusted_prefixes({"trusted_packages": list(subject.packages)})
    entries = build_entries(crops_for(subject.spec, subject.cfg["augmentation"]), trusted)
    seed, name = subject.cfg["seed"], data.parts.train.name(index)
    with Album(output) as album:
        made = [augmented(dataset, entries, seed, number, index) for number in range(options.draws)]
        sheet = titled(
            _row(dataset, index, made, data.classes, columns=4),
            f"{subject.name} · augmentation=[{', '.join(entries) or 'none'}]",
            f"{name} as {options.draws} epochs of training see it (seed {seed}); below each, its parameters",
        )
        album.add("draws", sheet)
        record = [{"parameters": done, "boxes": sample.boxes.tolist()} for sample, done in made]
        album.numbers("draws", {"image": name, "augmentation": list(entries), "draws": record})
        if options.alone:
            album.add("alone", _alone(subject, dataset, index, seed, data.has_masks))
    return album.paths


def image_index(data: Any, index: int | None) -> int:
    """Return the number of the training image; raise InputError for one that does not exist."""
    images = data.parts.train
    if index is None:
        return next((n for n in range(len(images)) if len(images.truth(n).labels) > 1), 0)
    if not 0 <= index < len(images):
        raise InputError(f"index={index}: the training images have the numbers 0 to {len(images) - 1}.")
    return index


def augmented(
    dataset: DetectionDataset, entries: Mapping[str, nn.Module], seed: int, epoch: int, index: int
) -> tuple[Sample, dict[str, str]]:
    """Return an image as an epoch sees it, with the parameters of each augmentation ("-": none)."""
    augmentation = Augmentation(entries, dataset.fit)
    mixing = {name: step for name, step in entries.items() if isinstance(step, MixingObjects)}
    with recorded(entries) as done, derived_rng(seed, "augmentation", epoch, index):
        hooks = [step.register_forward_hook(functools.partial(_note_mixing, done, n)) for n, step in mixing.items()]
        others = torch.randint(len(dataset), (augmentation.others,)).tolist()
        sample = augmentation(dataset.read(index), lambda number: dataset.read(others[number]))
        for step in entries.values():  # those of the device
            if isinstance(step, BATCH_TRANSFORMS):
                sample = sample._replace(image=to_uint8(step(sample.image[None].float() / 255)[0]))
        for hook in hooks:
            hook.remove()
    return sample, {name: done.get(name, "-") for name in entries}


def _note_mixing(done: dict[str, str], name: str, step: nn.Module, given: tuple, made: Sample) -> None:
    """Note whether a step that mixes images has changed its image."""
    if made is not given[0]:
        done[name] = "applied"


def _row(
    dataset: DetectionDataset, index: int, made: list[tuple[Sample, dict[str, str]]], classes: list[str], columns: int
) -> Image.Image:
    plain = dataset.fit(dataset.read(index))
    tiles = [_tile(plain, classes), *(_tile(sample, classes) for sample, _ in made)]
    texts = ["evaluation sees"]
    for _, done in made:
        lines = [f"{name}: {text}" if text != "applied" else name for name, text in done.items() if text != "-"]
        texts.append("\n".join(lines) or "-")
    return grid(tiles, texts, columns=columns, gap=6, below=True)


def _tile(sample: Sample, classes: list[str]) -> Image.Image:
    """Draw an image with its boxes and masks."""
    masks = encode_masks(sample.masks.numpy()) if sample.masks is not None else [None] * len(sample.labels)
    boxes = [
        Box(tuple(box.tolist()), classes[label], int(label), mask)
        for box, label, mask in zip(sample.boxes, sample.labels, masks, strict=True)
    ]
    return draw_boxes(resized(tensor_image(sample.image), TILE), boxes, (sample.size[1], sample.size[0]))


def _alone(
    subject: Subject, dataset: DetectionDataset, index: int, seed: int, has_masks: bool, draws: int = 4
) -> Image.Image:
    """Draw a row for every option of configs/augmentation that can move objects, and name the others."""
    rows, refused = [], []
    for path in sorted((CONFIG_DIR / "augmentation").glob("*.yaml")):
        size = [f"model.image_size={subject.spec.image_size}", f"model.resize_size={subject.spec.resize_size}"]
        options: Any = plain_config(compose([f"augmentation=[{path.stem}]", *size]), Path())["augmentation"]
        entries = build_entries(crops_for(subject.spec, options))
        if any(refusal(name, step, has_masks) for name, step in entries.items()):
            refused.append(path.stem)
            continue
        made = [augmented(dataset, entries, seed, number, index) for number in range(draws)]
        first = path.read_text(encoding="utf-8").splitlines()[0]
        sheet = _row(dataset, index, made, subject.data.classes, columns=draws + 1)
        rows.append(titled(sheet, f"augmentation={path.stem}", first.removeprefix("# ")))
    half = -(-len(rows) // 2)
    page = side_by_side([stacked(column, gap=0) for column in (rows[:half], rows[half:]) if column])
    return titled(page, "Every augmentation alone", f"Not for objects in these data: {', '.join(refused)}")
