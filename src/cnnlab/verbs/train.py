"""`train.py`, `cnnlab train`: train one configured network and leave a complete run folder behind."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cnnlab.config import build, build_entries, trusted_prefixes
from cnnlab.data.datamodule import ImageDataModule, build_data
from cnnlab.data.images import Splits
from cnnlab.data.transforms import batch_transforms
from cnnlab.errors import InputError
from cnnlab.files import write_atomically
from cnnlab.loading import hyperparameters
from cnnlab.models.building import InputSpec, build_network, input_spec
from cnnlab.models.surgery import Surgery
from cnnlab.models.weights import find_weights
from cnnlab.runs.folder import RunFolder
from cnnlab.seeds import derive
from cnnlab.training.callbacks.best_metric import BestMetric
from cnnlab.training.callbacks.progress import Throughput
from cnnlab.training.classifier import Classifier, Recipe
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.regularization import L2Penalty, LabelSmoothing, WeightDecay

log = logging.getLogger(__name__)
Config = dict[str, Any]
OWN_ARGUMENTS = ("scale_lr", "overfit_batches")
"""Entries of the config group trainer that Lightning does not get: its own overfit_batches takes the first images of
the list, which are of one class where a data set is sorted."""
WEIGHTED_BY: dict[str, Callable[[int], float]] = {
    "none": lambda processes: 1,
    "linear": lambda processes: processes,
    "sqrt": lambda processes: processes**0.5,
}


def train(cfg: Config, run: RunFolder, resume_from: Path | None = None) -> dict[str, Any]:
    """Train what `cfg` (plain, resolved, checked) describes; returns the run's record."""
    require_device(cfg["trainer"]["accelerator"])
    if cfg["speed"]["num_threads"]:
        torch.set_num_threads(cfg["speed"]["num_threads"])
    trusted = trusted_prefixes(cfg)
    regularizers = build_entries(cfg["regularization"], trusted)
    spec = input_spec(*(cfg["model"][key] for key in ("name", "weights", "in_channels", "image_size", "resize_size")))
    data = data_from(cfg, spec, trusted)
    require_validation(cfg, regularizers, data)
    classifier = classifier_from(cfg, spec, data, regularizers, trusted)
    trainer = trainer_from(cfg, run, classifier, regularizers, trusted)
    describe(run, data, trainer)
    fit(trainer, classifier, data, resume_from)
    keep_best(run, trainer, classifier, data)
    return run.record


def lr_rule(name: str) -> Callable[[int], float]:
    """How the learning rate grows with the number of processes; raises InputError for an unknown name."""
    if name not in WEIGHTED_BY:
        raise InputError(f"trainer.scale_lr={name}: use one of {', '.join(WEIGHTED_BY)}.")
    return WEIGHTED_BY[name]


def require_device(accelerator: str) -> None:
    """Raises InputError if a GPU is asked for where there is none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={accelerator}: this machine has no CUDA GPU. Use trainer=cpu or trainer=auto."
        )


def require_validation(cfg: Config, regularizers: Config, data: ImageDataModule) -> None:
    """Raises InputError if something waits for a validation accuracy that there will not be."""
    waiting = [f"regularization.{name}" for name, entry in regularizers.items() if isinstance(entry, EarlyStopping)]
    waiting += ["scheduler"] if cfg["scheduler"]["_target_"].endswith(".ReduceLROnPlateau") else []
    if waiting and (data.parts.val is None or not cfg["trainer"]["limit_val_batches"]):
        raise InputError(f"{', '.join(waiting)} follows val/acc, but nothing is validated: raise data.val_fraction.")


def data_from(cfg: Config, spec: InputSpec, trusted: tuple[str, ...]) -> ImageDataModule:
    """The config group `data`, with the augmentations, at the size that the network takes.

    With trainer.overfit_batches so many random batches are all there is, to train and to validate on.
    """
    options = {key: value for key, value in cfg["data"].items() if key not in ("name", "root", "channels", "dataset")}
    data = build_data(
        build(cfg["data"]["dataset"], trusted),
        augmentations=list(build_entries(cfg["augmentation"], trusted).values()),
        cache_dir=Path(cfg["paths"]["cache_dir"]),
        seed=cfg["seed"],
        channels=spec.channels,
        image_size=spec.image_size,
        resize_size=spec.resize_size,
        **options,
    )
    if amount := cfg["trainer"]["overfit_batches"]:
        train = data.parts.train
        count = amount * data.batch_size if isinstance(amount, int) else round(amount * len(train))
        order = np.random.default_rng(derive(cfg["seed"], "overfit")).permutation(len(train))
        few = train.subset(np.sort(order[: max(1, count)]))
        data.parts = Splits(few, few)
    return data


def classifier_from(
    cfg: Config, spec: InputSpec, data: ImageDataModule, regularizers: Config, trusted: tuple[str, ...]
) -> Classifier:
    """Preprocessing, network and recipe, from the config groups of these names."""
    weights = cfg["model"]["weights"]
    found = find_weights(weights, cfg["model"]["name"], Path(cfg["paths"]["data_dir"])) if weights else None
    network = build_network(
        build({**cfg["model"]["network"], "_partial_": True}, trusted),
        num_classes=len(data.classes),
        weights=found,
        surgery=[entry for entry in regularizers.values() if isinstance(entry, Surgery)],
        init=build(cfg["init"], trusted),
        seed=cfg["seed"],
    )
    statistics: Config = {}
    if cfg["preprocessing"]["name"] == "weights":
        statistics = {"mean": (found and found.mean) or spec.mean, "std": (found and found.std) or spec.std}
        if len(statistics["mean"]) != spec.channels:
            raise InputError(
                f"preprocessing=weights has the statistics of {len(statistics['mean'])} channels, the network takes "
                f"{spec.channels}. Use preprocessing=standardize."
            )
    preprocessing = build(cfg["preprocessing"], trusted)(images_NCHW=data.train_images(), **statistics)
    surgery = [node for name, node in cfg["regularization"].items() if isinstance(regularizers.get(name), Surgery)]
    sizes = {key: value for key, value in dataclasses.asdict(spec).items() if key not in ("mean", "std")}
    stored = hyperparameters({**cfg["model"]["network"], "_partial_": True}, surgery, data.classes, sizes)
    by_type = {type(entry): entry for entry in regularizers.values()}
    recipe = Recipe(
        optimizer=build(cfg["optimizer"], trusted),
        scheduler=build(cfg["scheduler"], trusted),
        loss=build(cfg["loss"], trusted),
        plan=FreezePlan(network, **cfg["freeze"]),
        lr=cfg["optimizer"]["lr"],
        scale_lr=lr_rule(cfg["trainer"]["scale_lr"]),
        seed=cfg["seed"],
        weight_decay=by_type.get(WeightDecay, WeightDecay(0.0)),
        l2=by_type.get(L2Penalty, L2Penalty(0.0)),
        label_smoothing=by_type.get(LabelSmoothing, LabelSmoothing(0.0)),
        batch_transforms=batch_transforms(build_entries(cfg["augmentation"], trusted).values()),
        channels_last=cfg["speed"]["channels_last"],
    )
    if cfg["speed"]["compile"] or (cfg["speed"]["compile"] is None and torch.cuda.is_available()):
        network.compile()
    return Classifier(preprocessing, network, data.classes, stored, recipe)


def trainer_from(
    cfg: Config, run: RunFolder, classifier: Classifier, regularizers: Config, trusted: tuple[str, ...]
) -> L.Trainer:
    """The config groups trainer, callbacks, checkpoint and logger; DDP expects unused parameters if any are frozen."""
    arguments = {key: value for key, value in cfg["trainer"].items() if key not in OWN_ARGUMENTS}
    if arguments["strategy"] == "ddp":
        arguments["strategy"] = DDPStrategy(
            find_unused_parameters=classifier.recipe.plan.ever_freezes(classifier.network)
        )
    checkpoints = build_entries(cfg["checkpoint"], trusted).values()
    for checkpoint in checkpoints:
        checkpoint.dirpath = str(run.path / "checkpoints")
    callbacks = [
        Throughput(),
        BestMetric(),
        *build_entries(cfg["callbacks"], trusted).values(),
        *(entry for entry in regularizers.values() if isinstance(entry, L.Callback)),
        *checkpoints,
    ]
    loggers = list(build_entries(cfg["logger"], trusted).values())
    progress = bool(cfg["callbacks"].get("progress"))
    return build(
        arguments,
        trusted,
        callbacks=callbacks,
        logger=loggers,
        enable_progress_bar=progress,
        default_root_dir=str(run.path),
    )


def describe(run: RunFolder, data: ImageDataModule, trainer: L.Trainer) -> None:
    """Write what is known before the first step: device, split, classes, skipped files."""
    parts = {name: part for name in ("train", "val", "test") if (part := getattr(data.parts, name)) is not None}
    counts = {name: len(part) for name, part in parts.items()}
    device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else "cpu"
    run.update(
        device=device,
        world_size=trainer.world_size,
        images=counts,
        classes=len(data.classes),
        split_hash=data.split_hash,
    )
    run.write_json("class_indices.json", dict(enumerate(data.classes)))
    for name, part in parts.items():
        run.write_text(f"splits/{name}.txt", "".join(f"{part.name(index)}\n" for index in range(len(part))))
    if data.skipped:
        run.write_text("skipped_images.txt", "".join(f"{reason}\n" for reason in data.skipped.values()))
    log.info(
        "Images: %s in %d classes",
        ", ".join(f"{count} {name}" for name, count in counts.items()),
        len(data.classes),
    )


def fit(trainer: L.Trainer, classifier: Classifier, data: ImageDataModule, resume_from: Path | None) -> None:
    """Lightning turns Ctrl-C into an exit and wrong settings into its own error; give them back as what they are."""
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=resume_from)
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    except SystemExit as error:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from error
        raise


def keep_best(run: RunFolder, trainer: L.Trainer, classifier: Classifier, data: ImageDataModule) -> None:
    """Record the metrics, score the best network on the test images if there are any, and export its weights."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    best = next(callback for callback in callbacks if isinstance(callback, BestMetric))
    throughput = next(callback for callback in callbacks if isinstance(callback, Throughput))
    last = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith(("val/", "train/"))}
    if throughput.speed or "last" not in run.record:  # a finished run that is resumed keeps what it recorded
        run.update(
            best={} if best.value is None else {best.monitor: best.value, "epoch": best.epoch},
            last={**last, "epoch": trainer.current_epoch - 1},
            images_per_second=round(throughput.speed, 2) if throughput.speed else None,
        )
    if not run.best_checkpoint.is_file():
        return
    test: dict[str, float] = {}
    if data.parts.test is not None:
        trainer.test(classifier, datamodule=data, ckpt_path=run.best_checkpoint, verbose=False)
        test = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test/")}
    if run.writes:
        state = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        weights = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
        write_atomically(run.path / "best_weights.pth", lambda file: torch.save(weights, file))
    run.update(test=test)
    log.info(
        "Best val/acc: %s (epoch %s)   last: %.4f",
        best.value and f"{best.value:.4f}",
        best.epoch,
        run.record["last"].get("val/acc", float("nan")),
    )
    if test:
        log.info("Test: %s", "   ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in test.items()))
