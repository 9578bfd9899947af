"""Backbones: the stages of any classification network, and the feature maps that a detector takes from them."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from cnnlab.errors import InputError, nearest
from cnnlab.models.heads import head_name, head_names
from cnnlab.models.modes import evaluating

TIMM = "timm:"
"""Prefix of the name of a backbone of timm."""
PROBE = 128
"""Side of the image by which the strides of the stages are found."""
NORMS = ("frozen", "batch")


def backbone_stages(backbone: str, norm: str) -> "nn.Sequential":
    """Return the stages of a network as one sequence that maps images N x 3 x H x W to feature maps, without weights.

    backbone: a classification network of torchvision, or timm:NAME. norm: "frozen" replaces batch normalization by
    layers with fixed statistics, "batch" leaves it.
    Raises InputError for an unknown name, or for a network whose stages do not follow one another.
    """
    if norm not in NORMS:
        raise InputError(f"model.network.norm={norm}: use {' or '.join(NORMS)}.")
    network = _classifier(backbone)
    head_name(network)  # raises an error if there is none
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        stages = OrderedDict(features.named_children())
    else:
        stages = OrderedDict(
            (name, child) for name, child in network.named_children() if name not in head_names(network)
        )
    while stages and not _is_map(nn.Sequential(stages)):
        stages.popitem()  # pooling and what follows it
    body = nn.Sequential(stages)
    if not stages or not _follows(network, body):
        raise InputError(
            f"model.backbone={backbone}: the stages of {type(network).__name__} do not follow one another, so that its "
            "feature maps cannot be taken. Use a network such as resnet18, mobilenet_v2 or timm:resnet50."
        )
    return freeze_norms(body) if norm == "frozen" else body


def levels_of(body: nn.Sequential, strides: tuple[int, ...]) -> dict[str, int]:
    """Return the last stage at each stride -> its channels, in order of the strides.

    Stages that are sequences themselves (timm's `blocks`) are looked into: their parts are called blocks.0, blocks.1.
    Raises InputError that lists the strides if one does not occur.
    """
    found: dict[int, tuple[str, int]] = {}

    def note(path: str, maps: Tensor) -> None:
        if maps.ndim == 4 and maps.shape[-1] == maps.shape[-2]:
            found[2 ** round(math.log2(PROBE / maps.shape[-1]))] = (path, maps.shape[1])

    with torch.no_grad(), evaluating(body):
        _walk(body, _probe(body), "", note)
    missing = [stride for stride in strides if stride not in found]
    if missing:
        raise InputError(
            f"model.backbone: no stage ends at a stride of {missing[0]} pixels; the strides are "
            f"{', '.join(map(str, found)) or 'not those of maps'}."
        )
    return dict(found[stride] for stride in strides)


def _walk(body: nn.Sequential, maps: Tensor, before: str, note: Callable[[str, Tensor], None]) -> Tensor:
    for name, stage in body.named_children():
        path = before + name
        maps = _walk(stage, maps, f"{path}.", note) if type(stage) is nn.Sequential else stage(maps)
        note(path, maps)
    return maps


def maps_at(
    body: nn.Sequential, levels: Sequence[str], images: Tensor, before: str = ""
) -> Iterator[tuple[str | None, Tensor]]:
    """Run the stages; yield (level, its map) for each of `levels`, and last of all (None, the result)."""
    for name, stage in body.named_children():
        path = before + name
        if any(level.startswith(f"{path}.") for level in levels):
            assert isinstance(stage, nn.Sequential)
            for level, maps in maps_at(stage, levels, images, f"{path}."):
                if level is not None:
                    yield level, maps
                images = maps
        else:
            images = stage(images)
        if path in levels:
            yield path, images
    yield None, images


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's FrozenBatchNorm2d in one operation: on a CPU the two of torchvision take twice as long."""

    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        return torch.nn.functional.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)


def freeze_norms(module: nn.Module) -> "nn.Sequential":
    """Replace every BatchNorm2d by one with fixed statistics, which keeps the names of the weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenNorm(child.num_features, child.eps))
        else:
            freeze_norms(child)
    return module  # type: ignore[return-value]


def _classifier(backbone: str) -> nn.Module:
    """Return the network called `backbone`; raise InputError with suggestions if there is none."""
    if backbone.startswith(TIMM):
        try:
            import timm
        except ImportError as error:
            raise InputError(
                f"model.backbone={backbone} needs the extra `timm`: pip install 'cnnlab[timm]'."
            ) from error
        known = timm.list_models()
        build: Callable[[str], nn.Module] = timm.create_model
    else:
        known, build = torchvision.models.list_models(torchvision.models), _torchvision_network
    name = backbone.removeprefix(TIMM)
    if name.split(".")[0] not in known:
        close = nearest([name], known) or "It is neither a network of torchvision nor timm:NAME."
        raise InputError(f"model.backbone={backbone}: unknown network. {close}")
    return build(name)


def _torchvision_network(name: str) -> nn.Module:
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **options)


def _is_map(body: nn.Sequential) -> bool:
    """Return whether a sequence of stages maps an image to maps N x C x H x W of more than one position."""
    try:
        with torch.no_grad(), evaluating(body):
            found = body(_probe(body))
    except Exception:  # whatever the code of a network raises for inputs that it was not made for
        return False
    return isinstance(found, Tensor) and found.ndim == 4 and found.shape[2] == found.shape[3] > 1


def _follows(network: nn.Module, body: nn.Sequential) -> bool:
    """Return whether the last stage gives the same within the network as in the sequence of stages."""
    kept: list[Tensor] = []
    last = next(reversed(body))
    handle = last.register_forward_hook(lambda module, given, output: kept.append(output.clone()))
    try:
        with torch.no_grad(), evaluating(network):
            network(_probe(body))
            inside = kept[-1]
            alone = body(_probe(body))
    except Exception:  # as above
        return False
    finally:
        handle.remove()
    return inside.shape == alone.shape and (inside.is_meta or torch.allclose(inside, alone, atol=1e-4, rtol=1e-3))


def _probe(body: nn.Module) -> Tensor:
    """Return an image of random pixels on the device of the module."""
    parameter = next(body.parameters())
    generator = None if parameter.is_meta else torch.Generator().manual_seed(0)
    return torch.rand(1, 3, PROBE, PROBE, generator=generator, device=parameter.device)
