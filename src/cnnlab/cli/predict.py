"""`cnnlab predict`: predict what is in pictures, as a table and as annotated pictures."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from PIL import Image
from tqdm import tqdm

from cnnlab.api import LoadedRun, config_beside, engine_setting, load_run
from cnnlab.cli.subjects import ModelSubject, belongs_to_config
from cnnlab.config.options import parse_options
from cnnlab.config.overrides import keys_of, split
from cnnlab.data.decoding import allowing, read_image
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.drawing.sheets import captioned, png, tensor_image
from cnnlab.errors import DataError, InputError
from cnnlab.system.ahead import map_ahead
from cnnlab.system.files import printable, write_bytes
from cnnlab.tasks.base import Prediction

LARGEST_SHOWN = 640
"""Largest length of the longer side of an annotated picture, in pixels."""
PICTURES = ("all", "sheet", "false")
FEW = 100
"""Number of pictures up to which each is annotated by default."""
SMALL = 1_000_000
"""Number of parameters up to which one CPU thread is faster than several."""


@dataclass(frozen=True)
class Picture:
    """A picture file."""

    path: Path
    prepared: Any
    """The picture as the task's `stack` takes it."""
    small: Image.Image | None
    """The picture itself, reduced to LARGEST_SHOWN; None if it is not shown."""


@dataclass
class Options:
    """Predict what is in pictures: write predictions.csv, the annotated pictures, and a sheet of them.

    The task of the run adds keys of its own: classification has top_k=3, the number of classes in the table.

    Without run=, model=... model.weights=... predicts with pretrained weights, and further keys are overrides of the
    train config.

    Example:
    cnnlab predict run=outputs/quickstart/lenet5 images=photos/
    cnnlab predict model=mask_rcnn model.weights=COCO_V1 images=street.jpg

    run: run folder or checkpoint.
    images: a picture, or a folder that is searched for pictures.
    output: folder of the results; null: <run>/predictions/<name of images>.
    batch_size: number of pictures per batch.
    pictures: all (annotate every picture and write a sheet of the first), sheet (only the sheet) or false (only the
    table); null: all up to 100 pictures, sheet beyond.
    sheet_images: number of pictures on sheet.png.
    engine: what computes the network: torch, onnxruntime, openvino, or auto for the fastest; null: as the run's
    speed.engine.
    trusted_packages: your own packages that define the network.
    """

    run: str | None = None
    images: str = MISSING
    output: str | None = None
    batch_size: int = 32
    pictures: str | None = None
    sheet_images: int = 30
    engine: str | None = None
    trusted_packages: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    own = {each.name for each in fields(Options)}
    keys = keys_of(arguments)
    of_model = [each for each in arguments if belongs_to_config(split(each).key)] if "run" not in keys else []
    loads = "run" in keys or "model" in keys
    of_task = [each for each in arguments if split(each).key not in own and each not in of_model and loads]
    cfg = parse_options([each for each in arguments if each not in (*of_task, *of_model)], Options, "predict")
    predict(cfg, of_task, of_model)


def predict(cfg: Options, of_task: Sequence[str] = (), of_model: Sequence[str] = ()) -> Path:
    """Write predictions.csv and, as `cfg.pictures` says, the annotated pictures and sheet.png; return their folder.

    of_task: the task's own options, as key=value. of_model: overrides that describe a network in place of a run.
    Raises InputError or DataError if the run cannot be loaded or no picture can be read; unreadable pictures among
    others are named and left out.
    """
    for name in ("batch_size", "sheet_images"):
        if getattr(cfg, name) < 1:
            raise InputError(f"{name}={getattr(cfg, name)}: at least 1 is needed.")
    if cfg.pictures is not None and cfg.pictures not in PICTURES:
        raise InputError(f"pictures={cfg.pictures}: use {', '.join(PICTURES)}.")
    run = load_run(cfg.run, cfg.trusted_packages) if cfg.run else pretrained(of_model)
    options = parse_options(of_task, run.task.predict_options, "predict", [each.name for each in fields(Options)])
    run.task.require_pictures()
    source, paths = find_pictures(Path(cfg.images))
    folder = output_folder(cfg, of_model)
    shows = cfg.pictures or ("all" if len(paths) <= FEW else "sheet")
    predictions: dict[str, Prediction] = {}
    sheet: list[Image.Image] = []
    shown = {"all": len(paths), "sheet": cfg.sheet_images, "false": 0}[shows]
    engine_setting(run.task, None, cfg.engine)
    config = config_beside(Path(cfg.run)) if cfg.run else None
    with threads_for(run), ExitStack() as stack:
        for number, batch in enumerate(batches(run, paths, cfg.batch_size, shown, options)):
            inputs = run.task.stack([picture.prepared for picture in batch])
            if number == 0:
                stack.enter_context(run.computing(inputs, len(paths), config, cfg.engine))
            for picture, prediction in zip(batch, run.predictions(inputs, options), strict=True):
                place = picture.path.relative_to(source)
                predictions[printable(place.as_posix())] = prediction
                if picture.small and shows == "all":
                    write_bytes(folder / "pictures" / annotated_name(place), png(prediction.draw(picture.small)))
                if picture.small and len(sheet) < cfg.sheet_images:
                    sheet.append(run.task.sheet_picture(prediction, picture.small))
    if not predictions:
        raise DataError("None of the pictures can be read.")
    run.task.write_predictions(folder, predictions)
    if sheet:
        captions = [prediction.caption for prediction in list(predictions.values())[: len(sheet)]]
        write_bytes(folder / "sheet.png", png(captioned(sheet, captions)))
    files = [f"{folder}/predictions.csv", *([f"{folder}/sheet.png"] if sheet else [])]
    count = len(predictions)
    left_out = f", {len(paths) - count} left out" if count < len(paths) else ""
    print(f"{count} {'image' if count == 1 else 'images'}{left_out}: {', '.join(files)}")
    return folder


def pretrained(overrides: Sequence[str]) -> LoadedRun:
    """Return the network that overrides of the train config describe, with its pretrained weights."""
    if "model" not in keys_of(overrides):
        raise InputError("cnnlab predict needs run=FOLDER, or model=... with model.weights=...")
    subject = ModelSubject(overrides)
    if subject.weights is None:
        raise InputError("cnnlab predict model=... needs model.weights=...: without weights the network is untrained.")
    network = subject.task.pretrained_network(subject.constructor, subject.weights)
    described = {"input": vars(subject.spec)}
    module = subject.task.build_module(subject.preprocessing, network, subject.classes, described)
    return LoadedRun(subject.task, module, subject.spec)


def output_folder(cfg: Options, of_model: Sequence[str] = ()) -> Path:
    """Return the folder of the results."""
    name = Path(cfg.images).absolute().name
    if cfg.output:
        return Path(cfg.output)
    if not cfg.run:
        return Path("outputs/predictions") / f"{keys_of(of_model)['model'].value}-{name}"
    run = Path(cfg.run)
    return (run if run.is_dir() else run.parent) / "predictions" / name


@contextmanager
def threads_for(run: LoadedRun) -> Iterator[None]:
    """Compute a small network on one CPU thread: more would wait for each other and for those that decode."""
    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in run.network.parameters()) <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def batches(run: LoadedRun, paths: Sequence[Path], size: int, shown: int, options: Any) -> Iterator[list[Picture]]:
    """Yield batches of the pictures that can be read, read ahead; name the others on the console.

    shown: how many of the first pictures are kept to be shown. options: of the task.
    """
    jobs = [(path, number < shown) for number, path in enumerate(paths)]
    batch: list[Picture] = []
    pictures = map_ahead(partial(read, run, options), jobs, ahead=2 * size)
    for found in tqdm(pictures, "Predicting", len(jobs), unit="img", disable=None):
        if isinstance(found, DataError):
            tqdm.write(f"Left out: {found}")
            continue
        batch.append(found)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read(run: LoadedRun, options: Any, job: tuple[Path, bool]) -> Picture | DataError:
    """Read a picture, and keep it to be shown if the job says so; return the error if it cannot be read."""
    path, is_shown = job
    try:
        with allowing(run.task.max_pixels):
            pixels = read_image(path, run.channels, run.spec.ranges or {})
    except DataError as error:
        return error
    small = None
    if is_shown:
        small = tensor_image(pixels)
        small.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    return Picture(path, run.task.prepare(pixels, run.spec, options), small)


def annotated_name(image: Path) -> Path:
    """Return the PNG file for an image: a.png for a.png, but a.jpg.png for a.jpg, so that both can exist."""
    return image if image.suffix == ".png" else image.with_name(f"{image.name}.png")
