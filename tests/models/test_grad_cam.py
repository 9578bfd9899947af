"""Grad-CAM against its formula, written out for each network's own order of axes."""

import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import nn

from cnnlab.errors import InputError
from cnnlab.models.grad_cam import cam_layer, grad_cam
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.stages import with_features_and_classifier

TARGETS = torch.tensor([2, 0])


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(
        32, 8, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=4
    )
    nn.init.normal_(vit.heads.head.weight)
    return with_features_and_classifier(vit.eval())


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_map_of_swin_is_the_formula_over_rows_and_columns(library):
    """relu(sum_k mean(dy / dA_k) A_k) with channels last, in stage 1 of 8 x 8 positions and 8 channels."""
    torch.manual_seed(0)
    if library == "timm":
        swin_transformer = pytest.importorskip("timm.models.swin_transformer", reason="timm is an extra")
        swin = swin_transformer.SwinTransformer(
            32, 4, num_classes=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
        )
        layer, parts = "layers.0", (swin.patch_embed, swin.layers[0])
        rest = nn.Sequential(swin.layers[1], swin.norm, swin.head)
    else:
        swin = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], num_classes=4)
        layer, parts = "features.1", (swin.features[0], swin.features[1])
        rest = nn.Sequential(*swin.features[2:], swin.norm, swin.permute, swin.avgpool, swin.flatten, swin.head)
    swin.eval()
    rest.eval()
    images = torch.rand(2, 3, 32, 32)
    maps_NHWC = nn.Sequential(*parts).eval()(images).detach().requires_grad_()
    assert maps_NHWC.shape == (2, 8, 8, 8)
    rest(maps_NHWC)[[0, 1], TARGETS].sum().backward()
    weights = maps_NHWC.grad.mean((1, 2), keepdim=True)
    expected = (weights * maps_NHWC).sum(3).relu().detach()

    found = grad_cam(with_features_and_classifier(swin), images, layer, TARGETS)

    torch.testing.assert_close(found, expected)
    assert spearmanr(found.flatten(), expected.flatten()).statistic == pytest.approx(1)


def test_map_of_a_vit_is_the_formula_over_its_patches():
    vit = small_vit()
    images = torch.rand(2, 3, 32, 32)
    tokens = vit.conv_proj(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([vit.class_token.expand(2, -1, -1), tokens], dim=1) + vit.encoder.pos_embedding
    tokens = vit.encoder.layers[:2](tokens).detach().requires_grad_()
    vit.heads(vit.encoder.ln(vit.encoder.layers[2](tokens))[:, 0])[[0, 1], TARGETS].sum().backward()
    slopes, patches = tokens.grad[:, 1:], tokens[:, 1:]
    expected = (slopes.mean(1, keepdim=True) * patches).sum(2).relu().unflatten(1, (4, 4)).detach()

    torch.testing.assert_close(grad_cam(vit, images, "encoder.layers.encoder_layer_1", TARGETS), expected)


def test_maps_of_images_in_a_batch_are_those_of_the_images_alone():
    torch.manual_seed(0)
    network, images = LeNet5().eval(), torch.rand(2, 1, 32, 32)
    together = grad_cam(network, images, "features.3", TARGETS)
    alone = [grad_cam(network, images[[k]], "features.3", TARGETS[[k]]) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layer_is_the_last_whose_maps_the_score_depends_on():
    """A ViT's classifier reads the class token, so no patch of the last block matters."""
    images = torch.rand(2, 3, 32, 32)
    resnet = with_features_and_classifier(torchvision.models.resnet18(num_classes=4).eval())
    assert cam_layer(resnet, torch.rand(2, 3, 64, 64), TARGETS) == "layer4"
    assert cam_layer(LeNet5().eval(), torch.rand(2, 1, 32, 32), TARGETS) == "features.5"
    assert cam_layer(small_vit(), images, TARGETS) == "encoder.layers.encoder_layer_1"
    with pytest.raises(
        InputError, match=r"layer=encoder\.ln: the score does not depend .* layer=encoder\.layers\.encode"
    ):
        cam_layer(small_vit(), images, TARGETS, "encoder.ln")


def test_chosen_layer_needs_maps():
    images = torch.rand(1, 1, 32, 32)
    assert cam_layer(LeNet5().eval(), images, TARGETS[:1], "0") == "features.0"
    with pytest.raises(InputError, match=r"layer=classifier has no maps: its output, N x 10, has no height and width"):
        cam_layer(LeNet5().eval(), images, TARGETS[:1], "classifier")


def test_layer_may_have_maps_of_a_pixel_where_it_was_asked_for():
    resnet = with_features_and_classifier(torchvision.models.resnet18(num_classes=4).eval())
    images = torch.rand(2, 3, 64, 64)
    assert cam_layer(resnet, images, TARGETS, "[avgpool]") == "avgpool"
    assert grad_cam(resnet, images, "avgpool", TARGETS).shape == (2, 1, 1)
