"""`cnnlab predict`: name what is on pictures, in a table and on the pictures themselves."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING
from PIL import Image
from tqdm import tqdm

from cnnlab.data.datasets.image_folder import files_below
from cnnlab.data.decoding import EXTENSIONS, decode
from cnnlab.errors import DataError, InputError
from cnnlab.files import write_bytes, write_text
from cnnlab.loading import LoadedRun, load_run
from cnnlab.runs.report import png, sheet
from cnnlab.verbs.arguments import parse

log = logging.getLogger(__name__)


@dataclass
class PredictConfig:
    """run: run folder or checkpoint. images: one picture, or a folder searched for pictures.

    output: where the results go; null is <run>/predictions/<name of images>.
    """

    run: str = MISSING
    images: str = MISSING
    output: str | None = None
    top_k: int = 3
    batch_size: int = 32
    sheet_images: int = 30


def main(arguments: Sequence[str]) -> None:
    predict(parse(arguments, PredictConfig, "predict"))


def predict(cfg: PredictConfig) -> Path:
    """Write predictions.csv, the annotated pictures and sheet.png; returns their folder.

    Raises InputError or DataError if there is no run or no picture; single unreadable pictures are named and left out.
    """
    run = load_run(cfg.run)
    source, paths = find_pictures(Path(cfg.images))
    folder = output_folder(cfg)
    pictures = readable(paths, run.channels)
    rows = [
        row
        for batch in tqdm(batches(list(pictures), cfg.batch_size), "Predicting", unit="batch")
        for row in top_k(run, pictures, batch, cfg.top_k)
    ]
    write_table(folder / "predictions.csv", [(path.relative_to(source), row) for path, row in rows], cfg.top_k)
    write_pictures(folder, source, pictures, rows, cfg.sheet_images)
    print(f"{len(rows)} pictures: {folder}/predictions.csv, {folder}/sheet.png")
    return folder


def find_pictures(images: Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    if images.is_file():
        return images.parent, [images]
    if not images.is_dir():
        raise InputError(f"images={images}: there is no such file or folder.")
    paths = [path for path in files_below(images) if path.suffix.lower() in EXTENSIONS]
    if not paths:
        raise InputError(f"images={images}: no picture is in this folder ({', '.join(sorted(EXTENSIONS))}).")
    return images, paths


def output_folder(cfg: PredictConfig) -> Path:
    if cfg.output:
        return Path(cfg.output)
    run = Path(cfg.run)
    return (run if run.is_dir() else run.parent) / "predictions" / Path(cfg.images).absolute().name


def readable(paths: Sequence[Path], channels: int) -> dict[Path, Image.Image]:
    """Path -> picture; raises DataError if none can be read."""
    pictures: dict[Path, Image.Image] = {}
    for path in paths:
        try:
            pictures[path] = decode(path, channels)
        except DataError as error:
            print(f"Left out: {error}")
    if not pictures:
        raise DataError("None of the pictures can be read.")
    return pictures


def batches(paths: list[Path], size: int) -> list[list[Path]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def top_k(
    run: LoadedRun, pictures: dict[Path, Image.Image], paths: Sequence[Path], k: int
) -> list[tuple[Path, list[tuple[str, float]]]]:
    """For each path the k most probable classes with their probabilities."""
    probabilities = run.predict([pictures[path] for path in paths])
    values, indices = torch.topk(probabilities, min(k, len(run.classes)))
    return [
        (path, [(run.classes[i], float(v)) for v, i in zip(value, index.tolist(), strict=True)])
        for path, value, index in zip(paths, values, indices, strict=True)
    ]


def write_table(path: Path, rows: Sequence[tuple[Path, list[tuple[str, float]]]], k: int) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = range(1, len(rows[0][1]) + 1)
    writer.writerow(["image", *(name for rank in columns for name in (f"class_{rank}", f"probability_{rank}"))])
    for image, ranked in rows:
        writer.writerow([image.as_posix(), *(cell for name, value in ranked for cell in (name, f"{value:.6f}"))])
    write_text(path, table.getvalue())


def write_pictures(
    folder: Path,
    source: Path,
    pictures: dict[Path, Image.Image],
    rows: Sequence[tuple[Path, list[tuple[str, float]]]],
    most: int,
) -> None:
    """Each picture with its two best classes below it, and a sheet of the first `most`."""
    captions = {path: "\n".join(f"{name} {value:.1%}" for name, value in ranked[:2]) for path, ranked in rows}
    for path, caption in captions.items():
        target = folder / "pictures" / path.relative_to(source).with_suffix(".png")
        annotated = png(sheet([pictures[path]], [caption], side=320))
        write_bytes(target, annotated)
    shown = list(captions)[:most]
    page = png(sheet([pictures[path] for path in shown], [captions[path] for path in shown]))
    write_bytes(folder / "sheet.png", page)
