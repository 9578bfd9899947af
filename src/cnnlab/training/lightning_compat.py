"""All uses of Lightning's private names, in one place to check when Lightning changes."""

import logging
import os
import subprocess
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler


class NoProfiler(PassThroughProfiler):
    """The profiler of runs that are not profiled; the default one builds a context manager a hundred times a step."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:
        return self.NOTHING


STEP_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
    *("on_validation_batch_start", "on_validation_batch_end", "on_test_batch_start", "on_test_batch_end"),
)
"""Hooks of a callback that are called in every step."""


def omit_empty_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Make Lightning skip the step hooks that a callback does not define.

    Lightning skips what is not callable. Preparing the calls of some hundred empty hooks takes a noticeable part of a
    small network's step.
    """
    for callback in callbacks:
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(L.Callback, hook):
                setattr(callback, hook, None)


def look_for_gpus_once() -> None:
    """Undo Lightning's PYTORCH_NVML_BASED_CUDA_CHECK on a machine without a GPU.

    With it, every optimizer step loads NVIDIA's library again to look for GPUs. It protects forks from an initialized
    CUDA, which such a machine does not have.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


SILENCED = (
    "Checkpoint directory .* exists and is not empty",  # a resumed run
    "Be aware that when using `ckpt_path`",  # best.ckpt holds averaged weights
    "You're resuming from a checkpoint that ended before",  # ResumedEpochs begins with the right batch
    ".*isinstance.treespec, LeafSpec",  # Lightning 2.6 on torch 2.14
    "Total length of .* across ranks is zero",  # a run without validation images
    ".*could not find the monitored key in the returned metrics",  # a run that ends before its first validation
    "The number of training batches .* is smaller than the logging interval",  # the means of epochs are logged
    "It is recommended to use .*sync_dist=True",  # values of the whole run are reduced, those of a step are rank zero's
)
"""Beginnings of warnings (regular expressions) that do not apply to cnnlab's runs."""


def logs_this_step(trainer: L.Trainer) -> bool:
    """Return whether what is logged in this training step reaches the loggers (`trainer.log_every_n_steps`)."""
    return trainer._logger_connector.should_update_logs


def resumes_within_epoch(trainer: L.Trainer) -> bool:
    """Return whether the fit resumes in the middle of an epoch, without a call of `on_train_epoch_start`."""
    return trainer.fit_loop.restarted_mid_epoch


def make_traceable(module: L.LightningModule) -> None:
    """Let torch.jit.trace, debuggers and the like read every attribute of a module without a trainer.

    Lightning's `trainer` raises RuntimeError then, except where Lightning itself traces the module.
    """
    module._jit_is_scripting = True


def begin_at_epoch(trainer: L.Trainer, epoch: int) -> None:
    """Make the next fit begin with `epoch`."""
    trainer.fit_loop.epoch_progress.current.processed = epoch  # type: ignore[attr-defined]


def take_over_processes(trainer: L.Trainer) -> list[subprocess.Popen]:
    """Return the processes that Lightning started for the other ranks, and stop Lightning from watching them.

    Its observer kills this process without a message when one of them fails.
    """
    launcher = trainer.strategy.launcher
    watched: list[subprocess.Popen] = getattr(launcher, "procs", [])
    if not watched:
        return []
    started = launcher.procs = list(watched)  # type: ignore[union-attr]
    watched.clear()  # the observer's own list
    return started


def adopt_messages() -> None:
    """Send Lightning's messages through cnnlab's log, once, and silence those that do not apply to its runs."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)
