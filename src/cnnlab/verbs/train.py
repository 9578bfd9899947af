"""`train.py`, `cnnlab train`: train one configured network and leave a complete run folder behind."""

import logging
import warnings
from pathlib import Path
from typing import Any, TypeVar

import joblib
import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch.distributed import DistError

from cnnlab.config import build_entries, trusted_prefixes
from cnnlab.data.datamodule import DataModule
from cnnlab.errors import InputError
from cnnlab.files import load_tensors, write_atomically
from cnnlab.models.weighted import weights_of
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.tensorboard import cut_events, event_sizes, session
from cnnlab.training.callbacks.best_metric import BestMetric
from cnnlab.training.callbacks.progress import Throughput, peak_memory
from cnnlab.training.classifier import Classifier
from cnnlab.training.divergence import Divergence
from cnnlab.training.ranks import PATIENCE, Ranks
from cnnlab.training.regularization import is_proximal, sparsity
from cnnlab.verbs.assembly import (
    Config,
    classifier_from,
    feature_cache_from,
    keep_records_from,
    spec_from,
    trainer_from,
)
from cnnlab.verbs.combinations import checked_data

log = logging.getLogger(__name__)


def train(cfg: Config, run: RunFolder, resume_from: Path | None = None) -> dict[str, Any]:
    """Train what `cfg` (plain, resolved, checked) describes; returns the run's record."""
    require_device(cfg["trainer"]["accelerator"])
    use_threads(cfg["speed"]["num_threads"])
    trusted = trusted_prefixes(cfg)
    spec = spec_from(cfg["model"])
    data = checked_data(cfg, spec, trusted)
    regularizers = build_entries(cfg["regularization"], trusted)
    classifier = classifier_from(cfg, spec, data, regularizers, trusted)
    trainer = trainer_from(cfg, run, classifier, regularizers, trusted)
    require_work_for_all(data, trainer.world_size)
    data.cached = feature_cache_from(cfg, spec, classifier, data, trainer)
    keep_records_from(cfg, classifier, data, trainer)
    describe(run, data, trainer)
    if resume_from and run.writes:
        cut_events(run.path, load_tensors(resume_from).get("event_sizes", event_sizes(run.path)))
    with session(trainer.loggers, run.record["settings"]):
        try:
            fit(trainer, classifier, data, resume_from)
        finally:
            if events := of_kind(Divergence, trainer).events:  # type: ignore[type-abstract]
                run.record["divergence"] = events
        keep_best(run, trainer, classifier, data)
    return run.record


def adopt_lightning_messages() -> None:
    """Lightning's messages go through our log once, instead of beside it."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run is resumed
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")  # ResumedEpochs
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning 2.6 on torch 2.14


def use_threads(count: int | None) -> None:
    """Of the CPU for this process; None: all that it may use."""
    torch.set_num_threads(count or min(torch.get_num_threads(), joblib.cpu_count()))


def require_device(accelerator: str) -> None:
    """Raises InputError if a GPU is asked for where there is none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={accelerator}: this machine has no CUDA GPU. Use trainer=cpu or trainer=auto."
        )


def require_work_for_all(data: DataModule, processes: int) -> None:
    """Raises InputError if a process would get no example of a part: the others would wait for it forever."""
    for name in ("train", "val", "test"):
        part = getattr(data.parts, name)
        if part is not None and len(part) < processes:
            raise InputError(
                f"{data.examples}: {len(part)} in {name} are too few for {processes} processes, which need one each. "
                "Lower trainer.devices, or give more (data.val_fraction, data.test_fraction)."
            )


def describe(run: RunFolder, data: DataModule, trainer: L.Trainer) -> None:
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
        run.write_text(f"splits/{name}.txt", "".join(f"{entry}\n" for entry in data.listing(part)))
    if data.skipped:
        run.write_text(f"skipped_{data.unit}.txt", "".join(f"{reason}\n" for reason in data.skipped.values()))
    log.info(
        "%s: %s in %d classes",
        data.examples,
        ", ".join(f"{count} {name}" for name, count in counts.items()),
        len(data.classes),
    )


def fit(trainer: L.Trainer, classifier: Classifier, data: DataModule, resume_from: Path | None) -> None:
    """Train, and raise what ended it rather than what Lightning makes of that; no process of the run is left behind."""
    threads = torch.get_num_threads()
    ranks = of_kind(Ranks, trainer)
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=resume_from)
    except BaseException as error:
        meant = meaning(error, ranks)
        ranks.end()
        if meant is error:
            raise
        raise meant from error
    finally:
        torch.set_num_threads(threads)  # training on cached features takes fewer


def meaning(error: BaseException, ranks: Ranks) -> BaseException:
    """Lightning turns Ctrl-C and SIGTERM into exits, and wrong settings into its own error; a process that has failed
    is a lost connection to the others."""
    if isinstance(error, MisconfigurationException):
        return InputError(str(error))
    if isinstance(error, SystemExit):
        stopped = isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)
        return KeyboardInterrupt() if stopped else error
    if isinstance(error, RuntimeError) and (isinstance(error, DistError) or "gloo" in str(error)):
        return ranks.failure(wait=PATIENCE) or error
    return error


C = TypeVar("C", bound=L.Callback)


def of_kind(kind: type[C], trainer: L.Trainer) -> C:
    """The callback of that kind, which every run has."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]


def keep_best(run: RunFolder, trainer: L.Trainer, classifier: Classifier, data: DataModule) -> None:
    """Record the metrics, score the best network on the test images if there are any, and export its weights."""
    best, throughput = of_kind(BestMetric, trainer), of_kind(Throughput, trainer)
    last = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith(("val/", "train/"))}
    if throughput.speed or "last" not in run.record:  # a finished run that is resumed keeps what it recorded
        run.update(
            best={} if best.value is None else {best.monitor: best.value, "epoch": best.epoch},
            last={**last, "epoch": trainer.current_epoch - 1},
            images_per_second=round(throughput.speed, 2) if throughput.speed else None,
            data_wait_share=round(throughput.wait_share, 3) if throughput.wait_share is not None else None,
            peak_memory_gib=round(peak_memory(trainer.strategy.root_device) / 2**30, 2),
        )
    if throughput.speed:
        log.info(
            "Training: %.0f images/s, %.0f %% of the time waiting for data; peak memory %.2f GiB",
            throughput.speed,
            100 * (throughput.wait_share or 0.0),
            run.record["peak_memory_gib"],
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
        if any(is_proximal(entry) for entry in classifier.recipe.after_step):
            run.update(sparsity=sparsity({name: weights[name] for name in weights_of(classifier.network)}))
            shares = [f"{name.removesuffix('.weight')} {share:.1%}" for name, share in run.record["sparsity"].items()]
            log.info("Exact zeros among the weights: %s", "   ".join(shares))
    run.update(test=test)
    log.info(
        "Best val/acc: %s (epoch %s)   last: %.4f",
        best.value and f"{best.value:.4f}",
        best.epoch,
        run.record["last"].get("val/acc", float("nan")),
    )
    if test:
        log.info("Test: %s", "   ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in test.items()))
