"""`cnnlab evaluate`: score a run on its own data, or pretrained weights on any data set, and write a report."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cnnlab.config import build, is_go
from cnnlab.data.datamodule import DataModule, ImageDataModule, check_loading
from cnnlab.data.datasets.imagenet_subset import imagenet_classes
from cnnlab.data.images import LabelledImages, Splits, joined
from cnnlab.data.scanning import scan
from cnnlab.data.splitting import select
from cnnlab.errors import InputError
from cnnlab.loading import load_run
from cnnlab.models.preprocessing import fit
from cnnlab.models.weights import find_weights
from cnnlab.runs.folder import read_config, read_record
from cnnlab.runs.naming import claim, run_name
from cnnlab.runs.report import Scored, write_report
from cnnlab.training.classifier import Classifier
from cnnlab.verbs.assembly import spec_from, weights_statistics
from cnnlab.verbs.evaluate_go import evaluate_go
from cnnlab.verbs.subjects import (
    apply_changes,
    checked_config,
    data_of_run,
    outputs_of,
    pretrained_network,
    value_of,
)

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
GO_KEYS: dict[str, int | None] = {"symmetries": 8, "positions": None}
"""Keys for runs of data=go, with their defaults."""


def main(arguments: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) < len(arguments):
        raise InputError(f"cnnlab evaluate takes key=value, not {', '.join(a for a in arguments if '=' not in a)}.")
    if "run" in given:
        run = Path(given.pop("run"))
        evaluate_run(run, given)
    elif "model" in given:
        evaluate_model(arguments)
    else:
        raise InputError("cnnlab evaluate needs run=FOLDER, or model=... model.weights=... data=...")


def evaluate_run(run: Path, changes: dict[str, str]) -> dict:
    """Score a run's best network on its validation images (its test images, if it has some; or split=train|val|test).

    changes: values of the run's config to replace, such as data.root, and trusted_packages, which the run's files
    cannot choose themselves; of a run of data=go also symmetries=1|8 and positions=N. Writes `run/report/`, returns the
    metrics.
    """
    cfg = read_config(run)
    own = ("split", "trusted_packages", *(GO_KEYS if is_go(cfg["data"]) else ()))
    part = changes.pop("split", None)
    packages = value_of("trusted_packages", changes.pop("trusted_packages", "[]"), [])
    go = {key: value_of(key, changes.pop(key), old) for key, old in GO_KEYS.items() if key in own and key in changes}
    moved = any(key in changes for key in ("data.root", "paths.data_dir"))
    apply_changes(cfg, changes, own=own)
    loaded = load_run(run, packages)
    data = data_of_run(cfg, loaded.spec, packages)
    part = part or ("test" if data.parts.test is not None else "val")
    images = getattr(data.parts, part, None) if part in PARTS else None
    if images is None:
        there = ", ".join(name for name in PARTS if getattr(data.parts, name))
        raise InputError(f"split={part}: this run's data have no such part. There are: {there}.")
    if data.classes != loaded.classes:
        raise InputError(
            f"The data have the classes {', '.join(data.classes[:9])}; "
            f"the network knows {', '.join(loaded.classes[:9])}."
        )
    if not moved and data.split_hash != (stored := read_record(run).get("split_hash", data.split_hash)):
        log.warning(
            "The data are not those of the run (split %s, then %s): the %s images may have been trained on.",
            data.split_hash,
            stored,
            part,
        )
    if is_go(cfg["data"]):
        title = f"{run.name}: {part} positions of {cfg['data']['name']}"
        return evaluate_go(loaded.network, data, images, run / "report", title, **{**GO_KEYS, **go})
    scored = score(loaded.network, data, images, images.labels, loaded.classes)
    return report(run / "report", f"{run.name}: {part} images of {cfg['data']['name']}", scored, loaded.channels)


def evaluate_model(arguments: Sequence[str]) -> dict:
    """Score pretrained weights on *all* images of a data set; writes a report into a folder of its own."""
    cfg = checked_config(arguments)
    model, options = cfg["model"], cfg["data"]
    if is_go(options):
        raise InputError("cnnlab evaluate model=... scores pictures; a policy network of Go is scored by run=FOLDER.")
    if not model["weights"]:
        raise InputError("cnnlab evaluate model=... needs model.weights: a network without weights knows nothing.")
    check_loading(options["batch_size"], options["num_workers"])
    weights = find_weights(model["weights"], model["name"], Path(cfg["paths"]["data_dir"]))
    images = everything(options, Path(cfg["paths"]["cache_dir"]))
    outputs = outputs_of(weights)
    truth, classes = match_classes(images, outputs)
    spec = spec_from(model)
    preprocessing = fit("weights", [], **weights_statistics(weights, spec))
    classifier = Classifier(preprocessing, pretrained_network(cfg, weights), classes, {}).eval()
    data = ImageDataModule(
        Splits(images),
        skipped={},
        augmentations=(),
        channels=spec.channels,
        image_size=spec.image_size,
        resize_size=spec.resize_size,
        batch_size=options["batch_size"],
        num_workers=options["num_workers"],
        seed=0,
    )
    scored = score(classifier, data, images, truth, classes)
    output = cfg["paths"]["output_dir"]
    folder = (
        Path(output)
        if output
        else claim(Path(cfg["paths"]["root"]) / "evaluate" / run_name([], f"{model['name']}-{options['name']}"))
    )
    return report(
        folder / "report",
        f"{model['name']}: {len(images)} images of {options['name']}",
        scored,
        spec.channels,
    )


def everything(options: dict[str, Any], cache_dir: Path) -> LabelledImages:
    """All images of a data set, whatever part it publishes them in."""
    published: Splits = build(options["dataset"])()
    images = functools.reduce(joined, [part for part in (published.train, published.val, published.test) if part])
    chosen = select(images, options["classes"], options["images_per_class"], options["split_seed"])
    return scan(chosen, options["bad_images"], cache_dir).images


def match_classes(images: LabelledImages, outputs: int) -> tuple[np.ndarray, list[str]]:
    """The output index of each image's class, and all outputs' names; folders named by WordNet id fit 1,000."""
    wnids = list(imagenet_classes())
    named = images.wnids or (images.classes if set(images.classes) <= set(wnids) else None)
    if outputs == len(wnids) and named:
        index = np.array([wnids.index(wnid) for wnid in named])
        return index[images.labels], list(imagenet_classes().values())
    if outputs == len(images.classes):
        return images.labels, images.classes
    raise InputError(
        f"The weights have {outputs} classes, the data {len(images.classes)}, and these are not named by WordNet id."
    )


@torch.inference_mode()
def score(
    classifier: nn.Module,
    data: DataModule,
    images: LabelledImages,
    truth: np.ndarray,
    classes: list[str],
) -> Scored:
    """One pass over `images`, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier.to(device).eval()
    classifier.network.to(memory_format=torch.channels_last)
    loader: DataLoader = data.eval_dataloader(images)
    batches = [classifier(batch.to(device)).softmax(dim=1).cpu() for batch, _ in tqdm(loader, "Scoring", unit="batch")]
    return Scored(images, torch.cat(batches).double().numpy(), truth, list(classes))


def report(folder: Path, title: str, scored: Scored, channels: int) -> dict:
    numbers = write_report(folder, title, scored, channels)
    low, high = numbers["acc_interval_95"]
    print(
        f"acc {numbers['acc']:.4f} (95 % interval {low:.4f} to {high:.4f})   "
        f"acc_top5 {numbers['acc_top5']:.4f}   n {numbers['n']}"
    )
    print(f"Report: {folder / 'report.html'}")
    return numbers
