"""Measure time and memory of a few training steps without writing anything, for `cnnlab check`."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cnnlab.training.feature_cache import Batches
from cnnlab.training.module import TaskModule

ENOUGH = 100
"""Number of batches after which the time is precise enough."""
PATIENCE = 4
"""Factor by which the planned time may be exceeded to get a batch after the first."""


@dataclass
class Memory:
    """Memory of a training step in bytes; activations: what the forward pass saves for the backward pass."""

    gradients: int = 0
    optimizer: int = 0
    activations: int = 0


class StepProbe(L.Callback):
    """A callback that ends a fit after about `seconds`, and keeps the times and memory of its steps.

    The fit has at least one training step and one validation batch. The callback must come after all other callbacks.
    batch: the first batch, on the device. loss: the loss of the first step. trained: number of parameters with a
    gradient. at_end: called while the network is still on its device.
    """

    def __init__(self, seconds: float, at_end: Callable[[], None] = lambda: None) -> None:
        self.seconds = seconds
        self.at_end = at_end
        self.batch: Any = None
        self.loss = float("nan")
        self.trained = 0
        self.memory = Memory()
        self.validation: float | None = None
        """Seconds of one validation batch; None without validation."""
        self._waits: list[float] = []
        self._steps: list[float] = []
        self._began = self._mark = 0.0

    @property
    def steady(self) -> bool:
        """Whether there was time for a second step; the first one includes one-time setup."""
        return len(self._steps) > 1

    @property
    def wait(self) -> float:
        """Median seconds between two steps; the first batch counts only if it is the only one."""
        return median(self._waits[1:] or self._waits)

    @property
    def step(self) -> float:
        """Median seconds of a step; the first one counts only if it is the only one."""
        return median(self._steps[1:] or self._steps)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self._began = self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        if self.batch is None:
            self.batch = batch
            self._saved = SavedTensors(pl_module)
            self._saved.__enter__()
        self._waits.append(self._lap(pl_module))

    def on_before_backward(self, trainer: L.Trainer, pl_module: TaskModule, loss: Tensor) -> None:
        if not self._saved.ended:
            self._saved.__exit__()
            self.memory.activations = self._saved.bytes
            self.loss = float(loss.detach())

    def on_after_backward(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if not self._steps:
            with_gradient = [parameter for parameter in pl_module.parameters() if parameter.grad is not None]
            self.trained = sum(parameter.numel() for parameter in with_gradient)
            self.memory.gradients = size_of(parameter.grad for parameter in with_gradient)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps.append(self._lap(pl_module))
        self.memory.optimizer = size_of(
            value
            for optimizer in trainer.optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
        spent = time.perf_counter() - self._began
        if (spent > self.seconds and self.steady) or spent > PATIENCE * self.seconds or len(self._steps) > ENOUGH:
            trainer.should_stop = True
        self._mark = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._lap(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: TaskModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validation = self._lap(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.at_end()

    def _lap(self, module: TaskModule) -> float:
        """Return the seconds since the last lap, after waiting for the device to finish its work."""
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds


class SavedTensors:
    """Counts the bytes that autograd saves for the backward pass, each storage once.

    bytes: without the parameters and buffers of `module`.
    """

    def __init__(self, module: nn.Module) -> None:
        own = [*module.parameters(), *module.buffers()]
        self.bytes = 0
        self.ended = False
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def __enter__(self) -> "SavedTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self.ended = True

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:  # saved storages are not freed meanwhile, so addresses are unique
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def size_of(tensors: Iterable[Tensor | None]) -> int:
    """Return the total size of tensors in bytes; None counts as 0."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@dataclass
class Repeated:
    """Replaces a loader's batches by the same batch every time, to measure the network without the loader."""

    batch: Any
    batches: Callable[[DataLoader], Iterator] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = lambda loader: (self.batch for _ in range(len(loader)))

    def train(self, loader: DataLoader) -> Batches:
        return Batches(loader, self.batches)

    def val(self, loader: DataLoader) -> Batches:
        return Batches(loader, self.batches)


def loader_seconds(loader: DataLoader, seconds: float) -> float:
    """Return the mean seconds per batch of a loader alone, measured for about `seconds`.

    Batches that the workers had already begun when the first one was ready do not count.
    """
    skipped = max(1, loader.num_workers)
    began = time.perf_counter()
    ends: list[float] = []
    for _ in loader:
        ends.append(time.perf_counter())
        counted = len(ends) - skipped
        if (counted >= 1 and ends[-1] - ends[skipped - 1] > seconds) or ends[-1] - began > PATIENCE * seconds:
            break
    counted = len(ends) - skipped
    return (ends[-1] - ends[skipped - 1]) / counted if counted >= 1 else (ends[-1] - began) / len(ends)
