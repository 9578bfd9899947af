"""Preprocessing against numpy and scikit-learn over all images at once."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from cnnlab.data.datasets.digits import digits
from cnnlab.errors import DataError, InputError
from cnnlab.models.preprocessing import Normalize, channel_statistics, fit, from_state


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """103 colour images in [0, 1] whose channels differ in mean and spread."""
    noise = np.random.default_rng(0).beta([2, 5, 0.5], [5, 1, 0.5], size=(103, 9, 7, 3))
    return torch.tensor(noise, dtype=torch.float32).permute(0, 3, 1, 2)


def columns(images: torch.Tensor) -> np.ndarray:
    """float64 pixels x channels."""
    return images.double().permute(0, 2, 3, 1).reshape(-1, images.shape[1]).numpy()


@pytest.mark.parametrize("batch_size", [1, 10, 103])
def test_streaming_statistics_are_those_of_all_pixels(images, batch_size):
    mean, std = channel_statistics(images.split(batch_size))
    np.testing.assert_allclose(mean.numpy(), columns(images).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), columns(images).std(axis=0), rtol=1e-10)


def test_streaming_statistics_keep_their_digits_far_from_zero():
    pixels = torch.rand(50, 1, 4, 4, dtype=torch.float64) + 1e6
    _, std = channel_statistics(pixels.split(7))
    np.testing.assert_allclose(std.numpy(), pixels.numpy().std(), rtol=1e-6)


def test_statistics_of_real_digits():
    pixels = digits().train.pixels
    batches = (torch.from_numpy(pixels[i : i + 100])[:, None].float() / 255 for i in range(0, len(pixels), 100))
    layer = fit("standardize", batches)
    assert layer.mean.item() == pytest.approx(pixels.astype(np.float64).mean() / 255, rel=1e-6)
    assert layer.std.item() == pytest.approx(pixels.astype(np.float64).std() / 255, rel=1e-6)


def test_standardize_is_scikit_learns_scaler(images):
    layer = fit("standardize", images.split(20))
    expected = StandardScaler().fit(columns(images)).transform(columns(images))
    np.testing.assert_allclose(columns(layer(images)), expected, atol=2e-5)


def test_zero_mean_keeps_the_spread(images):
    layer = fit("zero_mean", images)
    expected = StandardScaler(with_std=False).fit(columns(images)).transform(columns(images))
    np.testing.assert_allclose(columns(layer(images)), expected, atol=1e-6)


def test_none_changes_nothing(images):
    assert torch.equal(fit("none", [])(images), images)


def test_weights_uses_the_given_statistics(images):
    layer = fit("weights", [], mean=[0.5, 0.25, 0.125], std=[0.5, 0.25, 2.0])
    expected = (columns(images) - [0.5, 0.25, 0.125]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(columns(layer(images)), expected, atol=1e-6)


def test_channel_without_contrast_stays_finite():
    layer = fit("standardize", torch.full((4, 1, 3, 3), 0.5))
    assert torch.equal(layer(torch.full((1, 1, 3, 3), 0.5)), torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("name", ["none", "weights", "zero_mean", "standardize"])
def test_layer_survives_a_checkpoint(tmp_path, images, name):
    layer = fit(name, images, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    torch.save(nn.ModuleDict({"preprocessing": layer}).state_dict(), tmp_path / "layer.ckpt")
    again = from_state(torch.load(tmp_path / "layer.ckpt", weights_only=True))
    assert type(again) is type(layer)
    assert torch.equal(again(images), layer(images))


def test_normalize_shows_its_numbers():
    assert "mean=[0.5], std=[0.25]" in repr(Normalize([0.5], [0.25]))


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="none, weights, zero_mean, standardize"):
        fit("whiten", [])


def test_weights_without_statistics_is_refused():
    with pytest.raises(InputError, match="standardize"):
        fit("weights", [])


def test_no_image_is_refused():
    with pytest.raises(DataError, match="no image"):
        fit("standardize", [])
