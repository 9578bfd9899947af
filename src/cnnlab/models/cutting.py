"""A network cut in two in front of one of its stages: a frozen prefix, and the tail that trains."""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnlab.errors import InputError
from cnnlab.models.stages import stages

TOLERANCE = 1e-4
"""Share of the largest number by which two ways of computing the same float32 numbers may differ."""


class Cut:
    """`network` cut in front of the stage `stage`; for images x, `tail(prefix(x))` are its logits.

    The prefix is a copy in eval mode, with batch normalization folded into the convolutions in front of it where that
    changes nothing but rounding; the tail shares its parameters with `network`. The cut in front of `classifier` takes
    what the classifier is really given: pooled vectors, where the network pools before it.

    images: preprocessed, on the network's device, to prove the cut with.
    Raises InputError, saying why, if the network cannot be cut there: if branches lead around the cut, or if its
    prefix is random while it trains (dropout, stochastic depth).
    """

    def __init__(self, network: nn.Module, stage: str, images: Tensor) -> None:
        names = list(stages(network))
        self.network = network
        self.stage = stage
        self.below = names[: names.index(stage)]
        with torch.no_grad():
            self._prove(images)

    def prefix(self, images: Tensor) -> Tensor:
        """Preprocessed images N x C x H x W -> the input of the cut's stage, N x ..."""
        return _until_stop(self._prefix, images)

    def tail(self, features: Tensor) -> Tensor:
        """The input of the cut's stage -> logits N x classes, in the mode that the network is in."""
        self._tail.training = self.network.training
        return self._tail(features)

    def fingerprint(self) -> str:
        """Identifies what the prefix computes: its layers, and the parameters and buffers that they use."""
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
        """Build both parts, and compare what they give with what the whole network gives."""
        name = type(self.network).__name__
        with _eval_mode(self.network):
            expected = self.network.forward(images)
        plain = _prefix_of(self.network, self.below)
        features = _until_stop(plain.eval(), images)
        if not _equal(features, _until_stop(_training_but_batch_norm(plain), images)):
            raise InputError(
                f"the part of {name} below {self.stage} is random while it trains (dropout, stochastic depth)."
            )
        folded = _fold_batch_norm(copy.deepcopy(plain.eval()))
        self._prefix = folded if _equal(features, _until_stop(folded, images)) else plain.eval()
        for tail in _tails_of(self.network, self.stage, self.below):
            with _eval_mode(tail):
                if _gives(tail, features, expected):
                    self._tail = tail
                    return
        raise InputError(f"{name} cannot be cut in front of {self.stage}: the rest does not work on its input alone.")


def cut_below(network: nn.Module, stage: str, images: Tensor) -> Cut:
    """The network cut in front of `stage`, or in front of the parameterless stages below it (dropout is one).

    Raises InputError as Cut does, for the place in front of `stage`.
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
    """A hash of texts and named tensors, bit by bit."""
    digest = hashlib.blake2b("\0".join(structure).encode(), digest_size=16)
    for name, tensor in state.items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Stopped(Exception):  # noqa: N818
    """Carries the input of the stage at the cut out of the network's forward."""

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
    raise InputError(f"{type(prefix).__name__} never comes to the stage behind its frozen ones.")


def _prefix_of(network: nn.Module, below: list[str]) -> nn.Module:
    """A copy of the network that stops where the first stage that is not `below` begins."""
    above = {id(module): _Stop() for name, module in stages(network).items() if name not in below}
    return copy.deepcopy(network, above)


def _tails_of(network: nn.Module, stage: str, below: list[str]) -> list[nn.Module]:
    """What may be the rest: the classifier alone, or the network with nothing in place of the stages below the cut.

    The stages above the cut are the network's own.
    """
    parts = stages(network)
    memo = {id(module): nn.Identity() if name in below else module for name, module in parts.items()}
    rest = copy.deepcopy(network, memo)
    return [parts[stage], rest] if stage == "classifier" else [rest]


def _gives(tail: nn.Module, features: Tensor, expected: Tensor) -> bool:
    try:
        found = tail.forward(features.clone())  # an in-place ReLU may come first
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


def _fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm2d that follows a convolution in the order of children into it (about twice as fast)."""
    for child in module.children():
        _fold_batch_norm(child)
    for (first, conv), (second, norm) in pairwise(module.named_children()):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels:
            setattr(module, first, fuse_conv_bn_eval(conv, norm))
            setattr(module, second, nn.Identity())
    return module


class _eval_mode:  # noqa: N801
    """Eval mode inside the block, then each module's own mode again."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.modes = {layer: layer.training for layer in self.module.modules()}
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        for layer, mode in self.modes.items():
            layer.training = mode
