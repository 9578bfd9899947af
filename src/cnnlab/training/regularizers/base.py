"""The protocol of all regularizers: hooks that do nothing until a subclass says what they do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn

from cnnlab.errors import InputError, Problems
from cnnlab.models.weighted import weights_of

HOOKS = ("modify_network", "loss", "on_batch", "after_step")
"""The methods of a regularizer that a run calls."""


class Regularizer:
    """Acts on a network before or during training: a subclass overrides one of HOOKS, or sets one of two numbers."""

    name = ""
    """The penalty is logged as `train/<name>`."""
    modules: Sequence[str] | None = None
    """Names or globs of the layers whose weights it acts on; None: all."""
    shrinks_squares = False
    """Whether it shrinks the squares of the weights; two that do would make neither strength mean what it says."""
    makes_zeros = False
    """Whether it sets weights to exactly zero, whose share the run then records."""
    weight_decay: float = 0.0
    """The optimizer's weight decay."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""

    def modify_network(self, network: nn.Module) -> None:
        """Change the network in place, before its weights are loaded.

        Raises InputError if the network has no place for the change.
        """

    def loss(self, network: nn.Module) -> Tensor | None:
        """Return a scalar with lambda and all constants, added to the training loss; None for nothing."""

    def on_batch(self, module: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs (float, in [0, 1]) and targets that a training step uses in place of these."""
        return inputs, targets

    def after_step(self, network: nn.Module, lr_of: Callable[[nn.Parameter], float]) -> None:
        """Change weights in place after a step of the optimizer; `lr_of` is the learning rate of the step."""

    def check(self, network: nn.Module) -> None:
        """Raise InputError if this cannot act on `network`, which may be without memory for its parameters."""
        if self.modules is not None:
            weights_of(network, self.modules)


def acting(regularizers: Iterable[Any], hook: str) -> list[Any]:
    """Return the regularizers that override `hook`."""
    return [each for each in regularizers if isinstance(each, Regularizer) and _overrides(each, hook)]


def require_known(regularizers: Mapping[str, Any]) -> None:
    """Raise InputError for entries that no part of a run would ever call."""
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
            f"regularization: {' and '.join(names)} both shrink the squares of the weights, so that neither strength "
            "means what it says. Keep one of them."
        )


def check_regularizers(regularizers: Mapping[str, Any], network: nn.Module) -> None:
    """Raise one InputError for all regularizers that cannot act on `network`, and change it as they will.

    network: without memory for its parameters; the real one is changed when it is built.
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
