"""Take training steps of a network in memory, under any settings of speed, to time them."""

from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cnnlab.seeds import derived_rng
from cnnlab.training.module import TaskModule
from cnnlab.training.speed import PRECISIONS, Speed


class TrialSteps:
    """Context manager that takes steps without the optimizer's on one batch; it leaves the network as it was.

    build_module: returns a module that trains the network, given whether in channels-last format. epoch: the stages
    that train in it do so here.
    """

    def __init__(
        self, build_module: Callable[[bool], TaskModule], batch: Any, device: torch.device, epoch: int
    ) -> None:
        self.build_module = build_module
        self.module = build_module(True)
        self.network: nn.Module = self.module.network
        self.batch = tree_map_only(Tensor, lambda each: each.to(device), batch)
        self.device = device
        self.epoch = epoch
        self._autocast: Any = nullcontext()
        self._modules: dict[tuple[bool, bool], TaskModule] = {}

    def __enter__(self) -> "TrialSteps":
        self._threads = torch.get_num_threads()
        self._buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self._modes = {module: module.training for module in self.network.modules()}
        self._frozen = {weight: not weight.requires_grad for weight in self.network.parameters()}
        self._random = derived_rng("trial_steps")
        self._random.__enter__()
        self.network.train()
        self.module.recipe.plan.apply(self.network, self.epoch)
        return self

    def switch(self, speed: Speed) -> None:
        """Use these settings from the next step on."""
        if speed.num_threads != torch.get_num_threads():
            torch.set_num_threads(speed.num_threads)
        self.network.to(memory_format=torch.channels_last if speed.channels_last else torch.contiguous_format)
        dtype = PRECISIONS[speed.precision]
        self._autocast = torch.autocast(self.device.type, dtype) if dtype else nullcontext()
        key = (speed.channels_last, speed.compile)
        if key not in self._modules:
            self._modules[key] = self.build_module(speed.channels_last).to(self.device)
            if speed.compile:
                self._modules[key].network = torch.compile(self.network)  # type: ignore[assignment]
        self.module = self._modules[key]

    def take(self) -> None:
        """Take a step: outputs, loss and gradients."""
        with self._autocast:
            loss = self.module.training_step(self.batch, 0)
        if loss.requires_grad:
            loss.backward()
        for weight in self.network.parameters():
            weight.grad = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._random.__exit__(None, None, None)
        self._modules.clear()
        self.module.to("cpu")
        self.network.to(memory_format=torch.contiguous_format)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(self._buffers[name])
        for module, mode in self._modes.items():
            module.training = mode
        for weight, frozen in self._frozen.items():
            weight.grad = None
            weight.requires_grad_(not frozen)
        torch.set_num_threads(self._threads)
