"""Grids of channels and filters, pixel by pixel."""

import pytest
import torch

from cnnlab.explain.grids import channel_grid, enlarge, filter_grid, tile, to_uint8


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


def test_channels_are_scaled_each_to_its_own_range():
    ramp = torch.linspace(-3, 5, 256).view(16, 16)
    grid = channel_grid(torch.stack([ramp, 100 * ramp + 7]))
    first, second = grid[0, 1:17, 1:17], grid[0, 1:17, 18:34]
    assert torch.equal(first, second)
    assert torch.equal(first.flatten(), torch.arange(256, dtype=torch.uint8))


def test_channel_without_contrast_is_black_if_zero_and_grey_otherwise():
    grid = channel_grid(torch.stack([torch.zeros(16, 16), torch.full((16, 16), 4.0)]))
    assert grid[0, 1:17, 1:17].unique().tolist() == [0]
    assert grid[0, 1:17, 18:34].unique().tolist() == [128]


def test_values_that_are_no_number_count_as_zero():
    maps = torch.zeros(1, 16, 16)
    maps[0, 0, :4] = torch.tensor([float("nan"), float("inf"), float("-inf"), 2.0])
    row = channel_grid(maps)[0, 1, 1:6]
    assert row.tolist() == [0, 0, 0, 255, 0]


def test_small_maps_are_enlarged_by_repetition():
    image = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    large = enlarge(image)
    assert large.shape == (1, 16, 16)
    assert torch.equal(large[:, ::8, ::8], image)
    assert (large[0, :8, :8] == 1).all()
    assert torch.equal(enlarge(torch.zeros(1, 3, 17)), torch.zeros(1, 3, 17))


def test_colour_filters_keep_their_colour_and_zero_is_grey():
    filters = torch.zeros(2, 3, 16, 16)
    filters[0, 0] = 2.0
    filters[1, 2] = -0.5
    grid = filter_grid(filters)
    assert grid.shape[0] == 3
    assert grid[:, 1, 1].tolist() == [255, 128, 128]
    assert grid[:, 1, 18].tolist() == [128, 128, 0]


def test_filters_of_other_depths_show_their_first_channel():
    filters = torch.zeros(1, 8, 16, 16)
    filters[0, 0, 0, 0], filters[0, 1] = 1.0, 9.0
    grid = filter_grid(filters)
    assert grid[:, 1, 1].tolist() == [255, 255, 255]
    assert grid[:, 2, 2].tolist() == [128, 128, 128]


def test_filters_of_a_diverged_network_are_drawn():
    assert filter_grid(torch.full((4, 3, 3, 3), float("nan")))[:, 1, 1].tolist() == [128, 128, 128]


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
