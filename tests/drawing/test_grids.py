"""Grids of channels and filters, pixel by pixel."""

import pytest
import torch

from cnnlab.drawing.grids import NEGATIVE, POSITIVE, colour_filters, diverging, grey_maps, tile, to_uint8
from cnnlab.errors import InputError


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (6, 2, 3), (10, 3, 4)])
@pytest.mark.parametrize("padding", [1, 3])
def test_tile_places_every_picture_and_draws_lines(count, rows, columns, padding):
    images = torch.arange(count * 2 * 5 * 4).remainder(250).to(torch.uint8).view(count, 2, 5, 4)
    grid = tile(images, padding)
    assert grid.shape == (2, rows * (5 + padding) + padding, columns * (4 + padding) + padding)
    covered = torch.zeros(grid.shape[1:], dtype=torch.bool)
    for index in range(count):
        top = padding + index // columns * (5 + padding)
        left = padding + index % columns * (4 + padding)
        assert torch.equal(grid[:, top : top + 5, left : left + 4], images[index])
        covered[top : top + 5, left : left + 4] = True
    assert (grid[:, ~covered] == 255).all()


def test_channels_are_scaled_each_to_its_own_range_or_all_to_one():
    ramp = torch.linspace(-3, 5, 256).view(1, 16, 16)
    maps = torch.cat([ramp, 4 * ramp])
    own, shared = grey_maps(maps), grey_maps(maps, "layer")
    assert torch.equal(own[0].flatten(), torch.arange(256, dtype=torch.uint8))
    assert torch.equal(own[1], own[0])
    assert [int(shared[0].min()), int(shared[0].max())] == [round(255 * 9 / 32), round(255 * 17 / 32)]
    assert torch.equal(shared[1], own[1])


def test_zero_is_black_behind_a_relu_even_where_no_value_is_zero():
    maps = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 4.0), torch.linspace(2, 4, 16).view(4, 4)])
    grey = grey_maps(maps)
    assert grey[0].unique().tolist() == [0]
    assert grey[1].unique().tolist() == [255]
    assert [int(grey[2].min()), int(grey[2].max())] == [128, 255]


def test_values_that_are_no_number_count_as_zero():
    maps = torch.tensor([[[float("nan"), float("inf"), float("-inf"), 2.0]]])
    assert grey_maps(maps).flatten().tolist() == [0, 0, 0, 255]
    assert colour_filters(torch.full((4, 3, 3, 3), float("nan"))).unique().tolist() == [128]


def test_colour_filters_keep_their_colour_and_zero_is_grey():
    filters = torch.zeros(2, 3, 2, 2)
    filters[0, 0] = 2.0
    filters[1, 2] = -0.5
    assert [each[:, 0, 0].tolist() for each in colour_filters(filters)] == [[255, 128, 128], [128, 128, 0]]
    assert [each[:, 0, 0].tolist() for each in colour_filters(filters, "layer")] == [[255, 128, 128], [128, 128, 96]]


def test_diverging_map_is_white_at_zero_and_symmetric_in_strength():
    pixels = diverging(torch.tensor([[-4.0, -2.0, 0.0, 2.0, 4.0]]), 4.0)[:, 0].T.tolist()
    assert [pixels[0], pixels[4]] == [list(NEGATIVE), list(POSITIVE)]
    assert pixels[2] == [255, 255, 255]
    assert pixels[1] == pytest.approx([(255 + end) / 2 for end in NEGATIVE], abs=0.5)
    assert pixels[3] == pytest.approx([(255 + end) / 2 for end in POSITIVE], abs=0.5)
    half = diverging(torch.tensor([[-4.0, 4.0]]), torch.tensor([[8.0]]))[:, 0].T.tolist()
    assert half == [pixels[1], pixels[3]]


def test_unknown_scale_names_those_there_are():
    with pytest.raises(InputError, match="use channel or layer"):
        grey_maps(torch.zeros(1, 2, 2), "image")
    with pytest.raises(InputError, match="use filter or layer"):
        colour_filters(torch.zeros(1, 3, 2, 2), "channel")


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
