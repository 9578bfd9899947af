"""Detectors: a backbone with ordered stages, a pyramid of feature maps, and one of torchvision's detection heads."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from cnnlab.errors import InputError
from cnnlab.tasks.detection.anchors import Anchors
from cnnlab.tasks.detection.backbones import backbone_stages, levels_of, maps_at
from cnnlab.tasks.detection.extras import ExtraMaps, LightExtraMaps, batch_norm
from cnnlab.tasks.detection.pooling import RoiAlign

Size = tuple[int, int]
Target = dict[str, Any]
Detected = dict[str, Tensor]
PUBLISHED_CHANNELS = 256
"""Width of the pyramid and of the mask head in torchvision's detectors."""
STRIDES = (4, 8, 16, 32)
"""Strides of the backbone's maps that a pyramid is built on, in pixels."""


class Detector(nn.Module):
    """A network that finds objects; its stages are those of the backbone, and its classifier is everything above them.

    In training mode, `forward` needs targets and returns the losses by name; in eval mode it returns the detections.

    features: stages that map images to feature maps. levels: the stages whose maps the pyramid takes.
    pyramid: maps them to the maps that the head looks at, name -> N x C x H x W.
    model: one of torchvision's detectors, built on `Given` and `AsTheyAre`. first_label: see `Head`.
    """

    has_masks = False
    """Whether detections have masks."""

    def __init__(
        self,
        features: nn.Sequential,
        levels: Sequence[str],
        pyramid: nn.Module,
        model: nn.Module,
        first_label: int = 1,
    ) -> None:
        super().__init__()
        self.features = features
        self.head = Head(pyramid, model, first_label)
        self.levels = tuple(levels)

    def forward(
        self, images: Tensor, sizes: Sequence[Size] | None = None, targets: Sequence[Target] | None = None
    ) -> Any:
        """Map preprocessed images N x C x H x W to losses (training) or detections (evaluation).

        sizes: (height, width) of each image in the batch, the rest being padding; None: no padding.
        targets: dictionaries of boxes (K x 4), labels (K, from 0) and, for masks, masks (K x H x W).
        A detection is a dictionary of boxes (D x 4), labels (D, from 0), scores (D), best first, and masks
        (D x 1 x 28 x 28, probabilities within the box) of a network with masks.
        """
        sizes = _sizes(images, sizes)
        pyramid = self.pyramid(images, sizes)
        if self.training:
            if targets is None:
                raise InputError("A detector in training mode needs targets.")
            return self.head.losses(images, sizes, pyramid, targets)
        return self.head.detections(images, sizes, pyramid)

    def losses_and_detections(
        self, images: Tensor, sizes: Sequence[Size], targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], list[Detected]]:
        """Return both in eval mode, from one pass through backbone and pyramid."""
        pyramid = self.pyramid(images, sizes)
        return self.head.losses(images, sizes, pyramid, targets), self.head.detections(images, sizes, pyramid)

    def pyramid(self, images: Tensor, sizes: Sequence[Size]) -> "OrderedDict[str, Tensor]":
        """Return the maps that the head looks at; padding is set to zero, the mean of the normalized images."""
        return self.head.maps(self.backbone_maps(without_padding(images, sizes)))

    def backbone_maps(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Return the maps of the backbone that the pyramid is built on."""
        found = [maps for level, maps in maps_at(self.features, self.levels, images) if level is not None]
        return OrderedDict((str(number), maps) for number, maps in enumerate(found))


class Head(nn.Module):
    """Everything above the backbone. Predictions are computed in float32, also under autocast.

    first_label: the number that `model` has for the first class: 1 if 0 is the background.
    labels: int64, for each output of pretrained weights the number of its class, -1 for one whose detections are
    dropped; None if they are the same.
    """

    labels: Tensor | None = None

    def __init__(self, pyramid: nn.Module, model: nn.Module, first_label: int) -> None:
        super().__init__()
        self.first_label = first_label
        self.pyramid = pyramid
        self.model: Any = model

    def maps(self, maps: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        """Return the pyramid of the backbone's maps."""
        return self.pyramid(maps)

    def losses(
        self, images: Tensor, sizes: Sequence[Size], pyramid: "OrderedDict[str, Tensor]", targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Return name -> loss of a batch, whatever mode the network is in."""
        shifted = [{**target, "labels": target["labels"] + self.first_label} for target in targets]
        with self._mode(training=True):
            found = self._run(images, sizes, pyramid, shifted)
        return {name.removeprefix("loss_"): value for name, value in found.items()}

    def detections(self, images: Tensor, sizes: Sequence[Size], pyramid: "OrderedDict[str, Tensor]") -> list[Detected]:
        """Return the detections in each image."""
        with self._mode(training=False):
            found = self._run(images, sizes, pyramid, None)
        return [self._numbered({**each, "labels": each["labels"] - self.first_label}) for each in found]

    def _numbered(self, found: Detected) -> Detected:
        if self.labels is None:
            return found
        labels = self.labels.to(found["labels"].device)[found["labels"]]
        return {name: values[labels >= 0] for name, values in {**found, "labels": labels}.items()}

    def _run(self, images: Tensor, sizes: Sequence[Size], pyramid: Any, targets: Any) -> Any:
        self.model.backbone.maps = OrderedDict((name, each.float()) for name, each in pyramid.items())
        self.model.transform.batch = ImageList(images, [(int(height), int(width)) for height, width in sizes])
        try:
            with torch.autocast(images.device.type, enabled=False):
                return self.model(list(images), targets)
        finally:
            self.model.backbone.maps = self.model.transform.batch = None

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """Let torchvision's detector return losses or detections, without changing the mode of its layers."""
        switches = [
            part for part in (self.model, *map(self._part, ("rpn", "roi_heads"))) if isinstance(part, nn.Module)
        ]
        before = [part.training for part in switches]
        for part in switches:
            part.training = training
        try:
            yield
        finally:
            for part, mode in zip(switches, before, strict=True):
                part.training = mode

    def _part(self, name: str) -> nn.Module | None:
        return getattr(self.model, name, None)


class Given(nn.Module):
    """Takes the place of the backbone in torchvision's detectors: returns maps that are already computed."""

    def __init__(self, out_channels: int | list[int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.maps: Any = None

    def forward(self, images: Tensor) -> Any:
        return self.maps


class AsTheyAre(nn.Module):
    """Takes the place of the transform in torchvision's detectors: images are resized and normalized before."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Any = None

    def forward(self, images: Any, targets: Any = None) -> tuple[Any, Any]:
        return self.batch, targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        return result


def without_padding(images: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Return images with zeros outside (height, width) of each."""
    if all((height, width) == tuple(images.shape[-2:]) for height, width in sizes):
        return images
    images = images.clone()
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


def _sizes(images: Tensor, sizes: Sequence[Size] | None) -> list[Size]:
    if sizes is None:
        return [(images.shape[-2], images.shape[-1])] * len(images)
    return [(int(height), int(width)) for height, width in sizes]


# --- The detectors: num_classes counts the classes of the data, without background. ---


def rcnn(
    num_classes: int,
    backbone: str,
    masks: bool,
    norm: str = "frozen",
    channels: int = 256,
    anchors: str = "default",
    score_threshold: float = 0.05,
    detections: int = 100,
    proposals: int = 1000,
    samples: int = 512,
) -> Detector:
    """Return Faster R-CNN (Ren et al. 2015) or, with `masks`, Mask R-CNN (He et al. 2017) on a feature pyramid.

    norm: "frozen" or "batch" normalization in the backbone. channels: of the pyramid's maps and of the mask head, 256
    as published. anchors: "default" or "auto". score_threshold: lowest score of a detection. detections: most in an
    image. proposals: boxes that the first stage passes on to the second in evaluation; twice as many in training.
    samples: how many of them, drawn at random, the second stage is trained on; at most a quarter are objects.
    """
    features, levels, pyramid = _pyramid(backbone, norm, channels, LastLevelMaxPool())
    options: dict[str, Any] = {
        "rpn_anchor_generator": Anchors([(32,), (64,), (128,), (256,), (512,)], [(0.5, 1.0, 2.0)] * 5, anchors),
        "box_roi_pool": RoiAlign(STRIDES, side=7),
        "box_score_thresh": score_threshold,
        "box_detections_per_img": detections,
        "box_batch_size_per_image": samples,
        "rpn_pre_nms_top_n_train": 2 * proposals,
        "rpn_post_nms_top_n_train": 2 * proposals,
        "rpn_pre_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_test": proposals,
    }
    if masks:
        options["mask_roi_pool"] = RoiAlign(STRIDES, side=14)
    model = (MaskRCNN if masks else FasterRCNN)(Given(channels), num_classes + 1, **options)
    if masks and channels != PUBLISHED_CHANNELS:
        model.roi_heads.mask_head = MaskRCNNHeads(channels, (channels,) * 4, 1)
        model.roi_heads.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)
    network = _detector(features, levels, pyramid, model)
    network.has_masks = masks
    return network


def retinanet(
    num_classes: int,
    backbone: str,
    norm: str = "frozen",
    channels: int = 256,
    anchors: str = "default",
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Detector:
    """Return RetinaNet (Lin et al. 2017); for the arguments see `rcnn`."""
    features, levels, pyramid = _pyramid(backbone, norm, channels, LastLevelP6P7(channels, channels), STRIDES[1:])
    sizes = [tuple(int(size * 2 ** (third / 3)) for third in range(3)) for size in (32, 64, 128, 256, 512)]
    model = RetinaNet(
        Given(channels),
        num_classes,
        anchor_generator=Anchors(sizes, [(0.5, 1.0, 2.0)] * 5, anchors),
        score_thresh=score_threshold,
        detections_per_img=detections,
    )
    return _detector(features, levels, pyramid, model, first_label=0)  # each class has a sigmoid of its own


def fcos(
    num_classes: int,
    backbone: str,
    norm: str = "frozen",
    channels: int = 256,
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Detector:
    """Return FCOS (Tian et al. 2019), which has no anchors; for the arguments see `rcnn`."""
    features, levels, pyramid = _pyramid(backbone, norm, channels, LastLevelP6P7(channels, channels), STRIDES[1:])
    model = FCOS(Given(channels), num_classes, score_thresh=score_threshold, detections_per_img=detections)
    return _detector(features, levels, pyramid, model, first_label=0)  # each class has a sigmoid of its own


def ssd(
    num_classes: int,
    backbone: str,
    light: bool,
    norm: str = "batch",
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Detector:
    """Return SSD (Liu et al. 2016) or, with `light`, SSDLite (Sandler et al. 2018).

    It looks at the backbone's maps at strides of 8 (not SSDLite), 16 and 32 pixels and at four more above them.
    light: use depthwise separable convolutions. For the other arguments see `rcnn`.
    """
    features = backbone_stages(backbone, norm)
    levels = levels_of(features, STRIDES[2:] if light else STRIDES[1:])
    extra = (LightExtraMaps if light else ExtraMaps)(list(levels.values()))
    channels = extra.out_channels
    if light:
        boxes = DefaultBoxGenerator([[2, 3] for _ in channels], min_ratio=0.2, max_ratio=0.95)
    else:
        scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 0.95, 1.05][: len(channels) + 1]
        boxes = DefaultBoxGenerator([[2, 3] for _ in channels], scales=scales)
    per_place = boxes.num_anchors_per_location()
    head = (
        SSDLiteHead(channels, per_place, num_classes + 1, batch_norm)
        if light
        else SSDHead(channels, per_place, num_classes + 1)
    )
    model = SSD(
        Given(channels),
        boxes,
        (1, 1),  # the size for the transform, which `AsTheyAre` replaces
        num_classes + 1,
        head=head,
        score_thresh=score_threshold,
        detections_per_img=detections,
        topk_candidates=300,
        nms_thresh=0.55 if light else 0.45,
    )
    return _detector(features, list(levels), extra, model)


def _pyramid(
    backbone: str, norm: str, channels: int, extra: nn.Module, strides: tuple[int, ...] = STRIDES
) -> tuple[nn.Sequential, list[str], nn.Module]:
    """Return the backbone's stages, those that the pyramid takes, and the pyramid (Lin et al. 2017)."""
    features = backbone_stages(backbone, norm)
    levels = levels_of(features, strides)
    pyramid = FeaturePyramidNetwork(list(levels.values()), channels, extra)
    return features, list(levels), pyramid


def _detector(
    features: nn.Sequential, levels: Sequence[str], pyramid: nn.Module, model: nn.Module, first_label: int = 1
) -> Detector:
    model.transform = AsTheyAre()
    return Detector(features, levels, pyramid, model, first_label)
