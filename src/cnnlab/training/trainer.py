"""The trainer of a run, with its callbacks and checkpoints, and what its errors mean."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch.distributed import DistError

from cnnlab.config import Config, build, build_entries
from cnnlab.errors import InputError
from cnnlab.system.faults import translate_error
from cnnlab.training.callbacks.best_metric import BestMetric
from cnnlab.training.callbacks.progress import Throughput
from cnnlab.training.checkpoints import AtomicCheckpoints, Resumable
from cnnlab.training.lightning_compat import NoProfiler, look_for_gpus_once, omit_empty_hooks
from cnnlab.training.module import TaskModule
from cnnlab.training.rank_monitor import PATIENCE, RankMonitor

OWN_KEYS = ("scale_lr", "overfit_batches")
"""Keys of the trainer group that are not arguments of lightning.Trainer: its own overfit_batches takes the first images
of the list, which are of one class where a data set is sorted."""


def build_trainer(cfg: Config, module: TaskModule, trusted: Sequence[str]) -> L.Trainer:
    """Return the groups trainer, callbacks, divergence, checkpoint and logger; DDP expects unused parameters if any
    freeze."""
    recipe, folder = module.recipe, Path(cfg["paths"]["output_dir"])
    arguments = {key: value for key, value in cfg["trainer"].items() if key not in OWN_KEYS}
    if arguments["strategy"] == "ddp":
        arguments["strategy"] = DDPStrategy(find_unused_parameters=recipe.plan.ever_freezes(module.network))
    callbacks = [
        Throughput(),
        build(cfg["divergence"], trusted),
        BestMetric(recipe.monitor, recipe.mode),
        *build_entries(cfg["callbacks"], trusted).values(),
        *(entry for entry in recipe.regularizers.values() if isinstance(entry, L.Callback)),
        RankMonitor(),
        *(build_checkpoints(cfg, folder, trusted) if cfg["trainer"].get("enable_checkpointing", True) else []),
    ]
    # A job that SLURM starts again goes on from last.ckpt: Lightning's own checkpoint for that knows less.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    own = {
        "callbacks": callbacks,
        "logger": list(build_entries(cfg["logger"], trusted).values()),
        "plugins": [AtomicCheckpoints(), *slurm],
        "enable_progress_bar": bool(cfg["callbacks"].get("progress")),
        "default_root_dir": str(folder),
    }
    look_for_gpus_once()
    constructor = build({"profiler": NoProfiler(), **arguments, "_partial_": True}, trusted)
    try:
        trainer: L.Trainer = constructor(**own)
    except Exception as error:  # Lightning raises errors of many types for arguments that it refuses
        raise translate_error(error) or InputError(f"trainer: {' '.join(str(error).split())}") from error
    omit_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
    return trainer


def build_checkpoints(cfg: Config, folder: Path, trusted: Sequence[str]) -> list[L.Callback]:
    """Return the callbacks that write the checkpoints of the run in `folder`."""
    entries = {key: entry for key, entry in cfg["checkpoint"].items() if key != "every_n_steps"}
    callbacks = list(build_entries(entries, trusted).values())
    for callback in callbacks:
        callback.dirpath = str(folder / "checkpoints")
    return [*callbacks, Resumable(cfg["checkpoint"]["every_n_steps"])]


def translate_fit_error(error: BaseException, monitor: RankMonitor) -> BaseException:
    """Return the cause of an error that a fit raised.

    Lightning turns Ctrl-C and SIGTERM into exits, and wrong settings into its own error; a process that has failed
    appears as a lost connection to the others.
    """
    if isinstance(error, MisconfigurationException):
        return InputError(str(error))
    if isinstance(error, SystemExit):
        stopped = isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)
        return KeyboardInterrupt() if stopped else error
    if isinstance(error, RuntimeError) and (isinstance(error, DistError) or "gloo" in str(error)):
        return monitor.failure(wait=PATIENCE) or error
    return error
