"""`cnnlab evaluate`: score a run on its own data, or pretrained weights on any data set, and write a report."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cnnlab.config import build, check, compose, nearest, quote_path, trusted_prefixes
from cnnlab.data.datamodule import ImageDataModule, build_data
from cnnlab.data.datasets.imagenet_subset import imagenet_classes
from cnnlab.data.images import LabelledImages, Splits, joined
from cnnlab.data.scanning import scan
from cnnlab.data.splitting import select
from cnnlab.errors import InputError
from cnnlab.loading import load_run
from cnnlab.models.building import build_network
from cnnlab.models.preprocessing import fit
from cnnlab.models.stages import HEADS
from cnnlab.models.weights import Weights, find_weights
from cnnlab.runs.folder import read_config
from cnnlab.runs.naming import claim, run_name
from cnnlab.runs.report import Scored, write_report
from cnnlab.training.classifier import Classifier
from cnnlab.verbs.assembly import NOT_OF_DATA, spec_from

PARTS = ("train", "val", "test")


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
    cannot choose themselves; writes `run/report/`. Returns the metrics.
    """
    cfg = read_config(run)
    part = changes.pop("split", None)
    packages = value_of("trusted_packages", changes.pop("trusted_packages", "[]"), [])
    apply_changes(cfg, changes)
    loaded = load_run(run, packages)
    data = build_data(
        build(cfg["data"]["dataset"], trusted_prefixes({"trusted_packages": packages})),
        cache_dir=Path(cfg["paths"]["cache_dir"]),
        seed=cfg["seed"],
        channels=loaded.spec["channels"],
        image_size=loaded.spec["image_size"],
        resize_size=loaded.spec["resize_size"],
        **{key: value for key, value in cfg["data"].items() if key not in NOT_OF_DATA},
    )
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
    scored = score(loaded.network, data, images, images.labels, loaded.classes)
    return report(run / "report", f"{run.name}: {part} images of {cfg['data']['name']}", scored, loaded.channels)


def evaluate_model(arguments: Sequence[str]) -> dict:
    """Score pretrained weights on *all* images of a data set; writes a report into a folder of its own."""
    cfg_node = compose([quote_path(argument) for argument in arguments])
    check(cfg_node)
    cfg: dict[str, Any] = OmegaConf.to_container(cfg_node, resolve=True)  # type: ignore[assignment]
    model, options = cfg["model"], cfg["data"]
    if not model["weights"]:
        raise InputError("cnnlab evaluate model=... needs model.weights: a network without weights knows nothing.")
    weights = find_weights(model["weights"], model["name"], Path(cfg["paths"]["data_dir"]))
    images = everything(options, Path(cfg["paths"]["cache_dir"]))
    outputs = outputs_of(weights)
    truth, classes = match_classes(images, outputs)
    spec = spec_from(model)
    network = build_network(
        build({**model["network"], "_partial_": True}), num_classes=outputs, weights=weights, seed=0
    )
    preprocessing = fit("weights", [], mean=weights.mean or spec.mean, std=weights.std or spec.std)
    classifier = Classifier(preprocessing, network, classes, {}).eval()
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


def apply_changes(cfg: dict[str, Any], changes: dict[str, str]) -> None:
    """Replace values of a resolved config; a changed paths.data_dir moves the paths below it.

    Raises InputError for an unknown key.
    """
    old_data_dir = cfg["paths"]["data_dir"]
    for key, text in changes.items():
        node, *rest = key.split(".")
        if len(rest) != 1 or node not in ("data", "paths") or rest[0] not in cfg[node]:
            known = [
                "split",
                "trusted_packages",
                *(f"{group}.{name}" for group in ("data", "paths") for name in cfg[group] if name != "dataset"),
            ]
            raise InputError(f"{key} cannot be changed in an evaluation. {nearest([key], known)}")
        is_path = node == "paths" or rest == ["root"]
        cfg[node][rest[0]] = text if is_path else value_of(key, text, cfg[node][rest[0]])
    dataset = cfg["data"]["dataset"]
    if "data.root" in changes and "root" not in dataset:
        raise InputError(f"data.root cannot be changed: {cfg['data']['name']} has no folder.")
    if "data.root" in changes:
        dataset["root"] = cfg["data"]["root"]
    elif "paths.data_dir" in changes and dataset.get("root"):
        root = Path(dataset["root"])
        if not root.is_relative_to(old_data_dir):
            raise InputError(f"The data of this run are in {root}, not below {old_data_dir}: set data.root instead.")
        dataset["root"] = str(Path(cfg["paths"]["data_dir"]) / root.relative_to(old_data_dir))


def value_of(key: str, text: str, old: Any) -> Any:
    """What `text` means in YAML; raises InputError if it is no YAML or of another type than `old`."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
    except yaml.YAMLError as error:
        raise InputError(f"{key}={text} cannot be parsed.") from error
    alike = (int, float) if isinstance(old, int | float) else type(old)
    if None not in (old, value) and not isinstance(value, alike):
        raise InputError(f"{key}={text} is not of the type {type(old).__name__}, as {old!r} is.")
    return value


def everything(options: dict[str, Any], cache_dir: Path) -> LabelledImages:
    """All images of a data set, whatever part it publishes them in."""
    published: Splits = build(options["dataset"])()
    images = functools.reduce(joined, [part for part in (published.train, published.val, published.test) if part])
    chosen = select(images, options["classes"], options["images_per_class"], options["split_seed"])
    return scan(chosen, options["bad_images"], cache_dir).images


def outputs_of(weights: Weights) -> int:
    """The number of classes that the weights' head scores; raises InputError if they have no head."""
    heads = [value for name, value in weights.state.items() if name.split(".")[0] in HEADS and value.ndim]
    if not heads:
        names = ", ".join(f"{name}.*" for name in HEADS)
        raise InputError(
            f"{weights.source} has no classifier (none of {names}): it can name no class. "
            "Train one first: python train.py model=... model.weights=... freeze=features"
        )
    return heads[-1].shape[0]


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
    data: ImageDataModule,
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
