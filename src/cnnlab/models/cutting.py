"""Cut a network in two before one of its stages: a frozen prefix and a trainable tail."""

import copy
import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.errors import InputError
from cnnlab.models.engines import Engine, fold_batch_norm
from cnnlab.models.heads import head_names
from cnnlab.models.modes import evaluating
from cnnlab.models.stages import stages

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, between two ways of computing the same float32 tensor."""


class Cut:
    """A network cut before the stage `stage`; for images x, `tail(prefix(x))` are the network's logits.

    The prefix is a copy in eval mode, with batch normalization folded into the preceding convolutions if only rounding
    changes; the tail shares its parameters with `network`. A cut before `classifier` is at the classifier's actual
    input: pooled vectors, if the network pools first.

    images: preprocessed, on the network's device; the cut is verified on them.
    Raises InputError that says why if the network cannot be cut there: branches bypass the cut, or the prefix is random
    in training (dropout, stochastic depth), or the network has several heads.
    """

    def __init__(self, network: nn.Module, stage: str, images: Tensor) -> None:
        names = list(stages(network))
        if len(heads := head_names(network)) > 1:
            raise InputError(
                f"{type(network).__name__} has several heads ({', '.join(heads)}), each with its own input."
            )
        self.network = network
        self.stage = stage
        self.engine: Engine | None = None
        """Computes the prefix; None: torch does."""
        self.below = names[: names.index(stage)]
        with torch.no_grad():
            self._prove(images)

    def prefix(self, images: Tensor) -> Tensor:
        """Map preprocessed images N x C x H x W to the input of the stage after the cut, N x ..."""
        return self.engine(images) if self.engine else self.prefix_network(images)

    def tail(self, features: Tensor) -> Tensor:
        """Map the input of the stage after the cut to logits N x classes, in the network's current mode."""
        self._tail.training = self.network.training
        return self._tail(features)

    def fingerprint(self) -> str:
        """Return a hash of what the prefix computes: its layers, parameters and buffers."""
        parts = stages(self.network)
        tail = {
            id(tensor)
            for name, module in parts.items()
            if name not in self.below
            for tensor in module.state_dict(keep_vars=True).values()
        }
        state = {
            name: tensor
            for name, tensor in self.network.state_dict(keep_vars=True).items()
            if id(tensor) not in tail and not name.endswith("num_batches_tracked")
        }
        return fingerprint([type(self.network).__name__, *(repr(parts[name]) for name in self.below)], state)

    def _prove(self, images: Tensor) -> None:
        """Build both parts and compare their outputs with that of the whole network."""
        name = type(self.network).__name__
        with evaluating(self.network):
            expected = self.network.forward(images)
        plain = _prefix_of(self.network, self.below)
        features = _until_stop(plain.eval(), images)
        if not _equal(features, _until_stop(_training_but_batch_norm(plain), images)):
            raise InputError(
                f"the part of {name} below {self.stage} is random in training (dropout, stochastic depth)."
            )
        folded = fold_batch_norm(copy.deepcopy(plain.eval()))
        self.prefix_network = Prefix(folded if _equal(features, _until_stop(folded, images)) else plain.eval()).eval()
        for tail in _tails_of(self.network, self.stage, self.below):
            with evaluating(tail):
                if _gives(tail, features, expected):
                    self._tail = tail
                    return
        raise InputError(f"{name} cannot be cut before {self.stage}: the rest needs more than the input of this stage.")


def cut_below(network: nn.Module, stage: str, images: Tensor) -> Cut:
    """Cut the network before `stage`, or, if that fails, before the stages without parameters below it (dropout).

    Raises the InputError of the cut before `stage`.
    """
    names = list(stages(network))
    try:
        return Cut(network, stage, images)
    except InputError as error:
        below = names[names.index(stage) - 1]
        if next(stages(network)[below].parameters(), None) is not None:
            raise
        try:
            return cut_below(network, below, images)
        except InputError:
            raise error from None


def fingerprint(structure: Iterable[str], state: Mapping[str, Tensor]) -> str:
    """Return a hash of texts and named tensors, exact to the bit."""
    digest = hashlib.blake2b("\0".join(structure).encode(), digest_size=16)
    for name, tensor in state.items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Prefix(nn.Module):
    """Returns the input of the stage after the cut; `network` stops there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _until_stop(self.network, images)


def input_of(network: nn.Module, name: str) -> Prefix:
    """Return a copy of the network, in eval mode, whose output is the input of the module `name`."""
    return Prefix(copy.deepcopy(network, {id(network.get_submodule(name)): _Stop()})).eval()


class _Stopped(Exception):  # noqa: N818
    """Carries the input of the stage after the cut out of the network's forward pass."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


class _Stop(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        raise _Stopped(features)


def _until_stop(prefix: nn.Module, images: Tensor) -> Tensor:
    try:
        prefix(images)
    except _Stopped as stopped:
        return stopped.features
    raise InputError(f"{type(prefix).__name__} does not run the stage after its frozen ones.")


def _prefix_of(network: nn.Module, below: list[str]) -> nn.Module:
    """Return a copy of the network that stops at the first stage not in `below`."""
    above = {id(module): _Stop() for name, module in stages(network).items() if name not in below}
    return copy.deepcopy(network, above)


def _tails_of(network: nn.Module, stage: str, below: list[str]) -> list[nn.Module]:
    """Return candidates for the tail: the classifier alone, or the network with identities for the stages below.

    The stages above the cut are shared with the network.
    """
    parts = stages(network)
    memo = {id(module): nn.Identity() if name in below else module for name, module in parts.items()}
    rest = copy.deepcopy(network, memo)
    return [parts[stage], rest] if stage == "classifier" else [rest]


def _gives(tail: nn.Module, features: Tensor, expected: Tensor) -> bool:
    try:
        found = tail.forward(features.clone())  # cloned because an in-place ReLU may come first
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError):
        return False
    return isinstance(found, Tensor) and _equal(found, expected)


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max())


def _training_but_batch_norm(module: nn.Module) -> nn.Module:
    module.train()
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
    return module
