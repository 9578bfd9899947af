"""The parts of a run, each built from the config groups of its name."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from cnnlab.config import build, build_entries, is_go, locate
from cnnlab.data.datamodule import DataModule, ImageDataModule, build_data
from cnnlab.data.records import keep_records
from cnnlab.data.splitting import content_hash
from cnnlab.data.store import Store
from cnnlab.data.transforms import BATCH_TRANSFORMS, batch_transforms
from cnnlab.errors import InputError
from cnnlab.loading import hyperparameters
from cnnlab.models.building import InputSpec, build_network, input_spec
from cnnlab.models.preprocessing import fit_once
from cnnlab.models.surgery import Surgery
from cnnlab.models.weights import Weights, find_weights
from cnnlab.runs.folder import RunFolder
from cnnlab.seeds import derive
from cnnlab.training.callbacks.best_metric import BestMetric
from cnnlab.training.callbacks.progress import Throughput
from cnnlab.training.checkpoints import AtomicCheckpoints, Resumable
from cnnlab.training.classifier import Classifier, Recipe
from cnnlab.training.feature_cache import FeatureCache, build_feature_cache
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.ranks import Ranks
from cnnlab.training.regularization import (
    AdversarialTraining,
    LabelSmoothing,
    MaxNorm,
    Penalty,
    WeightDecay,
    is_proximal,
)

Config = dict[str, Any]
OWN_ARGUMENTS = ("scale_lr", "overfit_batches")
"""Entries of the config group trainer that Lightning does not get: its own overfit_batches takes the first images of
the list, which are of one class where a data set is sorted."""
NOT_OF_DATA = ("name", "root", "channels", "dataset", "record_cache")
"""Entries of the config group data that `build_data` does not get."""
LSUV_IMAGES = 64
"""Training images by whose outputs init=lsuv sets the scale of each layer."""
WEIGHTED_BY: dict[str, Callable[[int], float]] = {
    "none": lambda processes: 1,
    "linear": lambda processes: processes,
    "sqrt": lambda processes: processes**0.5,
}


def spec_from(model: Config) -> InputSpec:
    """What the network of the config group `model` takes."""
    return input_spec(*(model[key] for key in ("name", "weights", "in_channels", "image_size", "resize_size")))


def augmentations_from(cfg: Config, trusted: tuple[str, ...]) -> Config:
    """The config group `augmentation`; a size that is null, because model.image_size is, becomes the network's."""
    size = spec_from(cfg["model"]).image_size
    entries = {
        name: {**entry, "size": size} if entry and entry.get("size", size) is None else entry
        for name, entry in cfg["augmentation"].items()
    }
    return build_entries(entries, trusted)


def data_from(cfg: Config, spec: InputSpec, trusted: tuple[str, ...]) -> DataModule:
    """The config group `data`, with the augmentations, at the size that the network takes.

    With trainer.overfit_batches so many random batches are all there is, to train and to validate on.
    """
    sizes = {"channels": spec.channels, "image_size": spec.image_size, "resize_size": spec.resize_size}
    data = data_module(cfg, sizes, list(augmentations_from(cfg, trusted).values()), trusted)
    if amount := cfg["trainer"]["overfit_batches"]:
        train = data.parts.train
        count = amount * data.batch_size if isinstance(amount, int) else round(amount * len(train))
        order = np.random.default_rng(derive(cfg["seed"], "overfit")).permutation(len(train))
        few = train.subset(np.sort(order[: max(1, count)]))
        data.parts = dataclasses.replace(data.parts, train=few, val=few, test=None)
        data.split_hash = content_hash(data.parts)
    return data


def data_module(
    cfg: Config, spec: dict[str, int], augmentations: Sequence[nn.Module], trusted: tuple[str, ...]
) -> DataModule:
    """The config group `data` for a network that takes the channels, image_size and resize_size of `spec`."""
    cache_dir = Path(cfg["paths"]["cache_dir"])
    if is_go(cfg["data"]):
        from cnnlab.data.positions import build_positions

        if turning := [type(step).__name__ for step in augmentations if not isinstance(step, BATCH_TRANSFORMS)]:
            raise InputError(
                f"augmentation: {', '.join(turning)} would change the board and not the move to learn. Use "
                "augmentation=none; data=go turns and mirrors boards together with their moves (data.symmetric)."
            )
        return build_positions(
            cache_dir=cache_dir,
            seed=cfg["seed"],
            channels=spec["channels"],
            image_size=spec["image_size"],
            **{key: value for key, value in cfg["data"].items() if key not in ("name", "channels")},
        )
    options = {key: value for key, value in cfg["data"].items() if key not in NOT_OF_DATA}
    return build_data(
        build(cfg["data"]["dataset"], trusted),
        augmentations=augmentations,
        cache_dir=cache_dir,
        seed=cfg["seed"],
        channels=spec["channels"],
        image_size=spec["image_size"],
        resize_size=spec["resize_size"],
        **options,
    )


def classifier_from(
    cfg: Config, spec: InputSpec, data: DataModule, regularizers: Config, trusted: tuple[str, ...]
) -> Classifier:
    """Preprocessing, network and recipe."""
    weights = cfg["model"]["weights"]
    found = find_weights(weights, cfg["model"]["name"], Path(cfg["paths"]["data_dir"])) if weights else None
    preprocessing = preprocessing_from(cfg, spec, found, data, trusted)
    network = network_from(cfg, found, data, preprocessing, regularizers, trusted)
    recipe = recipe_from(cfg, network, len(data.classes), regularizers, trusted)
    surgery = [node for name, node in cfg["regularization"].items() if isinstance(regularizers.get(name), Surgery)]
    sizes = {key: value for key, value in dataclasses.asdict(spec).items() if key not in ("mean", "std")}
    stored = hyperparameters({**cfg["model"]["network"], "_partial_": True}, surgery, data.classes, sizes)
    return Classifier(preprocessing, network, data.classes, stored, recipe)


def preprocessing_from(
    cfg: Config, spec: InputSpec, weights: Weights | None, data: DataModule, trusted: tuple[str, ...]
) -> nn.Module:
    """The config group `preprocessing`, fitted on the training images; `weights` brings statistics of its own."""
    layer = build(cfg["preprocessing"], trusted)
    if cfg["preprocessing"]["name"] != "weights":
        options = layer.keywords | {"images_NCHW": data.train_images()}
        return fit_once(Path(cfg["paths"]["cache_dir"]) / "preprocessing", data.train_fingerprint, **options)
    return layer(images_NCHW=(), **weights_statistics(weights, spec))


def weights_statistics(weights: Weights | None, spec: InputSpec) -> dict[str, list[float]]:
    """Mean and std of each channel that pretrained weights want; raises InputError if they are of other channels."""
    mean, std = (weights and weights.mean) or spec.mean, (weights and weights.std) or spec.std
    if len(mean) != spec.channels:
        raise InputError(
            f"preprocessing=weights has the statistics of {len(mean)} channels, the network takes {spec.channels}. "
            "Use preprocessing=standardize."
        )
    return {"mean": mean, "std": std}


def network_from(
    cfg: Config,
    weights: Weights | None,
    data: DataModule,
    preprocessing: nn.Module,
    regularizers: Config,
    trusted: tuple[str, ...],
) -> nn.Module:
    """The config groups `model` and `init`, with the surgery of `regularization`; lsuv sees preprocessed images."""
    sample = {"images": preprocessing(data.sample(LSUV_IMAGES).float() / 255)} if cfg["init"]["name"] == "lsuv" else {}
    network = build_network(
        build({**cfg["model"]["network"], "_partial_": True}, trusted),
        num_classes=len(data.classes),
        weights=weights,
        surgery=[entry for entry in regularizers.values() if isinstance(entry, Surgery)],
        init=functools.partial(build(cfg["init"], trusted), **sample),
        seed=cfg["seed"],
    )
    if cfg["speed"]["compile"] or (cfg["speed"]["compile"] is None and torch.cuda.is_available()):
        network.compile()
    return network


def recipe_from(
    cfg: Config, network: nn.Module, num_classes: int, regularizers: Config, trusted: tuple[str, ...]
) -> Recipe:
    """The config groups `optimizer`, `scheduler`, `loss` and `freeze`, and what of the others acts during training."""
    by_type = {type(entry): entry for entry in regularizers.values()}
    return Recipe(
        optimizer=optimizer_from(cfg, trusted),
        scheduler=build(cfg["scheduler"], trusted),
        loss=build(cfg["loss"], trusted),
        plan=FreezePlan(network, cfg["freeze"]["phases"], cfg["freeze"]["batch_norm"]),
        lr=cfg["optimizer"]["lr"],
        scale_lr=lr_rule(cfg["trainer"]["scale_lr"]),
        seed=cfg["seed"],
        weight_decay=by_type.get(WeightDecay, WeightDecay(0.0)),
        penalties=[e for e in regularizers.values() if isinstance(e, Penalty) and not is_proximal(e)],
        after_step=[e for e in regularizers.values() if isinstance(e, MaxNorm) or is_proximal(e)],
        label_smoothing=by_type.get(LabelSmoothing, LabelSmoothing(0.0)),
        adversary=by_type.get(AdversarialTraining),
        batch_transforms=batch_transforms(augmentations_from(cfg, trusted).values(), num_classes),
        channels_last=cfg["speed"]["channels_last"],
    )


def optimizer_from(cfg: Config, trusted: tuple[str, ...]) -> Callable[..., torch.optim.Optimizer]:
    """The config group `optimizer`, as one kernel for all parameters (`fused`) where it has that.

    Not with the gradient scaler of float16, which Lightning cannot clip gradients with then.
    """
    node = cfg["optimizer"]
    arguments = inspect.signature(locate(node["_target_"], trusted)).parameters
    fused = "fused" in arguments and not {"fused", "foreach"} & set(node) and cfg["speed"]["precision"] != "16-mixed"
    return build(node | ({"fused": True} if fused else {}), trusted)


def checkpoints_from(cfg: Config, folder: Path, trusted: Sequence[str]) -> list[L.Callback]:
    """The callbacks that write the checkpoints of the run in `folder`."""
    entries = {key: entry for key, entry in cfg["checkpoint"].items() if key != "every_n_steps"}
    callbacks = list(build_entries(entries, trusted).values())
    for callback in callbacks:
        callback.dirpath = str(folder / "checkpoints")
    return [*callbacks, Resumable(cfg["checkpoint"]["every_n_steps"])]


def trainer_from(
    cfg: Config, run: RunFolder, classifier: Classifier, regularizers: Config, trusted: tuple[str, ...]
) -> L.Trainer:
    """The groups trainer, callbacks, divergence, checkpoint and logger; DDP expects unused parameters if any freeze."""
    arguments = {key: value for key, value in cfg["trainer"].items() if key not in OWN_ARGUMENTS}
    if arguments["strategy"] == "ddp":
        arguments["strategy"] = DDPStrategy(
            find_unused_parameters=classifier.recipe.plan.ever_freezes(classifier.network)
        )
    callbacks = [
        Throughput(),
        build(cfg["divergence"], trusted),
        BestMetric(),
        *build_entries(cfg["callbacks"], trusted).values(),
        *(entry for entry in regularizers.values() if isinstance(entry, L.Callback)),
        Ranks(lambda error: run.end(status="failed", error=str(error), exit_code=error.exit_code)),
        *(checkpoints_from(cfg, run.path, trusted) if cfg["trainer"].get("enable_checkpointing", True) else []),
    ]
    loggers = list(build_entries(cfg["logger"], trusted).values())
    # A job that SLURM starts again goes on from last.ckpt: Lightning's own checkpoint for that knows less.
    of_slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    progress = bool(cfg["callbacks"].get("progress"))
    return build(
        arguments,
        trusted,
        callbacks=callbacks,
        logger=loggers,
        plugins=[*arguments.pop("plugins", []), AtomicCheckpoints(), *of_slurm],
        enable_progress_bar=progress,
        default_root_dir=str(run.path),
    )


def feature_cache_from(
    cfg: Config, spec: InputSpec, classifier: Classifier, data: DataModule, trainer: L.Trainer
) -> FeatureCache | None:
    """What of the config group `freeze` says that frozen stages see each image once."""
    if not isinstance(data, ImageDataModule):
        if cfg["freeze"]["cache"] == "on":
            raise InputError("freeze.cache=on cannot be: features are kept of images. Use freeze.cache=auto.")
        return None
    sizes = {key: value for key, value in dataclasses.asdict(spec).items() if key not in ("mean", "std")}
    return build_feature_cache(
        cfg["freeze"]["cache"],
        cfg["freeze"]["cache_views"],
        classifier,
        data,
        trainer,
        store_from(cfg),
        {"input": sizes, "augmentation": cfg["augmentation"]},
    )


def keep_records_from(cfg: Config, classifier: Classifier, data: DataModule, trainer: L.Trainer) -> None:
    """What of the config group `data` says that images are decoded once; where features are kept, they are not read."""
    if isinstance(data, ImageDataModule):
        epochs = reading_epochs(classifier, data, trainer)
        keep_records(cfg["data"]["record_cache"], data, store_from(cfg), epochs)


def reading_epochs(classifier: Classifier, data: DataModule, trainer: L.Trainer) -> int:
    """In how many epochs training reads images, not features; a run without an end counts as two of its last phase."""
    plan = classifier.recipe.plan
    last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else plan.phases[-1].epoch + 2
    return sum(not data.cached or plan.first_trained(classifier.network, epoch) is None for epoch in range(last))


def store_from(cfg: Config) -> Store:
    return Store(Path(cfg["paths"]["cache_dir"]), cfg["speed"]["cache_gib"])


def lr_rule(name: str) -> Callable[[int], float]:
    """How the learning rate grows with the number of processes; raises InputError for an unknown name."""
    if name not in WEIGHTED_BY:
        raise InputError(f"trainer.scale_lr={name}: use one of {', '.join(WEIGHTED_BY)}.")
    return WEIGHTED_BY[name]
