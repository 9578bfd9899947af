"""`cnnlab predict`: name what is on pictures, in a table and on the pictures themselves."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cnnlab.data.datasets.image_folder import find_pictures
from cnnlab.data.decoding import decode
from cnnlab.errors import DataError, InputError
from cnnlab.explain.sheets import png
from cnnlab.files import write_bytes, write_text
from cnnlab.loading import LoadedRun, load_run
from cnnlab.runs.report import sheet
from cnnlab.verbs.arguments import parse

Ranking = list[tuple[str, float]]
"""Classes with their probabilities, the most probable first."""
LARGEST_SHOWN = 640
"""Pixels of the longer side to which pictures are reduced once the network's input is cut from them."""


@dataclass(frozen=True)
class Picture:
    """A file as the network takes it, uint8 C x H x W, and small enough to keep."""

    path: Path
    pixels: Tensor
    small: Image.Image


@dataclass
class PredictConfig:
    """run: run folder or checkpoint. images: one picture, or a folder searched for pictures.

    output: where the results go; null is <run>/predictions/<name of images>.
    trusted_packages: packages of your own that the network's class is from.
    """

    run: str = MISSING
    images: str = MISSING
    output: str | None = None
    top_k: int = 3
    batch_size: int = 32
    sheet_images: int = 30
    trusted_packages: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    predict(parse(arguments, PredictConfig, "predict"))


def predict(cfg: PredictConfig) -> Path:
    """Write predictions.csv, the annotated pictures and sheet.png; returns their folder.

    Raises InputError or DataError if there is no run or no picture; single unreadable pictures are named and left out.
    """
    for name in ("top_k", "batch_size", "sheet_images"):
        if getattr(cfg, name) < 1:
            raise InputError(f"{name}={getattr(cfg, name)}: at least 1 is needed.")
    run = load_run(cfg.run, cfg.trusted_packages)
    if run.channels not in (1, 3):
        raise InputError(f"{cfg.run} takes {run.channels} planes, no images: cnnlab play run=... plays Go with it.")
    source, paths = find_pictures(Path(cfg.images))
    folder = output_folder(cfg)
    rows: list[tuple[Path, Ranking]] = []
    shown: list[Image.Image] = []
    for batch in tqdm(batches(paths, cfg.batch_size), "Predicting", unit="batch"):
        pictures = readable(batch, run)
        for picture, ranking in zip(pictures, top_k(run, pictures, cfg.top_k), strict=True):
            annotated = png(sheet([picture.small], [caption(ranking)], side=320))
            write_bytes(folder / "pictures" / annotated_name(picture.path.relative_to(source)), annotated)
            rows.append((picture.path.relative_to(source), ranking))
            shown += [picture.small] if len(shown) < cfg.sheet_images else []
    if not rows:
        raise DataError("None of the pictures can be read.")
    write_table(folder / "predictions.csv", rows)
    write_bytes(folder / "sheet.png", png(sheet(shown, [caption(ranking) for _, ranking in rows[: len(shown)]])))
    print(f"{len(rows)} pictures: {folder}/predictions.csv, {folder}/sheet.png")
    return folder


def output_folder(cfg: PredictConfig) -> Path:
    if cfg.output:
        return Path(cfg.output)
    run = Path(cfg.run)
    return (run if run.is_dir() else run.parent) / "predictions" / Path(cfg.images).absolute().name


def readable(paths: Sequence[Path], run: LoadedRun) -> list[Picture]:
    """The pictures that can be read; the others are named on the console."""
    pictures = []
    for path in paths:
        try:
            image = decode(path, run.channels)
        except DataError as error:
            print(f"Left out: {error}")
            continue
        pixels = run.prepare(image)
        image.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
        pictures.append(Picture(path, pixels, image))
    return pictures


def batches(paths: list[Path], size: int) -> list[list[Path]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def top_k(run: LoadedRun, pictures: Sequence[Picture], k: int) -> list[Ranking]:
    """For each picture the k most probable classes with their probabilities."""
    if not pictures:
        return []
    probabilities = run.predict(torch.stack([picture.pixels for picture in pictures]))
    values, indices = torch.topk(probabilities, min(k, len(run.classes)))
    return [
        [(run.classes[i], float(v)) for v, i in zip(value, index.tolist(), strict=True)]
        for value, index in zip(values, indices, strict=True)
    ]


def caption(ranking: Ranking) -> str:
    """The two best classes, one a line."""
    return "\n".join(f"{name} {value:.1%}" for name, value in ranking[:2])


def annotated_name(image: Path) -> Path:
    """The PNG file for an image: a.png for a.png, a.jpg.png for a.jpg, so that neither replaces the other."""
    return image if image.suffix == ".png" else image.with_name(f"{image.name}.png")


def write_table(path: Path, rows: Sequence[tuple[Path, Ranking]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = range(1, len(rows[0][1]) + 1)
    writer.writerow(["image", *(name for rank in columns for name in (f"class_{rank}", f"probability_{rank}"))])
    for image, ranking in rows:
        writer.writerow([image.as_posix(), *(cell for name, value in ranking for cell in (name, f"{value:.6f}"))])
    write_text(path, table.getvalue())
