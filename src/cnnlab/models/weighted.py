"""Which parameters of a network are weights: the ones that regularization acts on."""

from torch import nn


def weights_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of every weight: at least two-dimensional and of no normalization layer, so never a bias."""
    leaves = [layer for layer in module.modules() if next(layer.children(), None) is None]
    of_norms = {id(p) for layer in leaves if "Norm" in type(layer).__name__ for p in layer.parameters()}
    return {name: p for name, p in module.named_parameters() if p.ndim > 1 and id(p) not in of_norms}
