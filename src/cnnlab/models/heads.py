"""Find the heads of a network: the layers that turn its features into class scores."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models import GoogLeNet, GoogLeNetOutputs, Inception3, InceptionOutputs

from cnnlab.errors import InputError

HEADS = ("classifier", "fc", "head", "heads")
"""Names that torchvision and most networks give to the child that is the head."""
AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Children of torchvision's GoogLeNet and Inception v3 with the scores of their auxiliary losses."""
AUXILIARY_WEIGHTS = ((GoogLeNetOutputs, 0.3), (InceptionOutputs, 0.4))
"""What these networks return in training, and the weight of the auxiliary losses: of Szegedy et al. 2015, section 5,
and of the authors' code of Inception v3 (tensorflow/models, research/slim)."""


def head_layers(network: nn.Module) -> list[str]:
    """Return the names of the heads, the main one first; [] if none is found.

    timm names the layers themselves (`head.fc`, or `head` and `head_dist` of a distilled network) in `pretrained_cfg`.
    Of other networks it is a child named as in HEADS, and those with auxiliary losses of torchvision.
    """
    published = getattr(network, "pretrained_cfg", None)
    named = published_heads(published.get("classifier")) if isinstance(published, dict) else []
    if found := [name for name in named if _has(network, name)]:
        return found
    children = [name for name, _ in network.named_children()]
    main = [name for name in HEADS if name in children][:1]
    auxiliary = AUXILIARY if isinstance(network, GoogLeNet | Inception3) else ()
    return main + [name for name in auxiliary if main and name in children]


def published_heads(classifier: str | Sequence[str] | None) -> list[str]:
    """Return the names in `classifier` of timm's pretrained_cfg: one, several, or none."""
    return [classifier] if isinstance(classifier, str) else list(classifier or ())


def head_names(network: nn.Module) -> list[str]:
    """Return the children that hold the heads, the main one first; [] if there is none."""
    return list(dict.fromkeys(name.split(".")[0] for name in head_layers(network)))


def head_name(network: nn.Module) -> str:
    """Return the child that holds the main head; raise InputError if there is none."""
    names = head_names(network)
    if not names:
        children = ", ".join(name for name, _ in network.named_children())
        raise InputError(
            f"{type(network).__name__} has no classifier: it needs a child {', '.join(HEADS[:-1])} or {HEADS[-1]}, "
            f"but has {children}."
        )
    return names[0]


def split_outputs(outputs: Any) -> tuple[Any, list[tuple[float, Tensor]]]:
    """Return a network's main outputs, and the weight of the loss and the outputs of each auxiliary head."""
    for kind, weight in AUXILIARY_WEIGHTS:
        if isinstance(outputs, kind):
            main, *others = outputs
            return main, [(weight, each) for each in others if each is not None]
    return outputs, []


def _has(network: nn.Module, name: str) -> bool:
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True
