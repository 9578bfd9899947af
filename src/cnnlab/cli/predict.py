"""`cnnlab predict`: predict what is in pictures, as a table and as annotated pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from omegaconf import MISSING
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cnnlab.api import LoadedRun, load_run
from cnnlab.config.options import parse_options
from cnnlab.config.overrides import keys_of, split
from cnnlab.data.decoding import decode
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.drawing.sheets import captioned, png
from cnnlab.errors import DataError, InputError
from cnnlab.reports.pages import write_csv
from cnnlab.system.files import printable, write_bytes
from cnnlab.tasks.base import Prediction

LARGEST_SHOWN = 640
"""Largest length of the longer side of an annotated picture, in pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture file."""

    path: Path
    pixels: Tensor
    """The network's input, uint8 C x H x W."""
    small: Image.Image
    """The picture itself, reduced to LARGEST_SHOWN."""


@dataclass
class Options:
    """Predict what is in pictures: write predictions.csv, the annotated pictures, and a sheet of them.

    The task of the run adds keys of its own: classification has top_k=3, the number of classes in the table.

    Example: cnnlab predict run=outputs/quickstart/lenet5 images=photos/

    run: run folder or checkpoint.
    images: a picture, or a folder that is searched for pictures.
    output: folder of the results; null: <run>/predictions/<name of images>.
    batch_size: number of pictures per batch.
    sheet_images: number of pictures on sheet.png.
    trusted_packages: your own packages that define the network.
    """

    run: str = MISSING
    images: str = MISSING
    output: str | None = None
    batch_size: int = 32
    sheet_images: int = 30
    trusted_packages: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    own = {each.name for each in fields(Options)}
    of_task = [argument for argument in arguments if split(argument).key not in own and "run" in keys_of(arguments)]
    cfg = parse_options([argument for argument in arguments if argument not in of_task], Options, "predict")
    predict(cfg, of_task)


def predict(cfg: Options, of_task: Sequence[str] = ()) -> Path:
    """Write predictions.csv, the annotated pictures and sheet.png; return their folder.

    of_task: the task's own options, as key=value. Raises InputError or DataError if the run cannot be loaded or no
    picture can be read; unreadable pictures among others are named and left out.
    """
    for name in ("batch_size", "sheet_images"):
        if getattr(cfg, name) < 1:
            raise InputError(f"{name}={getattr(cfg, name)}: at least 1 is needed.")
    run = load_run(cfg.run, cfg.trusted_packages)
    options = parse_options(of_task, run.task.predict_options, "predict", [each.name for each in fields(Options)])
    run.task.require_pictures()
    source, paths = find_pictures(Path(cfg.images))
    folder = output_folder(cfg)
    rows: list[tuple[Path, Prediction]] = []
    shown: list[Image.Image] = []
    for batch in tqdm(batches(paths, cfg.batch_size), "Predicting", unit="batch"):
        pictures = readable(batch, run)
        if not pictures:
            continue
        pixels = torch.stack([picture.pixels for picture in pictures])
        for picture, prediction in zip(pictures, run.predictions(pixels, options), strict=True):
            place = picture.path.relative_to(source)
            write_bytes(folder / "pictures" / annotated_name(place), png(prediction.draw(picture.small)))
            rows.append((place, prediction))
            shown += [picture.small] if len(shown) < cfg.sheet_images else []
    if not rows:
        raise DataError("None of the pictures can be read.")
    tables = [prediction.row() for _, prediction in rows]
    cells = [[printable(place.as_posix()), *row.values()] for (place, _), row in zip(rows, tables, strict=True)]
    write_csv(folder / "predictions.csv", ["image", *tables[0]], cells)
    captions = [prediction.caption for _, prediction in rows[: len(shown)]]
    write_bytes(folder / "sheet.png", png(captioned(shown, captions)))
    print(f"{len(rows)} {'image' if len(rows) == 1 else 'images'}: {folder}/predictions.csv, {folder}/sheet.png")
    return folder


def output_folder(cfg: Options) -> Path:
    """Return the folder of the results."""
    if cfg.output:
        return Path(cfg.output)
    run = Path(cfg.run)
    return (run if run.is_dir() else run.parent) / "predictions" / Path(cfg.images).absolute().name


def readable(paths: Sequence[Path], run: LoadedRun) -> list[Picture]:
    """Return the pictures that can be read; name the others on the console."""
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


def annotated_name(image: Path) -> Path:
    """Return the PNG file for an image: a.png for a.png, but a.jpg.png for a.jpg, so that both can exist."""
    return image if image.suffix == ".png" else image.with_name(f"{image.name}.png")
