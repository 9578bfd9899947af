"""Maps from outputs of any order of axes, against images that say where each of their pixels is, and against timm."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from cnnlab.models.axes import AxisTracker
from cnnlab.models.feature_maps import feature_maps

WINDOW = 4


def coordinates(rows: int, columns: int) -> Tensor:
    """Two images whose first channel is the row of each pixel, and whose second one is its column."""
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).float()
    return torch.stack([grid, grid + 100])


def maps_after(rearrange, images: Tensor) -> Tensor | None:
    with AxisTracker(images) as axes:
        output = rearrange(images)
    layout = axes.layout(output)
    return None if layout is None else layout.maps(output)


def with_class_tokens(images: Tensor) -> Tensor:
    patches = images.flatten(2).transpose(1, 2)
    return torch.cat([torch.zeros(len(images), 2, patches.shape[2]), patches, torch.ones(len(images), 1, 2)], dim=1)


def in_windows(images: Tensor) -> Tensor:
    """N x H x W x C -> windows x N x 16 x C, as in Swin but for the place of the images."""
    count, rows, columns, channels = images.permute(0, 2, 3, 1).shape
    cut = images.permute(0, 2, 3, 1).view(count, rows // WINDOW, WINDOW, columns // WINDOW, WINDOW, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(count, -1, WINDOW * WINDOW, channels)


def back_from_windows(images: Tensor) -> Tensor:
    count, channels, rows, columns = images.shape
    cut = in_windows(images).view(count, rows // WINDOW, columns // WINDOW, WINDOW, WINDOW, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(count, rows, columns, channels)


REARRANGEMENTS = {
    "channels_last": lambda images: images.permute(0, 2, 3, 1),
    "columns_before_rows": lambda images: images.transpose(2, 3),
    "patches": lambda images: images.flatten(2).mT,
    "columns_first": lambda images: images.transpose(2, 3).flatten(2),
    "class_tokens": with_class_tokens,
    "without_them": lambda images: with_class_tokens(images)[:, 2:-1],
    "one_of_them_left": lambda images: with_class_tokens(images)[:, 1:],
    "split_off": lambda images: with_class_tokens(images).split([2, images[0, 0].numel(), 1], dim=1)[1],
    "windows": in_windows,
    "back_from_windows": back_from_windows,
    "padded_and_cropped": lambda images: nn.functional.pad(images, (0, 3, 0, 3))[:, :, :-3, :-3],
    "in_place": lambda images: images.clone().relu_().unsqueeze_(1).squeeze_(1).transpose_(1, 3),
    "heads": lambda images: images.permute(0, 2, 3, 1).unflatten(3, (2, 1)).movedim(3, 1),
    "weighted": lambda images: torch.eye(2) @ images.flatten(2),
    "attention": lambda images: (
        torch.softmax(-1e6 * torch.cdist(images.flatten(2).mT, images.flatten(2).mT), dim=2) @ images.flatten(2).mT
    ),
}


@pytest.mark.parametrize("name", REARRANGEMENTS)
@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_every_pixel_is_back_at_its_place(name, size):
    images = coordinates(*size)
    torch.testing.assert_close(maps_after(REARRANGEMENTS[name], images), images)


def test_pooled_and_convolved_maps_keep_their_axes():
    images = torch.rand(2, 3, 8, 12)
    conv = nn.Conv2d(3, 8, 3, padding=1)
    found = maps_after(lambda x: nn.functional.avg_pool2d(conv(x), 2).permute(0, 2, 3, 1), images)
    torch.testing.assert_close(found, nn.functional.avg_pool2d(conv(images), 2))


def test_merged_patches_are_positions_of_their_own():
    """Swin's merging: 2 x 2 patches become one position, before and after the linear layer that reduces them."""
    images, reduce = torch.rand(2, 3, 8, 12), nn.Linear(12, 5)

    def merged(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(2, 4, 2, 6, 2, 3).permute(0, 1, 3, 4, 2, 5).flatten(3)

    expected = reduce(merged(images)).permute(0, 3, 1, 2)
    torch.testing.assert_close(maps_after(lambda x: reduce(merged(x)), images), expected)


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda images: in_windows(images).flatten(0, 1),  # windows as images of their own
        lambda images: images.flatten(2).mT @ images.flatten(2),  # an attention: two positions for each value
        lambda images: nn.Linear(64, 64)(images.flatten(2)),  # mixed over all positions
        lambda images: images.flatten(2)[:, :, torch.randperm(64)],  # in an order that nobody knows
    ],
)
def test_values_that_have_no_position_are_no_maps(rearrange):
    assert maps_after(rearrange, torch.rand(2, 2, 8, 8)) is None


class Unfollowed(torch.autograd.Function):
    """An operation of a library: what it does to the axes cannot be seen."""

    @staticmethod
    def forward(context: object, images: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.full(shape, images.detach().numpy().mean()))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 16, 8, 8), (2, 3)),
        ((2, 8, 8, 16), (1, 2)),
        ((2, 4, 8, 32), None),
        ((2, 8, 8, 8), None),
        ((2, 16, 64), None),
        ((1, 16, 8, 16), None),
    ],
)
def test_axes_that_got_lost_are_read_by_shape_only_where_one_reading_fits(shape, axes):
    images = torch.rand(2, 4, 16, 16)
    found = maps_after(lambda x: Unfollowed.apply(x, shape), images)
    if axes is None:
        assert found is None
    else:
        assert found.shape == (2, shape[6 - sum(axes)], 8, 8)


def test_swin_of_torchvision_computes_channels_last():
    """8 channels of 8 x 8: nothing but the computation says which axis is which."""
    torch.manual_seed(0)
    swin = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    layers = {
        name: swin.get_submodule(name) for name in ("features.0", "features.1", "features.1.1", "norm", "permute")
    }
    found = feature_maps(swin, images, layers)
    with torch.no_grad():
        block = swin.features[:2](images)
        last = swin.norm(swin.features(images))
    assert block.shape == (2, 8, 8, 8)
    torch.testing.assert_close(found["features.1"], block.permute(0, 3, 1, 2))
    torch.testing.assert_close(found["norm"], last.permute(0, 3, 1, 2))
    torch.testing.assert_close(found["permute"], found["norm"])


def small_networks() -> dict[str, Callable[[], nn.Module]]:
    """Architectures of timm, made small; none keeps N x C x H x W throughout."""
    from timm.models import (
        convnext,
        hiera,
        levit,
        mlp_mixer,
        mvitv2,
        nest,
        pvt_v2,
        swin_transformer,
        swin_transformer_v2_cr,
        vision_transformer,
    )

    pyramid = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    transformer = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    multiscale = mvitv2.MultiScaleVitCfg(depths=(1, 1), embed_dim=(8, 16), num_heads=(1, 2), use_cls_token=True)
    return {
        "swin": lambda: swin_transformer.SwinTransformer(**pyramid),
        "swin_v2_cr": lambda: swin_transformer_v2_cr.SwinTransformerV2Cr(**{**pyramid, "img_size": (32, 64)}),
        "vit": lambda: vision_transformer.VisionTransformer((32, 48), **transformer, reg_tokens=4),
        "mixer": lambda: mlp_mixer.MlpMixer(img_size=32, patch_size=8, embed_dim=16, num_blocks=2),
        "mvit_v2": lambda: mvitv2.MultiScaleVit(multiscale, img_size=64),
        "hiera": lambda: hiera.Hiera((64, 64), embed_dim=8, stages=(1, 1, 1, 1)),
        "nest": lambda: nest.Nest(64, embed_dims=(8, 8, 8), num_heads=(1, 2, 2), depths=(1, 1, 1)),
        "levit": lambda: levit.Levit(128, embed_dim=(16, 16, 16), key_dim=8, num_heads=(2, 2, 2), depth=(1, 1, 1)),
        "pvt_v2": lambda: pvt_v2.PyramidVisionTransformerV2(embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)),
        "convnext": lambda: convnext.ConvNeXt(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)),
    }


NAMES = ("swin", "swin_v2_cr", "vit", "mixer", "mvit_v2", "hiera", "nest", "levit", "pvt_v2", "convnext")


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_timms_stages_are_its_own_intermediate_features(name):
    """timm's code for each architecture turns its features into N x C x H x W."""
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    torch.manual_seed(0)
    network = small_networks()[name]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # layer scales of zero would make blocks alike
    sizes = {"swin_v2_cr": (32, 64), "vit": (32, 48), "mvit_v2": (64, 64), "hiera": (64, 64), "nest": (64, 64)}
    images = torch.rand(2, 3, *sizes.get(name, (128, 128) if name == "levit" else (32, 32)))
    found = feature_maps(network, images, {name: module for name, module in network.named_modules() if name})
    with torch.no_grad():
        expected = network.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    for maps in expected:
        equal = [each for each in found.values() if each.shape == maps.shape and torch.allclose(each, maps, atol=1e-5)]
        assert equal, f"no layer has the maps {tuple(maps.shape)}"
