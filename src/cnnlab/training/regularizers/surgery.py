"""Regularization that changes the network before training: dropout, stochastic depth and batch normalization."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.errors import InputError
from cnnlab.models.stages import head_module
from cnnlab.training.regularizers.base import Regularizer

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


class Dropout(Regularizer):
    """Sets the rate of the classifier's Dropout layers; if it has none, drops inputs of its linear layers.

    p: dropout rate. conv_p: rate at which whole channels of every convolution's output in `features` are dropped too
        (Dropout2d, Tompson et al. 2015); 0 leaves the convolutions unchanged.
    """

    def __init__(self, p: float = 0.5, conv_p: float = 0.0) -> None:
        for name, rate in (("p", p), ("conv_p", conv_p)):
            if not 0 <= rate < 1:
                raise InputError(f"regularization.dropout.{name}={rate}: must be at least 0 and less than 1.")
        self.p = p
        self.conv_p = conv_p

    def modify_network(self, network: nn.Module) -> None:
        if self.conv_p:
            for layer in network.features.modules():  # type: ignore[union-attr]
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_hook(_DropChannels(self.conv_p))
        head = head_module(network)
        existing = [layer for layer in head.modules() if isinstance(layer, nn.Dropout)]
        linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if self.p and not existing and not linear:
            raise InputError(
                f"regularization=[dropout]: the classifier of {type(network).__name__} has no linear layer. To drop "
                "channels of convolutions alone: regularization.dropout.p=0 regularization.dropout.conv_p=0.1."
            )
        for dropout in existing:
            dropout.p = self.p
        if not existing:
            for layer in linear:
                layer.register_forward_pre_hook(_DropInput(self.p))


class _DropInput:
    """Dropout as a hook, since an inserted module would rename the parameters after it."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(inputs[0], self.p, layer.training), *inputs[1:])


class _DropChannels:
    """Dropout2d as a hook, since an inserted module would rename the parameters after it."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return nn.functional.dropout2d(output, self.p, layer.training)


class StochasticDepth(Regularizer):
    """Sets the rates at which residual branches are skipped, rising linearly to `p` (Huang et al. 2016, equation 4).

    The network must have such branches: torchvision's EfficientNet, ConvNeXt, MaxViT, Swin; timm's with DropPath.
    """

    def __init__(self, p: float = 0.2) -> None:
        if not 0 <= p < 1:
            raise InputError(f"regularization.stochastic_depth.p={p}: must be at least 0 and less than 1.")
        self.p = p

    def modify_network(self, network: nn.Module) -> None:
        branches = [layer for layer in network.modules() if type(layer).__name__ in ("StochasticDepth", "DropPath")]
        if not branches:
            raise InputError(
                f"regularization=[stochastic_depth]: {type(network).__name__} has no residual branch that can be "
                "skipped (torchvision's StochasticDepth, timm's DropPath)."
            )
        for number, branch in enumerate(branches, start=1):
            name = "p" if hasattr(branch, "p") else "drop_prob"
            setattr(branch, name, self.p * number / len(branches))


class BatchNorm(Regularizer):
    """Inserts BatchNorm2d after every convolution of `features`; VGG16 becomes torchvision's `vgg16_bn`, key by key."""

    def modify_network(self, network: nn.Module) -> None:
        name = type(network).__name__
        norm = next((layer for layer in network.modules() if isinstance(layer, NORMS)), None)
        if norm is not None:
            raise InputError(f"regularization=[batch_norm]: {name} already has normalization ({type(norm).__name__}).")
        features = dict(network.named_children()).get("features")
        if features is None or not any(isinstance(layer, nn.Conv2d) for layer in features.modules()):
            raise InputError(
                f"regularization=[batch_norm]: {name} has no module named features that contains convolutions."
            )
        network.features = _normalized(features)


def _normalized(module: nn.Module) -> nn.Module:
    """Return `module` with a norm after each of its convolutions.

    In an nn.Sequential the norm is the next step; elsewhere convolution and norm form an nn.Sequential of their own.
    """
    if isinstance(module, nn.Conv2d):
        return nn.Sequential(OrderedDict(conv=module, bn=nn.BatchNorm2d(module.out_channels)))
    if type(module) is not nn.Sequential:  # another class may run its children in any order
        for name, child in module.named_children():
            setattr(module, name, _normalized(child))
        return module
    steps: list[tuple[str, nn.Module]] = []
    for name, step in module.named_children():
        if isinstance(step, nn.Conv2d):
            steps += [(name, step), (f"{name}_bn", nn.BatchNorm2d(step.out_channels))]
        else:
            steps.append((name, _normalized(step)))
    numbered = all(name.isdigit() for name, _ in module.named_children())
    return nn.Sequential(OrderedDict((str(i) if numbered else name, step) for i, (name, step) in enumerate(steps)))
