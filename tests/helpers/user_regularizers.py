"""Regularizers as a user writes them, which a test's config names: each overrides one hook of the protocol."""

import lightning as L
import torch

from cnnlab.training.regularizers import Regularizer


class Clamp(Regularizer):
    """Keeps every weight of the layers `modules` within `limit` after each step; `rates` is what `lr_of` said."""

    def __init__(self, limit: float, modules: list[str] | None = None) -> None:
        self.limit = limit
        self.modules = modules
        self.rates: list[float] = []

    def after_step(self, network, lr_of):
        weight = network.classifier[1].weight
        self.rates.append(lr_of(weight))
        weight.clamp_(-self.limit, self.limit)


class Blank(Regularizer):
    """Trains on white pictures of the first class; `seen` are the batches that it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_batch(self, module, inputs, targets):
        self.seen.append((inputs, targets))
        return torch.ones_like(inputs), torch.zeros_like(targets)


class Bias(Regularizer):
    """Adds the squares of the last layer's biases to the loss."""

    name = "bias"

    def loss(self, network):
        return network.classifier[5].bias.square().sum()


class Nothing(Regularizer):
    """Overrides nothing."""

    name = "nothing"


class Epochs(L.Callback):
    """A Lightning callback, which may stand in the group too; `epochs` are those that began."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch)
