"""Engines against torch where no gradients are needed: features, `cnnlab evaluate` and `cnnlab predict`.

    python benchmarks/engines.py --data FOLDER [--quick] [--json FILE]

MobileNetV2 on photos of FOLDER/flower_photos, in float32. `features`: batches of 32 in memory through the frozen
stages, as torch computes them by default ("eager": contiguous, batch norm not folded) and by every engine. `evaluate`
and `predict`: 364 photos from files to the scores or the table, without the start of Python, by eager torch in a plain
loop over a DataLoader with two workers, and by the program with every engine; exporting the network counts. --run also
times experiment=flowers_frozen with an empty cache, from the start of the program to its end.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from common import IMAGENET_MEAN, IMAGENET_STD, arguments, each_apart, interleaved, program, ratio, report, spread
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import cnnlab
from cnnlab.api import data_of_run, engine_for
from cnnlab.models.cutting import Cut
from cnnlab.models.engines import RUNTIMES, TORCH, build_engine, is_installed
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.runs.folder import read_config

BATCH = 32
PHOTOS = 364
"""As many as the validation part of the flowers."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="also time experiment=flowers_frozen (minutes)")
    given = parser.parse_args()
    given.data = given.data.absolute()
    logging.disable(logging.WARNING)
    rounds, count = (1, 1) if given.quick else (5, 8)
    names = [TORCH, *(name for name in RUNTIMES if is_installed(name))]
    values: dict[str, Any] = {}
    ratios: dict[str, dict] = {}

    def compare(what: str, eager: Callable[[], float], engines: dict[str, Callable[[], float]]) -> None:
        found = interleaved(each_apart({"eager": eager, **engines}), rounds)
        values[f"{what}, images/s"] = found
        for name in engines:
            ratios[f"{what}: {name} / eager"] = ratio(found[name], found["eager"])

    compare("features", partial(features, None, count), {name: partial(features, name, count) for name in names})
    with tempfile.TemporaryDirectory() as folder:
        run = trained(given, Path(folder))
        photos = linked(given, Path(folder) / "photos")
        eager = partial(plain_predictions, run, photos)
        engines = [*names, "auto"]
        compare("predict", eager, {name: partial(predicted, run, photos, name) for name in engines})
        compare("evaluate", eager, {name: partial(evaluated, run, name) for name in engines})
    if given.run:
        values["frozen run, seconds"], values["frozen run, accuracy"] = frozen_run(given)
    report("engines", given, values, ratios)
    if given.run:
        print(f"\nflowers_frozen, empty cache: {values['frozen run, seconds']}, {values['frozen run, accuracy']}")


# --- Features ---


def features(engine: str | None, count: int) -> float:
    """Images per second through the frozen stages by an engine; None: by torch as it does by default."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 224, 224)
    network = with_features_and_classifier(torchvision.models.mobilenet_v2()).eval()
    compute: Callable[[Tensor], Tensor] = network.features
    if engine is not None:
        images = images.contiguous(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
        compute = build_engine(engine, Cut(network, "classifier", images[:2]).prefix_network, images[:2])
    with torch.no_grad():
        compute(images)
        began = time.perf_counter()
        for _ in range(count):
            compute(images)
    return count * BATCH / (time.perf_counter() - began)


# --- Evaluation and prediction ---


def trained(given: argparse.Namespace, folder: Path) -> Path:
    """The folder of a run of one short epoch: how well it predicts does not matter here."""
    program(
        given,
        folder / "run",
        *("model=mobilenet_v2", "data=flowers", "freeze=features", "freeze.cache=off", "trainer=cpu"),
        *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
        *("callbacks=none", "logger=none", f"paths.output_dir={folder / 'mobilenet_v2'}"),
        f"paths.cache_dir={folder / 'cache'}",
        *(["data.images_per_class=32", "data.val_fraction=0.2"] if given.quick else []),
    )
    return folder / "mobilenet_v2"


def linked(given: argparse.Namespace, folder: Path) -> Path:
    """A folder of links to photos of all classes."""
    every = sorted((given.data / "flower_photos").glob("*/*.jpg"))
    chosen = every[:: len(every) // PHOTOS][: 32 if given.quick else PHOTOS]
    for path in chosen:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path)
    return folder


def plain_predictions(run: Path, photos: Path) -> float:
    """Images per second of a plain loop: ImageFolder, two workers, batch 32, eager float32, top class of each."""
    network = torchvision.models.mobilenet_v2(num_classes=5)
    network.load_state_dict(torch.load(run / "best_weights.pth", weights_only=True))
    network.eval()
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    images = datasets.ImageFolder(
        str(photos), transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    )
    began = time.perf_counter()
    loader = DataLoader(Subset(images, range(len(images))), BATCH, num_workers=2)
    with torch.no_grad():
        found = [nn.functional.softmax(network(batch), dim=1).topk(3) for batch, _ in loader]
    return sum(len(each.values) for each in found) / (time.perf_counter() - began)


def predicted(run: Path, photos: Path, engine: str) -> float:
    from cnnlab.cli.predict import Options, predict

    began = time.perf_counter()
    options = Options(str(run), str(photos), str(run / "predictions" / engine), pictures="false", engine=engine)
    folder = predict(options)
    rows = len((folder / "predictions.csv").read_text().splitlines()) - 1
    return rows / (time.perf_counter() - began)


def evaluated(run: Path, engine: str) -> float:
    """Images per second of an evaluation, without writing the report, whose heat maps need gradients."""
    began = time.perf_counter()
    cfg, loaded = read_config(run), cnnlab.load_run(run)
    data = data_of_run(cfg, loaded.spec)
    with engine_for(loaded.task, loaded.network, data, data.parts.val, cfg, engine):
        evaluation: Any = loaded.task.evaluate(loaded.network, data, data.parts.val, loaded.task.evaluate_options())
    data.close()
    return evaluation.metrics["n"] / (time.perf_counter() - began)


# --- A whole run ---


def frozen_run(given: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Seconds of experiment=flowers_frozen with an empty cache, and its best validation accuracy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = [f"paths.cache_dir={folder / 'cache'}", f"paths.output_dir={folder / 'own'}"]
        few = ["data.images_per_class=20", "trainer.max_epochs=2"] if given.quick else []
        seconds = program(given, folder / "logs", "experiment=flowers_frozen", *own, *few)
        return spread([seconds]), json.loads((folder / "own" / "run.json").read_text())["best"]["val/acc"]


if __name__ == "__main__":
    main()
