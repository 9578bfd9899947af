"""A run that leaves no trace: its parts as `train` builds them, and what a few of its steps take."""

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
from cnnlab.training.step_probe import Repeated, StepProbe, loader_seconds
from cnnlab.training.trainer import build_checkpoints, build_trainer

SECONDS = 2.0
"""How long each measurement takes; of slow networks one step."""
STOP = {"_target_": "cnnlab.training.divergence.Stop"}
"""Rolling back would write checkpoints."""
PATIENCE = 10
"""How many times as long phases are tried between the first and the last one."""


@dataclass(frozen=True)
class Phase:
    """`epochs` from `first` on that train the same stages; None: without an end.

    together: steps with images loaded for them. alone: steps on a batch that is there, of features where those are
    kept. kept: whether they are. missing: how many of them are still to be computed.
    """

    first: int
    epochs: int | None
    together: StepProbe
    alone: StepProbe
    kept: bool = False
    missing: int = 0


class DryRun:
    """Builds what `cfg` (plain, resolved, checked) describes, and takes a few steps of every phase in memory.

    seconds: how long each measurement takes. Raises the errors with which the run itself would begin.
    """

    def __init__(self, cfg: Config, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.trusted = trusted_prefixes(cfg)
        self.requested = cfg
        """The config of the run itself."""
        self._try_what_is_left_out()
        self.experiment: Experiment = build(quiet(cfg))
        self.experiment.check()
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
        self.loader = loader_seconds(self._image_loader(), seconds)
        """Seconds of a batch of training images, without the network."""
        self.batches = limited(len(self.data.train_dataloader()), cfg["trainer"]["limit_train_batches"])
        """Of an epoch."""
        self.epochs = self._epochs(trainer)
        """None for a run without an end."""
        self.phases = self._phases()

    # --- Building ---

    def _try_what_is_left_out(self) -> None:
        """Build what a trial does without, to see that it can be built."""
        problems = Problems()
        for group in ("callbacks", "logger"):
            problems.attempt(build_entries, self.requested[group], self.trusted)
        problems.attempt(build_checkpoints, self.requested, Path(self.requested["paths"]["output_dir"]), self.trusted)
        problems.attempt(build_node, self.requested["divergence"], self.trusted)
        problems.raise_all("These settings do not work:")

    def _obstacle(self) -> str:
        """Return why no features are kept although stages are frozen and freeze.cache=auto; empty if there is none."""
        if self.features is not None or self.cfg["freeze"]["cache"] != "auto" or not self.recomputes(0):
            return ""
        try:
            find_feature_cache(self.experiment, "on")
        except InputError as error:
            return str(error).removeprefix("freeze.cache=on is not possible: ").removesuffix(".")
        return ""

    def _find_records(self, epochs: int) -> str:
        """Return what comes of data.record_cache: "kept", "to be made", or why there are no records."""
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
        """Batches of training images, also where the run reads features of them."""
        self.data.cached = None
        loader: DataLoader = self.data.train_dataloader()
        self.data.cached = self.features
        if self.features is None:
            return loader
        view = self.features.view(0)
        draws = [[(view, index) for _, index in batch] for batch in loader.batch_sampler or ()]
        return self.data.loader(self.features.dataset, draws)

    def _phases(self) -> list[Phase]:
        """All that the run comes to; if networks are so slow that it takes too long, some between as the last one."""
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

        def look() -> None:
            if self.features and self.keeps and self.module.cut is not None:
                last = start + self.features.views if end is None else end
                missing.append(self.features.missing(self.module.cut, range(start, last)))

        together = alone = self._trial(start, look)
        if together.steady:  # else a step takes so long that nothing else counts
            self.data.cached = Repeated(together.batch)
            threads = torch.get_num_threads()
            if self.features and self.module.cut is not None and missing:
                torch.set_num_threads(self.features.threads(self.module.cut))
            alone = self._trial(start)
            torch.set_num_threads(threads)
        return Phase(start, end and end - start, together, alone, bool(missing), sum(missing))

    def _trial(self, epoch: int, at_end: Callable[[], None] = lambda: None) -> StepProbe:
        """Train `epoch` for a moment."""
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

    # --- Reckoning, in seconds ---

    def recomputes(self, epoch: int) -> bool:
        """Return whether frozen stages come first whose outputs the task could keep."""
        plan = self.module.recipe.plan
        keeps = "feature_cache" in self.experiment.task.capabilities
        return keeps and plan.first_trained(self.module.network, epoch) is not None

    def batch(self, phase: Phase) -> float:
        """Of a batch whose images are loaded and put through the whole network."""
        trial = phase.together
        return max(trial.step + (trial.wait if trial.steady else 0.0), self.loader)

    def computing(self, phase: Phase) -> float:
        """Of a batch whose images are loaded and put through the frozen stages."""
        return max(phase.together.wait, self.loader)

    def filling(self, phase: Phase) -> float:
        """Of the features that are missing."""
        return phase.missing * self.computing(phase) / self.data.batch_size

    def epoch(self, phase: Phase) -> float:
        """Of an epoch with its validation, once the features are there that it reads."""
        step = phase.alone.step if phase.kept else self.batch(phase)
        validation = phase.alone.validation or 0.0
        every = self.cfg["trainer"]["check_val_every_n_epoch"] or 1
        if not phase.kept:
            validation = max(validation, self.loader)
        return self.batches * step + self.validation_batches() / every * validation

    def validation_batches(self) -> int:
        part = self.data.parts.val
        count = math.ceil(len(part) / self.data.batch_size) if part is not None else 0
        return limited(count, self.requested["trainer"]["limit_val_batches"])

    def whole(self, phase: Phase) -> float:
        """Of the phase; of one without an end what it takes to the end of its first epoch."""
        return self.filling(phase) + (phase.epochs or 1) * self.epoch(phase)


def limited(batches: int, limit: int | float) -> int:
    """What trainer.limit_train_batches, and its like for validation, leave of so many batches."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def quiet(cfg: Config) -> Config:
    """Return the config of the same run in one process, without logs and checkpoints, with one batch to validate on."""
    trainer = cfg["trainer"] | {
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "limit_val_batches": min(1, math.ceil(cfg["trainer"]["limit_val_batches"])),
        "enable_checkpointing": False,
    }
    data = cfg["data"] | ({"record_cache": "off"} if "record_cache" in cfg["data"] else {})
    return cfg | {"trainer": trainer, "data": data, "callbacks": {}, "logger": {}, "divergence": STOP}
