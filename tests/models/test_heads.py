"""Heads are the layers that the number of classes changes, of every kind of network; all of them train."""

import functools

import pytest
import torch
import torchvision
from torch import nn

from cnnlab.models.building import pretrained_network
from cnnlab.models.feature_maps import first_conv, resolve_layers
from cnnlab.models.heads import AUXILIARY_WEIGHTS, head_layers, split_outputs
from cnnlab.models.initialization import initialize
from cnnlab.models.stages import stages, with_features_and_classifier
from cnnlab.models.weighted import weights_of
from cnnlab.models.weights import Weights, has_classifier
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.regularizers.surgery import Dropout

TIMM = (
    "test_convnext",  # head.fc
    "legacy_seresnet18",  # last_linear
    "inception_resnet_v2",  # classif
    "efficientformer_l1",  # head, head_dist
    "levit_128s",  # head.linear, head_dist.linear
    "repvit_m1",  # head.head.l, head.head_dist.l
    "efficientvim_m1_dist",  # eight layers in heads and heads_dist
)
TORCHVISION = ("inception_v3", "googlenet", "shufflenet_v2_x0_5")


@functools.cache
def built(name: str, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        if name in TIMM:
            timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
            return with_features_and_classifier(timm.create_model(name, num_classes=num_classes))
        options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        return with_features_and_classifier(torchvision.models.get_model(name, num_classes=num_classes, **options))


def changed_layers(name: str) -> set[str]:
    """The layers whose parameters have other shapes with another number of classes."""
    few, many = (built(name, count).state_dict() for count in (5, 7))
    return {key.rpartition(".")[0] for key in few if few[key].shape != many[key].shape}


@pytest.mark.parametrize("name", [*TIMM, *TORCHVISION])
def test_all_heads_are_the_classifier_and_train_when_features_are_frozen(name):
    network = built(name, 5)
    changed = changed_layers(name)
    assert changed
    if name in TIMM:
        assert set(head_layers(network)) == changed
    plan = FreezePlan(network, [{"epoch": 0, "train": "classifier"}])
    plan.apply(network, epoch=0)
    trained = {key.rpartition(".")[0] for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert changed <= trained
    children = {layer.split(".")[0] for layer in changed}
    assert all(layer.split(".")[0] in children for layer in trained)
    assert not children & set(stages(network))


def test_classifier_means_every_head_to_penalties_initialization_and_dropout():
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    network = built("efficientformer_l1", 5)
    assert list(weights_of(network, ["classifier"])) == ["head.weight", "head_dist.weight"]
    heads = nn.ModuleDict({"fc": nn.Linear(3, 2), "body": nn.Linear(3, 3)})
    initialize(heads, "zero", modules=["classifier"])
    assert (heads["fc"].weight == 0).all()
    assert (heads["body"].weight != 0).any()
    Dropout(0.25).modify_network(network)
    assert all(len(network.get_submodule(head)._forward_pre_hooks) == 1 for head in ("head", "head_dist"))


def test_layer_classifier_of_a_network_with_several_heads_is_the_main_one():
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    network = built("efficientformer_l1", 5)
    assert resolve_layers(network, ["classifier"]) == {"classifier": network.head}


@pytest.mark.parametrize("name", ["legacy_seresnet18", "test_convnext"])
def test_weights_without_the_named_head_have_no_classifier(name):
    """ConvNeXt's `head` also holds a norm, which is no classifier."""
    network = built(name, 5)
    heads = head_layers(network)
    state = network.state_dict()
    body = {key: value for key, value in state.items() if key.rpartition(".")[0] not in heads}
    assert has_classifier(Weights(state, "here", heads=heads))
    assert not has_classifier(Weights(body, "here", heads=heads))


def test_network_of_timm_without_its_head_gives_features():
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    whole = timm.create_model("test_convnext", num_classes=5).eval()
    state = {name: value for name, value in whole.state_dict().items() if not name.startswith("head.fc")}
    network = pretrained_network(
        functools.partial(timm.create_model, "test_convnext"), Weights(state, "here", heads=["head.fc"])
    )
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        torch.testing.assert_close(network(images), expected)


def test_first_convolution_is_the_one_that_timm_names():
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    network = timm.create_model("test_convnext")
    network.pretrained_cfg["first_conv"] = "stages.0.blocks.0.conv_dw"
    assert first_conv(network)[0] == "stages.0.blocks.0.conv_dw"
    network.pretrained_cfg["first_conv"] = ("gone", "stem.0")
    assert first_conv(network)[0] == "stem.0"


def test_outputs_are_divided_into_main_and_auxiliary_ones():
    scores = torch.ones(2, 3)
    assert split_outputs(scores)[1] == []
    google = torchvision.models.GoogLeNetOutputs(scores, scores * 2, scores * 3)
    main, others = split_outputs(google)
    assert main is scores
    assert [(weight, value[0, 0].item()) for weight, value in others] == [(0.3, 2), (0.3, 3)]
    assert dict(AUXILIARY_WEIGHTS)[torchvision.models.InceptionOutputs] == 0.4
