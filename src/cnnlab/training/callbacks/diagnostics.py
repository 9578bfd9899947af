"""Log how signals pass through the layers, which shows whether they vanish, explode or stay healthy."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cnnlab.drawing.depth_profile import depth_profile
from cnnlab.drawing.sheets import figure_image
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import TaskModule

WEIGHTED = (_ConvNd, nn.Linear)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.PReLU)


class Diagnostics(L.Callback):
    """A callback that logs layer_<quantity>/<layer> for every convolution and linear layer, once per logged epoch.

    It acts at the first step of every `every_n_epochs`-th epoch, with None of every epoch. The quantities are:

    activation_mean, activation_std: of the output, before the nonlinearity, over batch, channels and positions.
    zero_share: share of zeros after the nonlinearity. dead_channels: share of channels that are zero there for the
        whole batch. A layer without a nonlinearity after it, such as the last, has neither.
    gradient_norm, weight_norm: Euclidean norms of the weight's gradient and of the weight. sparsity: share of exact
        zeros in the weight.
    update_ratio: |change of the weight in this step| / |weight|; about 1e-3 is healthy.

    `diagnostics/depth` plots the quantities over the layers if the batch passes through more than one; with None as
    often as Pace says. Activations inside a compiled network cannot be observed.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs or 1
        self.pace = Pace(every_n_epochs)
        self._hooks: list[RemovableHandle] = []
        self._found: dict[str, dict[str, float]] = {}
        self._before: dict[str, Tensor] = {}
        self._active = False
        self._step = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        if batch_idx or trainer.current_epoch % self.every_n_epochs or tensorboard_writer(trainer) is None:
            return
        self._active, self._step, self._found, self._before = True, trainer.global_step, {}, {}
        self._hooks = watch(pl_module.network, self._found)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        if not self._active:
            return
        for name, layer in weighted_layers(pl_module.network).items():
            if layer.weight.grad is not None:
                self._before[name] = layer.weight.detach().clone()
                self._found.setdefault(name, {})["gradient_norm"] = layer.weight.grad.norm().item()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        writer = tensorboard_writer(trainer)
        if not self._active or trainer.global_step == self._step or writer is None:
            return
        self._active = False
        for name, layer in weighted_layers(pl_module.network).items():
            norm = layer.weight.detach().norm().item()
            zeros = (layer.weight == 0).float().mean().item()
            self._found.setdefault(name, {}).update(weight_norm=norm, sparsity=zeros)
            if name in self._before:
                change = (layer.weight.detach() - self._before[name]).norm().item()
                self._found[name]["update_ratio"] = change / max(norm, 1e-12)
        for name, values in self._found.items():
            for key, value in values.items():
                if math.isfinite(value):
                    writer.add_scalar(f"layer_{key}/{name}", value, self._step)
        passed = {
            name: self._found[name]
            for name in weighted_layers(pl_module.network)
            if not self._found[name].keys() <= {"weight_norm", "sparsity"}  # frozen layers with cached outputs
        }
        if len(passed) > 1 and self.pace.due(trainer, trainer.current_epoch):
            with self.pace.timed():
                picture = figure_image(depth_profile(passed, self._step))
                add_picture(writer, "diagnostics/depth", picture, self._step)


def weighted_layers(network: nn.Module) -> dict[str, Any]:
    """Return name -> layer for the convolutions and linear layers."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}


def watch(network: nn.Module, found: dict[str, dict[str, float]]) -> list[RemovableHandle]:
    """Register and return hooks that fill `found` (layer -> quantity -> value) in the order of the forward pass."""
    current, channels = "", 1

    @torch.no_grad()
    def output_of_layer(name: str, layer: nn.Module, output: Tensor) -> None:
        nonlocal current, channels
        current, channels = name, -1 if isinstance(layer, nn.Linear) else 1
        values = output.detach().float()
        deviation, mean = torch.std_mean(values, correction=0)
        found[name] = {"activation_mean": mean.item(), "activation_std": deviation.item()}

    @torch.no_grad()
    def output_of_nonlinearity(output: Tensor) -> None:
        if current:
            found[current] |= _zeros(output.movedim(channels, 1))

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            handles.append(
                module.register_forward_hook(lambda m, i, output, name=name: output_of_layer(name, m, output))
            )
        elif isinstance(module, ACTIVATIONS):
            handles.append(module.register_forward_hook(lambda m, i, output: output_of_nonlinearity(output)))
    return handles


def _zeros(values: Tensor) -> dict[str, float]:
    """Return the share of zeros in values N x C x ..., and the share of channels that are all zero."""
    zero = values == 0
    of_channel = zero.transpose(0, 1).flatten(1).all(dim=1)
    return {"zero_share": zero.float().mean().item(), "dead_channels": of_channel.float().mean().item()}
