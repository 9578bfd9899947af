"""Build a network from its config: modify it, load weights, and initialize the parameters without weights."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cnnlab.errors import DataError, InputError
from cnnlab.models.heads import head_layers, head_names
from cnnlab.models.initialization import initialize
from cnnlab.models.inputs import InputSpec
from cnnlab.models.preprocessing import Normalize
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.models.weights import Weights, fitting, has_classifier, load_weights, outputs_of, summary
from cnnlab.seeds import derived_rng

log = logging.getLogger(__name__)
RUNNING = (".running_mean", ".running_var")
"""Ends of the names of batch norm's statistics, which weights must bring along."""


def weights_preprocessing(weights: Weights | None, spec: InputSpec) -> nn.Module:
    """Return the layer by which images reach pretrained weights as they did in their training.

    It is that of the run whose weights they are, or has the statistics of `spec`. Raises InputError if the network
    takes another number of channels.
    """
    if weights is not None and weights.preprocessing is not None:
        return weights.preprocessing
    if {len(spec.mean), len(spec.std)} != {spec.channels}:
        raise InputError(
            f"preprocessing=weights has statistics of {len(spec.mean)} channels, but the network takes "
            f"{spec.channels}. Use preprocessing=standardize, or set preprocessing.mean and preprocessing.std."
        )
    return Normalize(spec.mean, spec.std)


def build_network(
    network: Callable[..., nn.Module],
    *,
    num_classes: int,
    weights: Weights | None,
    surgery: Sequence[Callable[[nn.Module], None]] = (),
    init: Callable[..., None] = initialize,
    seed: int,
    complete: bool = False,
) -> nn.Module:
    """Build a network with `features` and `classifier` that is ready to train.

    network: called with num_classes. surgery: functions that modify the network in place before weights are loaded.
    init: called with the network and, as `only`, the names of the parameters that no weights filled.
    complete: whether the weights must fill all but the head; if not, what they leave out is named in the log.
    Raises InputError if the network cannot have that many classes, or surgery finds no suitable layer; DataError if
    the weights do not match, or are not complete.
    """
    with derived_rng(seed, "init"):
        try:
            built = with_features_and_classifier(network(num_classes=num_classes))
        except ValueError as error:
            raise InputError(f"The model cannot be built for {num_classes} classes: {error}") from error
        before = built.state_dict(keep_vars=True)
        for operation in surgery:
            operation(built)
        filled: set[int] = set()
        if weights:
            # If surgery inserted batch normalization, weights of vgg16 match the names before it, of vgg16_bn after it.
            own = max((before, built.state_dict(keep_vars=True)), key=lambda own: len(fitting(weights, own)))
            filled = {id(own[name]) for name in load_weights(built, weights, own)}
            report_left_out(built, weights, {n: p for n, p in before.items() if id(p) not in filled}, complete)
        new = {name for name, parameter in built.named_parameters() if id(parameter) not in filled}
        init(built, only=new)
    return built


def report_left_out(network: nn.Module, weights: Weights, left: Mapping[str, Tensor], complete: bool) -> None:
    """Warn of layers below the head that weights leave at random numbers, or raise DataError if they must be complete.

    left: entries of the network's state_dict that the weights do not fill.
    """
    trained, heads = {id(parameter) for parameter in network.parameters()}, head_names(network)
    layers = [name for name, value in left.items() if id(value) in trained or name.endswith(RUNNING)]
    layers = [name for name in layers if name.split(".")[0] not in heads]
    if not layers:
        return
    message = f"{weights.source} has no weights for these layers of {type(network).__name__}: {summary(layers)}."
    if complete:
        raise DataError(
            f"{message} Choose the network and the arguments (model.network.*) that they were trained with."
        )
    log.warning("%s They start from random numbers.", message)


def meta_network(network: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    """Return the network on torch's meta device, without memory for its parameters, to check settings against it."""
    try:
        with torch.device("meta"):
            return build_network(network, num_classes=num_classes, weights=None, seed=0)
    except RuntimeError:  # the constructor reads the values of parameters
        return build_network(network, num_classes=num_classes, weights=None, seed=0)


def pretrained_network(network: Callable[..., nn.Module], weights: Weights) -> nn.Module:
    """Return the network in eval mode with the weights, and as many outputs as they have.

    If the weights have no head, the network outputs its flattened features.
    """
    known = has_classifier(weights)
    outputs = outputs_of(weights) if known else 1
    built = build_network(network, num_classes=outputs, weights=weights, seed=0, complete=True)
    if known:
        return built.eval()
    for name in head_layers(built):
        built.set_submodule(name, nn.Flatten())
    built.__dict__.pop("classifier", None)  # the alias of the former head
    return with_features_and_classifier(built).eval()
