"""The base class of all regularizers: hooks that do nothing unless a subclass overrides them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn

from cnnlab.errors import InputError, Problems
from cnnlab.models.weighted import weights_of

HOOKS = ("modify_network", "loss", "on_batch", "after_step")
"""Names of the methods of a regularizer that a run calls."""


class Regularizer:
    """Acts on a network before or during training.

    A subclass overrides one of HOOKS, or sets `weight_decay` or `label_smoothing`.
    """

    name = ""
    """Name under which the penalty is logged: `train/<name>`."""
    modules: Sequence[str] | None = None
    """Names or globs of the layers whose weights it acts on; None: all."""
    shrinks_squares = False
    """Whether it shrinks the squares of the weights; with two such, neither strength alone determines the shrinkage."""
    makes_zeros = False
    """Whether it sets weights to exactly zero; the run then records their share."""
    weight_decay: float = 0.0
    """Weight decay that it adds to the optimizer's."""
    label_smoothing: float = 0.0
    """Share of the target that it spreads evenly over all classes."""

    def modify_network(self, network: nn.Module) -> None:
        """Change the network in place, before its weights are loaded.

        Raises InputError if the change does not fit the network.
        """

    def loss(self, network: nn.Module) -> Tensor | None:
        """Return a scalar to add to the training loss, lambda and all constants included; None for nothing."""

    def on_batch(self, module: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs (float, in [0, 1]) and targets that the training step uses instead of the given ones."""
        return inputs, targets

    def after_step(self, network: nn.Module, lr_of: Callable[[nn.Parameter], float]) -> None:
        """Change weights in place after an optimizer step; lr_of: weight -> its learning rate in that step."""

    def check(self, network: nn.Module) -> None:
        """Raise InputError if this cannot act on `network`, which may be on the meta device."""
        if self.modules is not None:
            weights_of(network, self.modules)


def acting(regularizers: Iterable[Any], hook: str) -> list[Any]:
    """Return the regularizers that override `hook`."""
    return [each for each in regularizers if isinstance(each, Regularizer) and _overrides(each, hook)]


def require_known(regularizers: Mapping[str, Any]) -> None:
    """Raise InputError for entries that would do nothing during a run."""
    for name, each in regularizers.items():
        acts = isinstance(each, L.Callback) or (
            isinstance(each, Regularizer)
            and any(_overrides(each, attribute) for attribute in (*HOOKS, "weight_decay", "label_smoothing"))
        )
        if not acts:
            raise InputError(
                f"regularization.{name}: {type(each).__name__} does nothing during a run. A regularizer is a subclass "
                f"of cnnlab.training.regularizers.Regularizer with one of {', '.join(HOOKS)}, or a Lightning callback."
            )


def require_together(regularizers: Mapping[str, Any]) -> None:
    """Raise InputError if two entries shrink the squares of the weights at once."""
    names = [name for name, each in regularizers.items() if getattr(each, "shrinks_squares", False)]
    if len(names) > 1:
        raise InputError(
            f"regularization: {' and '.join(names)} both shrink the squares of the weights, so neither strength alone "
            "determines the shrinkage. Keep one of them."
        )


def check_regularizers(regularizers: Mapping[str, Any], network: nn.Module) -> None:
    """Raise one InputError for all regularizers that cannot act on `network`; apply their changes to it.

    network: on the meta device; the real network is changed when it is built.
    """
    problems = Problems()
    for name, each in regularizers.items():
        if not isinstance(each, Regularizer):
            continue
        with problems:
            each.modify_network(network)
        with problems:
            try:
                each.check(network)
            except InputError as error:
                raise InputError(f"regularization.{name}.modules: {error}") from error
    problems.raise_all("The regularization does not fit the network:")


def _overrides(each: Regularizer, attribute: str) -> bool:
    return getattr(type(each), attribute) is not getattr(Regularizer, attribute)
