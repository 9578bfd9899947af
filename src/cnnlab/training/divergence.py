"""React to a loss that is not finite: `divergence=stop`, `skip` or `rollback`."""

import functools
import logging
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.errors import DivergedError, InputError
from cnnlab.seeds import seed_generators
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)
RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Keys of a parameter group that hold learning rates, of the optimizer and of schedulers."""
ADVICE = "Lower optimizer.lr, warm up (scheduler.warmup_epochs=1), or choose another init."


class Losses(NamedTuple):
    """The losses of one batch in all processes, while they are copied to the host."""

    values: Tensor
    """The losses, float32, one per process."""
    arrived: torch.cuda.Event | None
    """The end of the copy; None on the CPU."""
    batch: Any


class Divergence(L.Callback, ABC):
    """A callback that checks the loss of every step before the step changes a weight; subclasses say what follows.

    The copy of the loss to the host starts after the forward pass, and is read just before the optimizer's step, so
    that a device is busy with the backward pass meanwhile. Under DDP the losses of all processes are gathered, so that
    all processes decide alike. Gradients are not checked: if only they are not finite, the next loss shows it.

    events: the losses found so far that are not finite, as plain values: step, epoch, loss, lr, layer. The callback
    must come before callbacks that average or save weights.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._batch: Any = None
        self._pending: list[Losses] = []

    @abstractmethod
    def act(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        """React to a loss that is not finite, the last of `events`."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: TaskModule, loss: Tensor) -> None:
        losses = torch.zeros(trainer.world_size, device=loss.device)
        losses[trainer.global_rank] = loss.detach()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(losses)
        self._pending.append(_sent_to_host(losses, self._batch))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        pending, self._pending, self._batch = self._pending, [], None
        for losses in pending:  # several if gradients are accumulated
            if losses.arrived:
                losses.arrived.synchronize()
            bad = [rank for rank, value in enumerate(losses.values.tolist()) if not math.isfinite(value)]
            if bad:
                layer = trainer.strategy.broadcast(first_nonfinite(trainer, pl_module, losses.batch), src=bad[0])
                rates = {float(group["lr"]): None for group in optimizer.param_groups}
                self.events.append(
                    {
                        "step": trainer.global_step,
                        "epoch": trainer.current_epoch,
                        "loss": losses.values[bad[0]].item(),
                        "lr": list(rates),
                        "layer": layer,
                    }
                )
                self.act(trainer, pl_module, optimizer)
                return
        self.passed()

    def passed(self) -> None:
        """React to a step whose losses are finite."""

    def state_dict(self) -> dict[str, Any]:
        return {"events": self.events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.events = list(state_dict["events"])


class Stop(Divergence):
    """Ends the run at the first loss that is not finite."""

    def act(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        raise DivergedError(f"{described(self.events[-1])} {ADVICE}")


class Skip(Divergence):
    """Skips a step whose loss is not finite: weights, optimizer state and batch-norm statistics stay unchanged.

    at_most: largest number of steps skipped in a row; one more raises DivergedError.
    """

    def __init__(self, at_most: int = 10) -> None:
        super().__init__()
        if at_most < 1:
            raise InputError(f"divergence.at_most={at_most}: must be at least 1.")
        self.at_most = at_most
        self._in_a_row = 0
        self._buffers: list[Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self._pending:
            self._buffers = [buffer.clone() for buffer in pl_module.network.buffers()]

    def act(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        self._in_a_row += 1
        if self._in_a_row > self.at_most:
            raise DivergedError(
                f"{described(self.events[-1])} The {self.at_most} steps before it were skipped. {ADVICE}"
            )
        optimizer.zero_grad(set_to_none=True)  # an optimizer skips parameters without a gradient
        for buffer, before in zip(pl_module.network.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        log.warning("%s The step is skipped.", described(self.events[-1]))

    def passed(self) -> None:
        self._in_a_row = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._in_a_row = state_dict["in_a_row"]


class RollBack(Divergence):
    """Restores weights and optimizer from the last checkpoint, lowers the learning rates, and continues training.

    Training continues with the next batch, not with those since the checkpoint, which may have caused the divergence
    (Chowdhery et al. 2022, section 5.1); the step counter is not reset. Before the first checkpoint the untrained
    network is restored.

    at_most: largest number of rollbacks; one more raises DivergedError. lr_factor: factor of the learning rates at each
    rollback.
    """

    def __init__(self, at_most: int = 3, lr_factor: float = 0.5) -> None:
        super().__init__()
        if at_most < 1:
            raise InputError(f"divergence.at_most={at_most}: must be at least 1.")
        if not 0 < lr_factor <= 1:
            raise InputError(f"divergence.lr_factor={lr_factor}: must be greater than 0 and at most 1.")
        self.at_most = at_most
        self.lr_factor = lr_factor
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if not self._last(trainer).is_file():
            trainer.save_checkpoint(self._start(trainer), weights_only=False)

    def act(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        if len(self.events) > self.at_most:
            raise DivergedError(
                f"{described(self.events[-1])} {self.at_most} rollbacks (learning rate times {self.lr_factor} each) "
                f"did not help. {ADVICE}"
            )
        optimizer.zero_grad(set_to_none=True)
        self._due = True  # performed after the step and its scheduler

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._due:
            return
        self._due = False
        path = self._last(trainer) if self._last(trainer).is_file() else self._start(trainer)
        checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        rates = [{key: group[key] for key in RATES if key in group} for group in groups]
        trainer.strategy.load_model_state_dict(checkpoint)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, WeightAveraging):  # restore the average too
                callback.on_load_checkpoint(trainer, pl_module, checkpoint)
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        for group, now in zip(groups, rates, strict=True):
            group |= {key: rate * self.lr_factor for key, rate in now.items()}
        for config in trainer.lr_scheduler_configs:
            _scale(config.scheduler, self.lr_factor)
        log.warning(
            "%s Rolled back to %s (step %d); learning rates times %g.",
            described(self.events[-1]),
            path,
            checkpoint["global_step"],
            self.lr_factor,
        )

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self._start(trainer).unlink(missing_ok=True)

    def _last(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def _start(self, trainer: L.Trainer) -> Path:
        return self._last(trainer).with_name("start.ckpt")


def described(event: dict[str, Any]) -> str:
    """Return a sentence that describes an event."""
    rates = ", ".join(f"{rate:.3g}" for rate in event["lr"])
    return (
        f"The loss is {event['loss']} at step {event['step']} (epoch {event['epoch']}, learning rate {rates}); "
        f"{event['layer']}."
    )


@torch.compiler.set_stance("force_eager")  # compiled code does not call hooks
def first_nonfinite(trainer: L.Trainer, pl_module: TaskModule, batch: Any) -> str:
    """Repeat the forward pass of a training step, and return where its activations first are not finite, as text."""
    found: list[tuple[str, nn.Module]] = []

    def look(module: nn.Module, inputs: Any, output: Any, name: str) -> None:
        if not found and isinstance(output, Tensor) and not output.isfinite().all():
            found.append((name, module))

    roots = {"preprocessing": pl_module.preprocessing, "": pl_module.network}
    handles = [
        module.register_forward_hook(functools.partial(look, name=".".join(filter(None, (prefix, name)))))
        for prefix, root in roots.items()
        for name, module in root.named_modules()
    ]
    seed_generators(pl_module.step_seed(), pl_module.device)
    try:
        with trainer.precision_plugin.forward_context():
            pl_module.outputs_of(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return "all activations are finite, only the loss is not"
    name, module = found[0]
    name = name or "the network"
    broken = [key for key, weight in module.named_parameters() if not weight.isfinite().all()]
    because = f", whose {broken[0]} is not finite either" if broken else ""
    return f"the first activation that is not finite is the output of {name} ({type(module).__name__}){because}"


def _sent_to_host(values: Tensor, batch: Any) -> Losses:
    """Start copying the losses to the host without waiting for the device."""
    if values.device.type != "cuda":
        return Losses(values, None, batch)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Losses(host, arrived, batch)


def _scale(scheduler: Any, factor: float) -> None:
    """Multiply the base rates stored in a scheduler and in the schedulers inside it."""
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale(inner, factor)
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
