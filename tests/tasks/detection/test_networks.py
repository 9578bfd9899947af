"""Detectors: the same as torchvision's on the same weights, with any backbone whose stages follow one another."""

from functools import partial

import pytest
import torch
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cnnlab.errors import InputError
from cnnlab.models.building import build_network, meta_network
from cnnlab.models.stages import last_block, stages
from cnnlab.tasks.detection import networks
from cnnlab.tasks.detection.backbones import backbone_stages, levels_of
from cnnlab.tasks.detection.detector_weights import renamed

TINY = "timm:test_resnet"
PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": 64, "max_size": 96}
DETECTORS = {
    "mask_rcnn": partial(networks.rcnn, backbone=TINY, masks=True, channels=16, detections=5, proposals=50),
    "faster_rcnn": partial(networks.rcnn, backbone=TINY, masks=False, channels=16, proposals=50),
    "retinanet": partial(networks.retinanet, backbone=TINY, channels=32),
    "fcos": partial(networks.fcos, backbone=TINY, channels=32),
    "ssd": partial(networks.ssd, backbone=TINY, light=False),
    "ssdlite": partial(networks.ssd, backbone=TINY, light=True),
}


def targets(size=(64, 96)):
    """An image with an object, and one without."""
    mask = torch.zeros(1, *size, dtype=torch.uint8)
    mask[:, 10:40, 8:50] = 1
    return [
        {"boxes": torch.tensor([[8.0, 10, 50, 40]]), "labels": torch.tensor([1]), "masks": mask},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": mask[:0]},
    ]


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_detections_and_losses_are_those_of_torchvision(kind):
    """torchvision's own model, weights and padding; images of two sizes in one batch."""
    torch.manual_seed(0)
    if kind == "mask_rcnn":
        body = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        peer = MaskRCNN(
            body,
            4,
            box_score_thresh=0.0,
            box_detections_per_img=5,
            **{f"rpn_{when}_nms_top_n_{mode}": 40 for when in ("pre", "post") for mode in ("train", "test")},
            **PLAIN,
        ).eval()
        peer.rpn._pre_nms_top_n["training"] = peer.rpn._post_nms_top_n["training"] = 80
        ours = partial(networks.rcnn, masks=True, score_threshold=0.0, detections=5, proposals=40)
    else:
        extra = LastLevelP6P7(256, 256)
        body = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=extra
        )
        sizes = tuple(tuple(int(size * 2 ** (third / 3)) for third in range(3)) for size in (32, 64, 128, 256, 512))
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
        peer = RetinaNet(body, 3, anchor_generator=anchors, score_thresh=0.0, detections_per_img=100, **PLAIN).eval()
        ours = partial(networks.retinanet, score_threshold=0.0)
    first = 1 if kind == "mask_rcnn" else 0  # torchvision's RetinaNet has no output for the background
    for name, buffer in peer.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    network = build_network(partial(ours, backbone="resnet18"), num_classes=3, weights=None, seed=0).eval()
    missing, unexpected = network.load_state_dict(renamed(peer.state_dict()), strict=False)
    assert not unexpected
    assert all("anchor" in name for name in missing)
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 96)]
    batch = torch.rand(2, 3, 64, 96)
    batch[0, :, :, :80], batch[1] = images[0], images[1]
    with torch.no_grad():
        for expected, found in zip(peer(images), network(batch, [(64, 80), (64, 96)]), strict=True):
            assert torch.equal(found["labels"], expected["labels"] - first)
            for name in ("boxes", "scores"):
                assert torch.allclose(found[name], expected[name], atol=1e-4)
        wanted = [{**each, "labels": each["labels"] + first} for each in targets()]
        peer.train()
        peer.transform.eval()  # in training it draws one of several sizes
        torch.manual_seed(1)
        expected = peer(list(batch), wanted)
        torch.manual_seed(1)
        losses, _ = network.losses_and_detections(batch, [(64, 96)] * 2, targets())
    assert losses == {name.removeprefix("loss_"): pytest.approx(float(v), rel=1e-4) for name, v in expected.items()}
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_detector_trains_and_detects(kind):
    meta = meta_network(DETECTORS[kind], 3)
    assert all(parameter.is_meta for parameter in meta.parameters())
    network = build_network(DETECTORS[kind], num_classes=3, weights=None, seed=0)
    assert list(stages(network))[-1] == "classifier"
    assert last_block(network) == [list(stages(network))[-2]]
    network.train()
    losses = network(torch.rand(2, 3, 64, 96), [(64, 96), (64, 90)], targets())
    sum(losses.values()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    found = network.eval()(torch.rand(2, 3, 64, 96))
    for each in found:
        assert each["boxes"].shape == (len(each["scores"]), 4)
        assert set(each["labels"].tolist()) <= {0, 1, 2}
        assert ("masks" in each) == network.has_masks


def test_padding_is_not_seen():
    network = build_network(DETECTORS["ssdlite"], num_classes=3, weights=None, seed=0).eval()
    batch = torch.rand(1, 3, 64, 64)
    other = batch.clone()
    other[:, :, 40:] = 5.0
    with torch.no_grad():
        first, second = (network.pyramid(each, [(40, 64)]) for each in (batch, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        ("mobilenet_v3_small", (4, 8, 16, 32)),
        ("timm:mobilenetv3_small_050", (4, 8, 16, 32)),
        ("regnet_y_400mf", (8, 32)),
    ],
)
def test_the_maps_have_the_strides_that_are_asked_for(backbone, strides):
    body = backbone_stages(backbone, "frozen")
    levels = levels_of(body, strides)
    with torch.no_grad():
        maps = [
            found for level, found in networks.maps_at(body.eval(), list(levels), torch.rand(1, 3, 128, 128)) if level
        ]
    assert [128 // each.shape[-1] for each in maps] == list(strides)
    assert [each.shape[1] for each in maps] == list(levels.values())


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("vit_b_16", "do not follow one another"),
        ("resnet19", "unknown network"),
        ("timm:resnet19", "unknown network"),
    ],
)
def test_a_backbone_without_maps_is_refused(backbone, reason):
    with torch.device("meta"), pytest.raises(InputError, match=reason):
        backbone_stages(backbone, "frozen")


def test_names_of_backbone_weights():
    """A classifier of torchvision with `features`, one without, and the bare features."""
    assert renamed({"features.0.weight": 0, "classifier.1.weight": 1}) == {
        "features.0.weight": 0,
        "classifier.1.weight": 1,
    }
    assert list(renamed({"conv1.weight": 0, "fc.weight": 1})) == ["features.conv1.weight", "features.fc.weight"]
    assert list(renamed({"0.0.weight": 0})) == ["features.0.0.weight"]
