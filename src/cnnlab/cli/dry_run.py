"""Build a run as `train` does, and measure a few of its steps without writing anything."""

import dataclasses
import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch.utils.data import DataLoader

from cnnlab.config import Config, build_entries, trusted_prefixes
from cnnlab.config import build as build_node
from cnnlab.data.in_memory import MemoryLoader
from cnnlab.data.records import records_of, require_use, wanted
from cnnlab.errors import InputError, Problems
from cnnlab.experiment import (
    Experiment,
    build,
    find_feature_cache,
    reading_epochs,
    store_of,
)
from cnnlab.training.feature_cache import FeatureCache
from cnnlab.training.lightning_compat import begin_at_epoch
from cnnlab.training.speed_choice import limited
from cnnlab.training.step_probe import Repeated, StepProbe, loader_seconds
from cnnlab.training.trainer import build_checkpoints, build_trainer
from cnnlab.training.trainer_checks import check_arguments, check_trainer

SECONDS = 2.0
"""Duration of each measurement; a slow network takes one step."""
STOP = {"_target_": "cnnlab.training.divergence.Stop"}
"""The divergence policy of a dry run: rolling back would write checkpoints."""
PATIENCE = 10
"""Number of measurement durations after which phases between the first and the last are skipped."""


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs that train the same stages, and the measurements of their steps.

    first: the first epoch. epochs: their number; None: unlimited. together: steps with the loader. alone: steps on one
    batch in memory, of features if those are cached. kept: whether features are cached. missing: number of features
    that are not cached yet. stages: seconds in which the frozen stages alone compute the features of an image.
    """

    first: int
    epochs: int | None
    together: StepProbe
    alone: StepProbe
    kept: bool = False
    missing: int = 0
    stages: float = 0.0


class DryRun:
    """Builds the run of `cfg` (plain, resolved, checked), and takes a few steps of every phase in memory.

    seconds: duration of each measurement. Raises the errors that the run itself would start with.
    """

    def __init__(self, cfg: Config, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.trusted = trusted_prefixes(cfg)
        self.requested = cfg
        """The config of the run itself; `cfg` is that of the dry run."""
        self._build_omitted()
        self.experiment: Experiment = build(quiet(cfg), keeps=False)
        self.experiment.check()
        self._check_trainer()
        self.cfg = self.experiment.cfg
        self.data: Any = self.experiment.data
        self.module = self.experiment.module
        trainer = self.experiment.trainer
        self.device = trainer.strategy.root_device
        self.features = cast(FeatureCache | None, self.data.cached)
        self.obstacle = self._obstacle()
        self.keeps = self.features is not None and self.features.keep
        if self.features:
            self.features.keep = False  # filling is timed on a few batches, not done
        self.records = self._find_records(reading_epochs(self.experiment))
        loader = self._image_loader()
        self.in_memory = isinstance(loader, MemoryLoader) and loader.in_memory
        self.workers: int = loader.num_workers
        """Number of processes that load training images."""
        self.loader = loader_seconds(loader, seconds)
        """Seconds per batch of the loader alone."""
        self.batches = limited(len(self.data.train_dataloader()), cfg["trainer"]["limit_train_batches"])
        """Number of training batches per epoch."""
        self.epochs = self._epochs(trainer)
        """Number of epochs; None if unlimited."""
        self.phases = self._phases()

    # --- Building ---

    def _build_omitted(self) -> None:
        """Build the parts of the run that a dry run omits, to check their settings."""
        problems = Problems()
        for group in ("callbacks", "logger"):
            problems.attempt(build_entries, self.requested[group], self.trusted)
        problems.attempt(build_checkpoints, self.requested, Path(self.requested["paths"]["output_dir"]), self.trusted)
        problems.attempt(build_node, self.requested["divergence"], self.trusted)
        problems.attempt(check_arguments, self.requested)
        problems.raise_all("These settings do not work:")

    def _check_trainer(self) -> None:
        """Build the trainer of the run itself and check it, without starting anything."""
        trainer, data = build_trainer(self.requested, self.experiment.module, self.trusted), self.experiment.data
        check_trainer(trainer, self.requested, data, self.experiment.recipe)

    def _obstacle(self) -> str:
        """Return why features are not cached although stages are frozen and freeze.cache=auto; else an empty string."""
        if self.features is not None or self.cfg["freeze"]["cache"] != "auto" or not self.recomputes(0):
            return ""
        try:
            find_feature_cache(self.experiment, "on")
        except InputError as error:
            return str(error).removeprefix("freeze.cache=on is not possible: ").removesuffix(".")
        return ""

    def _find_records(self, epochs: int) -> str:
        """Return the state of the record cache: "kept", "to be made", "off", or why it is not possible."""
        setting = self.requested["data"].get("record_cache", "off")
        if "records" not in self.experiment.task.capabilities or not wanted(setting):
            return "off"
        parts, channels, store = self.data.recordable, self.data.channels, store_of(self.cfg)
        try:
            require_use(setting, parts, channels, store, epochs)
        except (InputError, OSError) as error:
            if setting == "on":
                raise InputError(f"data.record_cache=on is not possible: {error}") from error
            return str(error)
        found = records_of(parts, channels, store.look)
        if any(records.missing() for records in found.values()):
            return "to be made"
        self.data.records = found
        return "kept"

    def _epochs(self, trainer: L.Trainer) -> int | None:
        limits = [trainer.max_epochs] if trainer.max_epochs and trainer.max_epochs > 0 else []
        if trainer.max_steps > 0:
            limits.append(math.ceil(trainer.max_steps * trainer.accumulate_grad_batches / self.batches))
        return min(limits, default=None)

    # --- Measuring ---

    def _image_loader(self) -> DataLoader:
        """Return a loader of training images, even if the run reads features instead."""
        self.data.cached = None
        loader: DataLoader = self.data.train_dataloader()
        self.data.cached = self.features
        if self.features is None:
            return loader
        view = self.features.view(0)
        draws = [[(view, index) for _, index in batch] for batch in loader.batch_sampler or ()]
        return self.data.loader(self.features.dataset, draws)

    def _phases(self) -> list[Phase]:
        """Return all phases of the run; if measuring takes too long, middle ones are assumed to be like the last."""
        starts = [phase.epoch for phase in self.module.recipe.plan.phases]
        starts = [start for start in starts if self.epochs is None or start < self.epochs]
        ends = [*starts[1:], self.epochs]
        began = time.perf_counter()
        first = self._phase(starts[0], ends[0])
        if len(starts) == 1:
            return [first]
        last = self._phase(starts[-1], ends[-1])
        between = []
        for start, end in zip(starts[1:-1], ends[1:-1], strict=True):
            if time.perf_counter() - began < PATIENCE * self.seconds:
                between.append(self._phase(start, end))
            else:
                between.append(dataclasses.replace(last, first=start, epochs=end and end - start))
        return [first, *between, last]

    def _phase(self, start: int, end: int | None) -> Phase:
        self.data.cached = self.features
        missing: list[int] = []
        stages: list[float] = []

        def look() -> None:
            if self.features and self.keeps and self.module.cut is not None:
                last = start + self.features.views if end is None else end
                missing.append(self.features.missing(self.module.cut, range(start, last)))
                stages.append(self.features.seconds(self.module.cut))

        together = alone = self._probe(start, look)
        if together.steady:  # else steps are so slow that loading does not matter
            self.data.cached = Repeated(together.batch)
            threads = torch.get_num_threads()
            if self.features and self.module.cut is not None and missing:
                torch.set_num_threads(self.features.threads(self.module.cut))
            alone = self._probe(start)
            torch.set_num_threads(threads)
        return Phase(start, end and end - start, together, alone, bool(missing), sum(missing), sum(stages))

    def _probe(self, epoch: int, at_end: Callable[[], None] = lambda: None) -> StepProbe:
        """Train `epoch` for about `self.seconds`, and return the measurements."""
        trainer: L.Trainer = build_trainer(self.cfg, self.module, self.trusted)
        probe = StepProbe(self.seconds, at_end)
        trainer.callbacks.append(probe)  # type: ignore[attr-defined]
        begin_at_epoch(trainer, epoch)
        self.module.train()  # freezing has left batch norm in eval mode
        dataclasses.replace(self.experiment, trainer=trainer).fit()
        self.data.trainer = None
        del trainer
        gc.collect()  # ends the loader's workers
        return probe

    # --- Estimates, in seconds ---

    def recomputes(self, epoch: int) -> bool:
        """Return whether the first stages are frozen in `epoch`, and the task supports caching their outputs."""
        plan = self.module.recipe.plan
        keeps = "feature_cache" in self.experiment.task.capabilities
        return keeps and plan.first_trained(self.module.network, epoch) is not None

    def batch(self, phase: Phase) -> float:
        """Return the seconds of a training batch, including its loading."""
        probe = phase.together
        return max(probe.step + (probe.wait if probe.steady else 0.0), self.loader)

    def computing(self, phase: Phase) -> float:
        """Return the seconds of computing the features of a batch while the next one is loaded.

        The first batch, which waits for its engine to be built, does not count.
        """
        wait = phase.together.wait if phase.together.steady else 0.0
        return max(wait, self.loader, self.stages(phase))

    def stages(self, phase: Phase) -> float:
        """Return the seconds in which the frozen stages alone compute the features of a batch."""
        return self.data.batch_size * phase.stages

    def filling(self, phase: Phase) -> float:
        """Return the seconds of computing the missing features."""
        return phase.missing * self.computing(phase) / self.data.batch_size

    def epoch(self, phase: Phase) -> float:
        """Return the seconds of an epoch with its validation, once its features are cached."""
        step = phase.alone.step if phase.kept else self.batch(phase)
        validation = phase.alone.validation or 0.0
        every = self.cfg["trainer"]["check_val_every_n_epoch"] or 1
        if not phase.kept:
            validation = max(validation, self.loader)
        return self.batches * step + self.validation_batches() / every * validation

    def validation_batches(self) -> int:
        """Return the number of batches of a validation."""
        part = self.data.parts.val
        count = math.ceil(len(part) / self.data.batch_size) if part is not None else 0
        return limited(count, self.requested["trainer"]["limit_val_batches"])

    def whole(self, phase: Phase) -> float:
        """Return the seconds of the phase; of an unlimited one, those until the end of its first epoch."""
        return self.filling(phase) + (phase.epochs or 1) * self.epoch(phase)


def quiet(cfg: Config) -> Config:
    """Return the config of the run in one process, without logs and checkpoints, and with one validation batch."""
    trainer = cfg["trainer"] | {
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "limit_val_batches": min(1, math.ceil(cfg["trainer"]["limit_val_batches"])),
        "enable_checkpointing": False,
    }
    data = cfg["data"] | ({"record_cache": "off"} if "record_cache" in cfg["data"] else {})
    return cfg | {"trainer": trainer, "data": data, "callbacks": {}, "logger": {}, "divergence": STOP}
