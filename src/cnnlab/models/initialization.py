"""Initialization schemes by name; the schemes themselves are torch.nn.init's."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

SCHEMES: dict[str, Callable[..., Tensor]] = {
    "zero": nn.init.zeros_,
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "orthogonal": nn.init.orthogonal_,
}
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def initialize(
    module: nn.Module, name: str = "default", bias: float = 0.0, only: set[str] | None = None, **options: Any
) -> None:
    """Draw the weights of every convolution and linear layer anew; norm layers keep weight 1 and bias 0.

    name: "default" (as the network's authors wrote it: nothing is drawn), or a key of `SCHEMES`.
    bias: value of the biases. only: names of the parameters that may change (None: all).
    options: arguments of the scheme, such as `gain` for orthogonal.
    """
    if name == "default":
        return
    scheme = SCHEMES[name]
    for prefix, layer in module.named_modules():
        if not isinstance(layer, WEIGHTED):
            continue
        dot = f"{prefix}." if prefix else ""
        if only is None or f"{dot}weight" in only:
            scheme(layer.weight, **options)
        if layer.bias is not None and (only is None or f"{dot}bias" in only):
            nn.init.constant_(layer.bias, bias)
