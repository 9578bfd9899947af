"""Augmentations: every option, geometry against NumPy and SciPy, mixtures against their formulas."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from in_process import DIGITS, parts_of_a_run, quickly_composed
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import v2

from cnnlab.config import CONFIG_DIR, build_entries
from cnnlab.data.augmentations import RandomAffine, augment
from cnnlab.data.decoding import to_pixels
from cnnlab.data.draws import TorchDraws
from cnnlab.data.transforms import (
    BATCH_TRANSFORMS,
    EvalTransform,
    TrainTransform,
    batch_transforms,
)
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec, crops_for
from cnnlab.seeds import derived_rng

OPTIONS = sorted(path.stem for path in (CONFIG_DIR / "augmentation").glob("*.yaml"))
PRESETS = ("none", "basic", "full")
OF_OBJECTS = ("copy_paste", "iou_crop", "mosaic")
KINDS = [option for option in OPTIONS if option not in PRESETS + OF_OBJECTS]
SIZES = {"RGB": (48, 40), "L": (40, 61)}


def entries(*names: str, overrides: tuple[str, ...] = (), size: int = 32) -> dict[str, torch.nn.Module]:
    """The augmentations of `augmentation=[names]`, built from their configs for a network of `size` pixels."""
    cfg = quickly_composed([f"augmentation=[{','.join(names)}]", f"model.image_size={size}", *overrides])
    spec = InputSpec(3, size, size, [], [])
    return build_entries(crops_for(spec, OmegaConf.to_container(cfg, resolve=True)["augmentation"]))


def picture(mode: str, seed: int = 0) -> Image.Image:
    width, height = SIZES[mode]
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def draws(transform, image: Image.Image, count: int, seed: int = 0) -> list[torch.Tensor]:
    found = []
    for index in range(count):
        with derived_rng(seed, index):
            found.append(transform(image))
    return found


def augmented_batch(steps, images: torch.Tensor, labels: torch.Tensor, seed: int = 0):
    with derived_rng(seed):
        return v2.Compose(steps)(images, labels)


@pytest.mark.parametrize("size", [(90, 61), (37, 80), (12, 9)], ids=["wide", "tall", "small"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct"), [("center", 0.875), ("center", 1.15), ("squash", 1.0), ("squash", 0.9), ("border", 0.9)]
)
def test_image_for_evaluation_is_the_one_of_timm(crop_mode, crop_pct, interpolation, size):
    """timm resizes with Pillow, which rounds between its two passes: single levels may differ by 1 or 2."""
    timm_data = pytest.importorskip("timm.data", reason="timm is an extra: pip install 'cnnlab[timm]'")
    mean, side = (0.5, 0.25, 0.75), 48
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image = noise.resize(size, Image.Resampling.BICUBIC)
    published = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation, "mean": mean}
    expected = timm_data.create_transform((3, side, side), **published, normalize=False)(image)
    resizing = {"interpolation": interpolation, "crop_mode": crop_mode, "fill": [round(255 * value) for value in mean]}

    found = EvalTransform(side, math.floor(side / crop_pct), **resizing)(image)

    assert (found.shape, found.dtype) == ((3, side, side), torch.uint8)
    differences = (found.int() - expected.int()).abs()
    assert differences.max() <= 2
    assert differences.float().mean() < 0.5
    other = EvalTransform(side, side, "bilinear", "center")(image)
    assert (other.int() - expected.int()).abs().float().mean() > 0.5


@pytest.mark.parametrize("mode", SIZES)
@pytest.mark.parametrize("names", [*([kind] for kind in KINDS), KINDS, KINDS[::-1]], ids=lambda names: "+".join(names))
def test_every_augmentation_alone_and_all_together(names, mode):
    """Sizes, types and ranges are those the network takes; a seed gives one picture, other seeds others."""
    chosen = entries(*names)
    assert list(chosen) == names
    transform = TrainTransform(chosen.values(), image_size=32, resize_size=36)
    steps = batch_transforms(chosen.values(), num_classes=5)
    assert len(transform.augmentations) + len(steps) == len(names)
    images = draws(transform, picture(mode), 12)
    again = draws(transform, picture(mode), 12)
    channels = 3 if mode == "RGB" else 1
    for image in images:
        assert (image.shape, image.dtype) == ((channels, 32, 32), torch.uint8)
    assert all(torch.equal(first, second) for first, second in zip(images, again, strict=True))
    if transform.augmentations:
        assert len({image.numpy().tobytes() for image in images}) > 1
    labels = torch.arange(12) % 5
    if not steps:
        return
    batch = torch.rand(12, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    mixed, targets = augmented_batch(steps, batch, labels)
    assert (mixed.shape, mixed.dtype) == (batch.shape, torch.float32)
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert not torch.equal(mixed, batch)
    assert torch.equal(mixed, augmented_batch(steps, batch, labels)[0])
    assert not torch.equal(mixed, augmented_batch(steps, batch, labels, seed=1)[0])
    if any("mix" in name for name in names):
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(12))
    else:
        assert torch.equal(targets, labels)


@pytest.mark.parametrize(
    ("preset", "kinds"),
    [
        ("none", []),
        ("basic", ["random_resized_crop", "flip"]),
        ("full", ["color_jitter", "random_scale", "random_crop", "flip", "shift", "rotate", "noise"]),
    ],
)
def test_preset_is_a_list_of_options_that_stay_addressable(preset, kinds):
    overrides = ("augmentation.flip.p=0.125",) if kinds else ()
    chosen = entries(preset, overrides=overrides)
    assert list(chosen) == kinds
    if kinds:
        assert chosen["flip"].p == 0.125


@pytest.mark.parametrize(
    ("option", "override", "attribute", "value"),
    [
        ("affine", "shear=30", "shear", [-30, 30]),
        ("blur", "sigma=[0.5,3]", "sigma", [0.5, 3.0]),
        ("color_jitter", "hue=0.25", "hue", (-0.25, 0.25)),
        ("cutmix", "alpha=0.5", "alpha", 0.5),
        ("flip", "p=1", "p", 1),
        ("gaussian_noise", "sigma=0.2", "sigma", 0.2),
        ("horizontal_flip", "p=0", "p", 0),
        ("mixup", "alpha=3", "alpha", 3.0),
        ("noise", "sigma=0.3", "sigma", 0.3),
        ("rand_augment", "magnitude=3", "magnitude", 3),
        ("random_crop", "padding_mode=edge", "padding_mode", "edge"),
        ("random_erasing", "p=0.9", "p", 0.9),
        ("random_resized_crop", "scale=[0.1,0.2]", "scale", [0.1, 0.2]),
        ("random_scale", "scale=[0.5,2]", "scale", [0.5, 2]),
        ("reflect", "reflect=1", "reflect", 1),
        ("rotate", "degrees=90", "degrees", [-90, 90]),
        ("shift", "translate=[0.3,0]", "translate", [0.3, 0]),
        ("trivial_augment", "num_magnitude_bins=11", "num_magnitude_bins", 11),
        ("vertical_flip", "p=0.75", "p", 0.75),
    ],
)
def test_parameters_are_addressable(option, override, attribute, value):
    (step,) = entries(option, overrides=(f"augmentation.{option}.{override}",)).values()
    found = getattr(step, attribute)
    assert found == value or list(found) == list(value)


def test_augmentations_are_applied_in_the_order_given():
    """Darkened and then inverted is not inverted and then darkened."""
    image = Image.fromarray(np.full((8, 8), 100, dtype=np.uint8))
    halve, invert = v2.Lambda(lambda pixels: pixels // 2), v2.RandomInvert(p=1)
    assert TrainTransform([halve, invert], 8, 8)(image).unique().tolist() == [255 - 50]
    assert TrainTransform([invert, halve], 8, 8)(image).unique().tolist() == [155 // 2]


def test_training_sees_what_evaluation_sees_unless_something_cuts():
    image = picture("RGB")
    evaluation = EvalTransform(32, 36)(image)
    assert torch.equal(TrainTransform([], 32, 36)(image), evaluation)
    assert torch.equal(TrainTransform([v2.RandomHorizontalFlip(p=1)], 32, 36)(image), evaluation.flip(-1))
    seen = []
    keep = v2.Lambda(lambda pixels: (seen.append(tuple(pixels.shape[-2:])), pixels)[1])
    TrainTransform([keep, v2.RandomResizedCrop(32)], 32, 36)(image)
    TrainTransform([keep, v2.RandomCrop(32)], 32, 36)(image)
    TrainTransform([keep], 32, 36)(image)
    assert seen == [(40, 48), (36, 43), (32, 32)]


def test_random_crop_is_a_window_of_the_padded_image():
    (crop,) = entries("random_crop", size=16).values()
    image = picture("L")
    pixels = EvalTransform(16, 20).resize(to_pixels(image))
    padded = np.pad(pixels[0].numpy(), 4, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 16))
    places = set()
    for drawn in draws(TrainTransform([crop], 16, 20), image, 40):
        ((row, column),) = np.argwhere((windows == drawn[0].numpy()).all(axis=(2, 3)))
        places.add((row, column))
    assert len(places) > 20


@pytest.mark.parametrize("interpolation", list(v2.InterpolationMode)[:4])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("mode", "height", "width", "size"),
    [("RGB", 90, 131, 64), ("L", 75, 50, 32), ("RGB", 9, 7, 16), ("RGB", 8, 200, 16), ("L", 120, 6, 16)],
)
def test_fast_crop_is_torchvisions_to_the_bit(mode, height, width, size, antialias, interpolation):
    """Of images in both layouts, and of windows that are enlarged, reduced, or neither, also of pictures too narrow for
    any window that is drawn; the same numbers are drawn."""
    step = v2.RandomResizedCrop(size, scale=(0.05, 1.0), interpolation=interpolation, antialias=antialias)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    by_pixel = to_pixels(Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)))
    for pixels in (by_pixel, by_pixel.contiguous()):
        for seed in range(20):
            with derived_rng(seed):
                expected, after = step(pixels), torch.rand(1)
            with derived_rng(seed):
                assert torch.equal(augment(step, pixels, TorchDraws()), expected)
                assert torch.rand(1) == after


def test_other_crops_than_torchvisions_own_are_left_alone():
    class Inverted(v2.RandomResizedCrop):
        def transform(self, inpt, params):
            return 255 - super().transform(inpt, params)

    image = picture("RGB")
    (inverted,) = draws(TrainTransform([Inverted(32)], 32, 36), image, 1)
    (plain,) = draws(TrainTransform([v2.RandomResizedCrop(32)], 32, 36), image, 1)
    assert torch.equal(inverted, 255 - plain)


def geometry(**changed) -> dict:
    return {"angle": 0.0, "translate": (0, 0), "scale": 1.0, "shear": (0.0, 0.0), "mirrored": False} | changed


BORDERS = ("constant", "edge", "reflect", "symmetric")  # NumPy's names for them are the same


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shift", [(3, -2), (-5, 4), (0, 7)])
def test_shifted_image_continues_at_its_border(border, shift):
    image = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (3, 20, 24), dtype=np.uint8))
    x, y = shift
    padded = np.pad(image.numpy(), ((0, 0), (8, 8), (8, 8)), mode=border)
    expected = padded[:, 8 - y : 28 - y, 8 - x : 32 - x]
    for interpolation in ("nearest", "bilinear"):
        step = RandomAffine(0, translate=(0.4, 0.4), border=border, interpolation=interpolation)
        assert np.array_equal(step.transform(image, geometry(translate=shift)).numpy(), expected), interpolation


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("angle", "turns"), [(90, -1), (180, 2), (-90, 1)])
def test_quarter_turns_are_exact(border, angle, turns):
    """Positive angles turn clockwise, as in torchvision's affine; nothing of the border comes into view."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 21, 21), dtype=np.uint8))
    step = RandomAffine(180, border=border)
    expected = np.rot90(image.numpy(), turns, axes=(1, 2))
    assert np.array_equal(step.transform(image, geometry(angle=angle)).numpy(), expected)
    mirrored = np.rot90(image.numpy()[:, :, ::-1], turns, axes=(1, 2))
    assert np.array_equal(step.transform(image, geometry(angle=angle, mirrored=True)).numpy(), mirrored)


@pytest.mark.parametrize(
    ("border", "mode"), [("edge", "nearest"), ("reflect", "mirror"), ("symmetric", "reflect"), ("constant", None)]
)
def test_rotation_and_scaling_are_scipys(border, mode):
    """Bilinear, about the centre, at 30 degrees and 0.8 of the size; scipy calls the borders by other names."""
    image = np.random.default_rng(0).random((31, 31)).astype(np.float32)
    radians, scale, centre = math.radians(30), 0.8, np.array([15.0, 15.0])
    backwards = np.array([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]]) / scale
    offset = centre - backwards @ centre
    step = RandomAffine(30, scale=(0.8, 0.8), border=border)
    found = step.transform(torch.from_numpy(image)[None], geometry(angle=30.0, scale=scale))[0].numpy()
    expected = scipy.ndimage.affine_transform(image, backwards, offset, order=1, mode=mode or "constant")
    if mode is None:  # where a corner's neighbours lie partly outside, the two disagree about their share
        inside = scipy.ndimage.affine_transform(np.ones_like(image), backwards, offset, order=1, mode="grid-constant")
        assert 0.3 < (inside > 0.999).mean() < 0.9
        np.testing.assert_allclose(found[inside > 0.999], expected[inside > 0.999], atol=1e-4)
        assert (found[inside == 0] == 0).all()
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "overrides"),
    [
        ("affine", ()),
        (
            "affine",
            ("augmentation.affine.degrees=45", "augmentation.affine.shear=20", "augmentation.affine.border=edge"),
        ),
        ("reflect", ()),
        ("reflect", ("augmentation.reflect.degrees=180", "augmentation.reflect.border=symmetric")),
    ],
)
def test_nothing_from_beyond_the_border_comes_into_view(option, overrides):
    """A white image stays white under the strongest draws."""
    (step,) = entries(option, overrides=overrides).values()
    white = torch.full((1, 40, 40), 255, dtype=torch.uint8)
    for seed in range(150):
        with derived_rng(seed):
            assert (step(white) == 255).all()


def test_shifts_scales_and_rotations_uncover_black():
    for option in ("shift", "random_scale", "rotate"):
        (step,) = entries(option).values()
        uncovered = []
        for seed in range(20):
            with derived_rng(seed):
                uncovered.append((step(torch.full((1, 40, 40), 255, dtype=torch.uint8)) == 0).any().item())
        assert any(uncovered), option


@pytest.mark.parametrize(("probability", "determinant"), [(1, -1), (0, 1)])
def test_reflection_is_an_isometry_that_turns_the_image_over(probability, determinant):
    """Where three marked points go: lengths stay, and a reflection has determinant -1."""
    (step,) = entries(
        "reflect", overrides=(f"augmentation.reflect.reflect={probability}", "augmentation.reflect.degrees=180")
    ).values()
    marks = torch.zeros(3, 81, 81)
    places = [(40, 40), (40, 60), (22, 40)]
    for channel, (row, column) in enumerate(places):
        marks[channel, row - 1 : row + 2, column - 1 : column + 2] = 1
    rows, columns = torch.meshgrid(torch.arange(81.0), torch.arange(81.0), indexing="ij")
    angles = []
    for seed in range(20):
        with derived_rng(seed):
            moved = step(marks)
        weight = moved.sum(dim=(1, 2))
        found = torch.stack([(moved * axis).sum(dim=(1, 2)) / weight for axis in (rows, columns)], dim=1)
        before = torch.tensor(places[1:], dtype=torch.float) - torch.tensor(places[0], dtype=torch.float)
        matrix = torch.linalg.solve(before, found[1:] - found[0]).T
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(2), atol=0.02, rtol=0)
        assert torch.linalg.det(matrix).item() == pytest.approx(determinant, abs=0.02)
        angles.append(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert np.std(angles) > 1  # of a uniform angle: 1.8


def test_share_of_reflected_images_is_the_probability():
    (step,) = entries("reflect", overrides=("augmentation.reflect.reflect=0.3",)).values()
    with derived_rng(0):
        mirrored = sum(step.make_params([torch.zeros(1, 8, 8)])["mirrored"] for _ in range(500))
    assert scipy.stats.binomtest(mirrored, 500, 0.3).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"border": "mirror"}, "border=mirror: use constant, edge, reflect, symmetric"),
        ({"reflect": 1.5}, "reflect=1.5"),
    ],
)
def test_unknown_border_and_impossible_probability_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RandomAffine(15, **options)


def test_device_takes_float_and_batch_augmentations_and_workers_the_others():
    chosen = entries("flip", "noise", "mixup", "rotate", "cutmix")
    steps = batch_transforms(chosen.values(), num_classes=7)
    assert steps == [chosen["noise"], chosen["mixup"], chosen["cutmix"]]
    assert TrainTransform(chosen.values(), 8, 8).augmentations == [chosen["flip"], chosen["rotate"]]
    assert all(isinstance(step, BATCH_TRANSFORMS) for step in steps)
    assert [chosen[name].num_classes for name in ("mixup", "cutmix")] == [7, 7]


def test_noise_has_its_deviation_and_is_drawn_for_each_pixel_of_each_image():
    steps = list(entries("noise", overrides=("augmentation.noise.sigma=0.1",)).values())
    grey = torch.full((8, 3, 40, 40), 0.5)
    noise = augmented_batch(steps, grey, torch.arange(8))[0] - 0.5
    assert scipy.stats.kstest(noise.flatten().double().numpy(), "norm", (0, 0.1)).pvalue > 1e-3
    correlation = np.corrcoef(noise.flatten(1).numpy())
    assert np.abs(correlation - np.eye(8)).max() < 5 / math.sqrt(4800)
    white = augmented_batch(steps, torch.ones(2, 1, 40, 40), torch.arange(2))[0]
    assert white.max() == 1.0
    assert 0.4 < (white < 1).float().mean() < 0.6


def drawn_by(step: torch.nn.Module) -> list[dict]:
    """Every parameter that the step draws from now on."""
    kept: list[dict] = []
    original = step.make_params
    step.make_params = lambda inputs: (kept.append(original(inputs)), kept[-1])[1]
    return kept


IMAGES = torch.from_numpy(np.random.default_rng(1).random((6, 3, 10, 12), dtype=np.float32))
LABELS = torch.tensor([0, 3, 1, 1, 2, 3])


def test_mixup_mixes_images_and_labels_by_one_lambda():
    """x = lambda x_i + (1 - lambda) x_j and the same for y (Zhang et al. 2018), lambda from Beta(alpha, alpha)."""
    steps = batch_transforms(entries("mixup", overrides=("augmentation.mixup.alpha=0.4",)).values(), num_classes=4)
    drawn = drawn_by(steps[0])
    mixed, targets = augmented_batch(steps, IMAGES, LABELS)
    share = drawn[0]["lam"]
    assert 0 < share < 1
    for index in range(6):
        expected = share * IMAGES[index].numpy() + (1 - share) * IMAGES[index - 1].numpy()
        np.testing.assert_allclose(mixed[index].numpy(), expected, atol=1e-6)
        one_hot = np.eye(4)
        expected = share * one_hot[LABELS[index]] + (1 - share) * one_hot[LABELS[index - 1]]
        np.testing.assert_allclose(targets[index].numpy(), expected, atol=1e-6)
    with derived_rng(0):
        shares = [steps[0].make_params([IMAGES])["lam"] for _ in range(500)]
    assert scipy.stats.kstest(shares, scipy.stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_cutmix_replaces_a_rectangle_and_weighs_labels_by_its_area():
    steps = batch_transforms(entries("cutmix").values(), num_classes=4)
    seen = set()
    for seed in range(10):
        mixed, targets = augmented_batch(steps, IMAGES, LABELS, seed=seed)
        for index in range(6):
            foreign = (mixed[index] != IMAGES[index]).any(dim=0).numpy()
            other = IMAGES[index - 1].numpy()
            assert np.array_equal(mixed[index].numpy()[:, foreign], other[:, foreign])
            rows, columns = np.nonzero(foreign)
            if len(rows):
                assert foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            share = 1 - foreign.mean()
            one_hot = np.eye(4)
            expected = share * one_hot[LABELS[index]] + (1 - share) * one_hot[LABELS[index - 1]]
            np.testing.assert_allclose(targets[index].numpy(), expected, atol=1e-6)
        seen.add(round(share, 6))
    assert len(seen) > 3


def test_mixtures_of_mixtures_weigh_all_that_is_in_them():
    steps = batch_transforms(entries("mixup", "cutmix").values(), num_classes=4)
    mixup, cutmix = (drawn_by(step) for step in steps)
    _, targets = augmented_batch(steps, IMAGES, LABELS)
    first, second = mixup[0]["lam"], cutmix[0]["lam_adjusted"]
    one_hot = np.eye(4)[LABELS]
    once = first * one_hot + (1 - first) * np.roll(one_hot, 1, axis=0)
    np.testing.assert_allclose(targets.numpy(), second * once + (1 - second) * np.roll(once, 1, axis=0), atol=1e-6)


def test_step_trains_on_the_mixture(tmp_path):
    """The loss is the cross entropy of the mixed targets; mixing and noise come in the order of the config."""
    _, classifier, data = parts_of_a_run(tmp_path / "run", *DIGITS, "augmentation=[mixup,noise]", "init=lsuv")
    images, labels = next(iter(data.train_dataloader()))
    mixup, noise = classifier.recipe.batch_transforms
    drawn = drawn_by(mixup)
    with derived_rng(7):
        loss = classifier.training_step((images, labels), 0).item()
    with derived_rng(7):
        share = mixup.make_params([images])["lam"]
        floats = images.float() / 255
        mixed = share * floats + (1 - share) * floats.roll(1, 0)
        noisy = (mixed + 0.05 * torch.randn(mixed.shape)).clamp(0, 1)
    assert drawn[0]["lam"] == share
    logarithms = classifier(noisy).log_softmax(dim=1).detach()
    rows = torch.arange(len(labels))
    expected = -(share * logarithms[rows, labels] + (1 - share) * logarithms[rows, labels.roll(1)]).mean().item()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert isinstance(noise, v2.GaussianNoise)
