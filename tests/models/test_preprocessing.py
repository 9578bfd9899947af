"""Preprocessing against numpy and scikit-learn over all images at once."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from torch import nn

from cnnlab.data.sources.digits import digits
from cnnlab.errors import DataError, InputError
from cnnlab.models.preprocessing import NAMES, Normalize, check_fit, fit, fit_once, from_state


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """103 colour images in [0, 1] whose channels differ in mean and spread."""
    noise = np.random.default_rng(0).beta([2, 5, 0.5], [5, 1, 0.5], size=(103, 9, 7, 3))
    return torch.tensor(noise, dtype=torch.float32).permute(0, 3, 1, 2)


def columns(images: torch.Tensor) -> np.ndarray:
    """float64 pixels x channels."""
    return images.double().permute(0, 2, 3, 1).reshape(-1, images.shape[1]).numpy()


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


def flat(images: torch.Tensor) -> np.ndarray:
    """float64 images x pixels."""
    return images.double().flatten(1).numpy()


@pytest.mark.parametrize(
    ("name", "scaler"),
    [("zero_mean", StandardScaler(with_std=False)), ("standardize", StandardScaler()), ("max_abs", MaxAbsScaler())],
)
def test_each_pixel_of_digits_is_scaled_as_by_scikit_learn(handwritten, name, scaler):
    layer = fit(name, handwritten.split(100), per="pixel")
    np.testing.assert_allclose(flat(layer(handwritten)), scaler.fit_transform(flat(handwritten)), atol=2e-5)


def test_max_abs_is_scikit_learns_scaler_of_channels(images):
    layer = fit("max_abs", (images - 0.8).split(10))
    np.testing.assert_allclose(
        columns(layer(images - 0.8)), MaxAbsScaler().fit_transform(columns(images - 0.8)), atol=1e-6
    )


@pytest.fixture(scope="module")
def handwritten() -> torch.Tensor:
    """scikit-learn's 1,797 digits as N x 1 x 8 x 8."""
    return torch.from_numpy(digits().train.pixels)[:, None].float() / 255


@pytest.mark.parametrize("components", [10, 0.9])
def test_pca_reconstructs_as_scikit_learn(handwritten, components):
    layer = fit("pca", handwritten.split(100), components=components)
    reference = PCA(components, svd_solver="full").fit(flat(handwritten))
    expected = reference.inverse_transform(reference.transform(flat(handwritten)))
    np.testing.assert_allclose(flat(layer(handwritten)), expected, atol=1e-4)


def test_pca_whitens_digits_as_scikit_learn(handwritten):
    whitened = flat(fit("pca_whiten", handwritten.split(100))(handwritten))
    expected = PCA(61, whiten=True, svd_solver="full").fit_transform(flat(handwritten))  # three pixels never vary
    np.testing.assert_allclose(whitened[:, :61], expected, atol=1e-4)
    assert np.all(whitened[:, 61:] == 0)


def test_pca_whitens_fewer_images_than_they_have_pixels_as_scikit_learn():
    pictures = torch.rand(200, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    whitened = flat(fit("pca_whiten", pictures.split(50), components=40)(pictures))
    expected = PCA(40, whiten=True, svd_solver="full").fit_transform(flat(pictures))
    np.testing.assert_allclose(whitened[:, :40], expected, atol=1e-4)
    assert np.all(whitened[:, 40:] == 0)


@pytest.mark.parametrize("name", ["pca_whiten", "zca"])
def test_whitened_covariance_is_the_identity(name):
    mixed = torch.randn(4000, 12, generator=torch.Generator().manual_seed(0)) @ torch.rand(12, 12)
    pictures = mixed.view(-1, 3, 2, 2)
    covariance = np.cov(flat(fit(name, pictures.split(256))(pictures)), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(12), atol=1e-2)


def test_zca_is_the_symmetric_root_and_stays_closest_to_the_images(handwritten):
    epsilon = 0.05
    pixels = flat(handwritten)
    variances, directions = np.linalg.eigh(np.cov(pixels, rowvar=False))
    root = directions @ np.diag((variances + epsilon) ** -0.5) @ directions.T
    whitened = flat(fit("zca", handwritten.split(200), epsilon=epsilon)(handwritten))
    np.testing.assert_allclose(whitened, (pixels - pixels.mean(axis=0)) @ root, atol=1e-4)


def test_patches_are_whitened_alike(images):
    pictures = images[..., :6]  # 9 x 6 pixels: a grid of 3 x 2 patches
    cut = pictures.reshape(103, 3, 3, 3, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 3, 3)
    whole = fit("zca", cut, epsilon=0.01)(cut)
    expected = whole.view(103, 3, 2, 3, 3, 3).permute(0, 3, 1, 4, 2, 5).reshape(pictures.shape)
    torch.testing.assert_close(fit("zca", pictures.split(10), epsilon=0.01, patch=3)(pictures), expected)


def test_whitening_stays_in_float32_under_autocast(handwritten):
    layer = fit("zca", handwritten, epsilon=0.01)
    expected = layer(handwritten[:9])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(handwritten[:9]), expected)


def test_fitted_layer_is_kept_and_other_images_or_options_are_fitted_anew(tmp_path, handwritten):
    read = []

    def batches(count: int):
        read.append(count)
        yield from handwritten[:count].split(100)

    first = fit_once(tmp_path, "a", "zca", batches(500), epsilon=0.1)
    again = fit_once(tmp_path, "a", "zca", batches(400), epsilon=0.1)
    assert read == [500]
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.equal(first.matrix, fit_once(tmp_path, "b", "zca", batches(400), epsilon=0.1).matrix)
    assert not torch.equal(first.matrix, fit_once(tmp_path, "a", "zca", batches(300), epsilon=0.2).matrix)
    assert read == [500, 400, 300]
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert torch.equal(first.matrix, fit_once(tmp_path, "a", "zca", batches(500), epsilon=0.1).matrix)


@pytest.mark.parametrize(
    ("name", "options", "shape", "count", "message"),
    [
        ("zca", {"epsilon": 0.1}, (3, 224, 224), 9000, r"150,528 x 150,528 numbers, 169 GiB.*patch"),
        ("pca_whiten", {}, (1, 8, 8), 64, "64 samples do not span all 64 dimensions.*epsilon"),
        ("zca", {"patch": 3, "epsilon": 1.0}, (1, 8, 8), 64, "patch=3 does not divide images of 8 x 8"),
        ("pca_whiten", {"components": 80}, (3, 8, 8), 80, "epsilon"),
    ],
)
def test_what_cannot_be_fitted_is_said_before_it_is_tried(name, options, shape, count, message):
    with pytest.raises(InputError, match=message):
        check_fit(name, options, shape, count)


def test_few_samples_are_enough_for_few_components_or_with_epsilon():
    few = torch.rand(40, 1, 8, 8)
    assert torch.isfinite(fit("pca_whiten", few, components=30)(few)).all()
    assert torch.isfinite(fit("zca", few, epsilon=0.01)(few)).all()
    with pytest.raises(InputError, match="40 samples"):
        fit("zca", few)


@pytest.mark.parametrize("components", [0, 65, 1.5, -0.5])
def test_impossible_number_of_components_is_refused(handwritten, components):
    with pytest.raises(InputError, match=f"components={components}"):
        fit("pca", handwritten, components=components)


def test_none_changes_nothing(images):
    assert torch.equal(fit("none", [])(images), images)


def test_weights_uses_the_given_statistics(images):
    layer = fit("weights", [], mean=[0.5, 0.25, 0.125], std=[0.5, 0.25, 2.0])
    expected = (columns(images) - [0.5, 0.25, 0.125]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(columns(layer(images)), expected, atol=1e-6)


def test_channel_without_contrast_stays_finite():
    layer = fit("standardize", torch.full((4, 1, 3, 3), 0.5))
    assert torch.equal(layer(torch.full((1, 1, 3, 3), 0.5)), torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"epsilon": 0.1} if name in ("pca_whiten", "zca") else {}) for name in NAMES]
    + [(name, {"per": "pixel"}) for name in ("zero_mean", "standardize", "max_abs")]
    + [("pca", {"patch": 3}), ("zca", {"patch": 3, "epsilon": 0.1})],
)
def test_layer_survives_a_checkpoint(tmp_path, images, name, options):
    images = images[..., :6, :6]
    layer = fit(name, images, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], **options)
    torch.save(nn.ModuleDict({"preprocessing": layer}).state_dict(), tmp_path / "layer.ckpt")
    again = from_state(torch.load(tmp_path / "layer.ckpt", weights_only=True))
    assert type(again) is type(layer)
    assert torch.equal(again(images), layer(images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize_is_its_formula_in_every_layout(channels, memory_format):
    """Of floats to the bit; of 8-bit pixels to the rounding of float32, computed here in float64."""
    mean, std = [0.485, 0.456, 0.406][:channels], [0.229, 0.224, 0.225][:channels]
    pixels = torch.randint(0, 256, (4, channels, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=memory_format)
    layer, images = Normalize(mean, std), pixels.float() / 255
    columns = [np.array(values, np.float32).reshape(1, channels, 1, 1) for values in (mean, std)]
    found = layer(images)
    assert np.array_equal(found.numpy(), (images.numpy() - columns[0]) / columns[1])
    exact = (pixels.numpy().astype(np.float64) / 255 - columns[0]) / columns[1]
    of_pixels = layer.from_uint8(pixels)
    assert of_pixels.dtype == torch.float32
    np.testing.assert_allclose(of_pixels.numpy(), exact, atol=1e-6, rtol=0)
    for result in (found, of_pixels):
        assert result.is_contiguous(memory_format=memory_format)


def test_normalize_of_each_pixel_takes_8_bit_pixels():
    rng = np.random.default_rng(0)
    mean, std = rng.random((3, 5, 7), np.float32), rng.random((3, 5, 7), np.float32) + 0.1
    pixels = rng.integers(0, 256, (4, 3, 5, 7), np.uint8)
    found = Normalize(torch.from_numpy(mean), torch.from_numpy(std)).from_uint8(torch.from_numpy(pixels))
    np.testing.assert_allclose(found.numpy(), (pixels / 255.0 - mean) / std, atol=1e-5, rtol=0)


def test_gradients_pass_through_normalize_in_every_layout():
    for memory_format in (torch.contiguous_format, torch.channels_last):
        images = torch.rand(2, 3, 4, 4).contiguous(memory_format=memory_format).requires_grad_()
        Normalize([0.5, 0.4, 0.3], [0.5, 0.25, 0.125])(images).sum().backward()
        assert torch.equal(images.grad, torch.tensor([2.0, 4.0, 8.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4))


def test_normalize_shows_its_numbers():
    assert "mean=[0.5], std=[0.25]" in repr(Normalize([0.5], [0.25]))


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="weights, none, zero_mean, standardize, max_abs, pca, pca_whiten, zca"):
        fit("whiten", [])


def test_unknown_option_lists_the_known():
    with pytest.raises(InputError, match=r"zca has no option components\. Available: epsilon, patch"):
        fit("zca", torch.rand(9, 1, 2, 2), components=2)


def test_weights_without_statistics_is_refused():
    with pytest.raises(InputError, match="standardize"):
        fit("weights", [])


def test_no_image_is_refused():
    with pytest.raises(DataError, match="no image"):
        fit("standardize", [])
