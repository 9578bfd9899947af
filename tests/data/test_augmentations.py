"""Augmentations draw what torchvision draws, and change a batch as they change each of its images."""

import numpy as np
import pytest
import torch
from in_process import quickly_composed
from omegaconf import OmegaConf
from torchvision.transforms import v2

from cnnlab.config import CONFIG_DIR, build_entries
from cnnlab.data.augmentations import AUGMENTATIONS, RandomAffine, works_on_batches
from cnnlab.data.draws import TorchDraws, seeded_draws
from cnnlab.data.transforms import BATCH_TRANSFORMS, TrainTransform
from cnnlab.models.inputs import crops_for, input_spec
from cnnlab.seeds import derive, derived_rng

OTHERS = ("none", "copy_paste", "iou_crop", "mosaic")
"""Options that augment nothing, or images with objects."""
OPTIONS = sorted(path.stem for path in (CONFIG_DIR / "augmentation").glob("*.yaml") if path.stem not in OTHERS)
ONE_BY_ONE = {"rand_augment", "trivial_augment"}
COUNT = 48


def steps_of(option: str, size: int) -> list[torch.nn.Module]:
    """The augmentations of an option that do not run on the device anyway."""
    cfg = quickly_composed([f"augmentation=[{option}]", f"model.image_size={size}"])
    plain = OmegaConf.to_container(cfg, resolve=True)
    entries = build_entries(crops_for(input_spec(plain["model"]), plain["augmentation"]))
    return [step for step in entries.values() if not isinstance(step, BATCH_TRANSFORMS)]


def noise(channels: int, height: int, width: int, count: int = COUNT) -> torch.Tensor:
    levels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(levels).permute(0, 3, 1, 2)


def both_ways(steps, images: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images augmented one by one, and as a batch, with the same seeds."""
    transform = TrainTransform(steps, size, size)
    alone = []
    for index, image in enumerate(images):
        with derived_rng(index):
            alone.append(transform.augment(image))
    draws = seeded_draws([derive(index) for index in range(len(images))])
    return torch.stack(alone), transform.augment_batch(images.clone(), draws)


def assert_equal_up_to_rounding(alone: torch.Tensor, together: torch.Tensor) -> None:
    assert (together.shape, together.dtype) == (alone.shape, torch.uint8)
    difference = (alone.int() - together.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in ONE_BY_ONE])
def test_every_option_works_on_batches(option, channels):
    steps = steps_of(option, 16)
    images = noise(channels, 16, 16)
    alone, together = both_ways(steps, images, 16)
    assert_equal_up_to_rounding(alone, together)
    assert torch.equal(alone, images) == (not steps)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_do_not_work_on_batches_are_known(option):
    assert all(works_on_batches(step) for step in steps_of(option, 16)) == (option not in ONE_BY_ONE)


@pytest.mark.parametrize(
    "steps",
    [
        [RandomAffine(180, (0.3, 0.2), (0.5, 1.5), [-20, 20, -10, 10], reflect=0.5, border="edge")],
        [RandomAffine(40, (0.3, 0.2), border="symmetric", interpolation="nearest")],
        [RandomAffine(40, (0.3, 0.2), fill=[255, 100, 3])],
        [RandomAffine(40, (0.3, 0.2), fill=17, interpolation="nearest")],
        [v2.RandomCrop((10, 12))],
        [v2.RandomCrop(30, pad_if_needed=True, fill=(9, 8, 7)), v2.RandomVerticalFlip(0.3)],
        [v2.RandomCrop(14, padding=(1, 2, 3, 4), padding_mode="edge")],
        [v2.RandomResizedCrop(9, interpolation="bicubic"), v2.ColorJitter(hue=0.5)],
        [v2.ColorJitter(brightness=(0.2, 3)), v2.ColorJitter(contrast=(0.2, 3)), v2.ColorJitter(saturation=(0.0, 3))],
        [v2.GaussianBlur((3, 7), 1.3)],
        [v2.RandomErasing(1.0, scale=(0.3, 1.0), value=[1, 200, 254]), v2.RandomHorizontalFlip(1.0)],
    ],
    ids=lambda steps: "+".join(type(step).__name__ for step in steps),
)
def test_other_arguments_work_on_batches(steps):
    """Of images that are not square, and come out at the network's size or are brought to it."""
    assert_equal_up_to_rounding(*both_ways(steps, noise(3, 18, 13), 12))


def test_batch_does_not_depend_on_its_neighbours():
    """Images alone, in halves and all together are the same bits."""
    steps = [step for option in ("full", "blur", "random_erasing") for step in steps_of(option, 16)]
    transform, images = TrainTransform(steps, 16, 16), noise(3, 16, 16, count=12)

    def in_parts(size: int) -> torch.Tensor:
        draws = seeded_draws([derive(index) for index in range(12)])
        parts = zip(images.clone().split(size), (draws[i : i + size] for i in range(0, 12, size)), strict=True)
        return torch.cat([transform.augment_batch(part, some) for part, some in parts])

    whole = in_parts(12)
    assert torch.equal(in_parts(1), whole)
    assert torch.equal(in_parts(5), whole)


@pytest.mark.parametrize(
    "step",
    [
        v2.RandomCrop(9),
        v2.RandomCrop(16, padding=4, padding_mode="reflect"),
        v2.RandomCrop(24, padding=(1, 2), pad_if_needed=True),
        v2.RandomResizedCrop(8, scale=(0.05, 1.0)),
        v2.RandomResizedCrop(8, scale=(0.9, 1.0), ratio=(3.0, 4.0)),
        v2.ColorJitter(0.2, 0.3, 0.4, 0.1),
        v2.ColorJitter(contrast=0.5),
        v2.GaussianBlur(3, (0.1, 2.0)),
    ],
    ids=repr,
)
def test_parameters_are_those_of_torchvision(step):
    image = noise(3, 16, 12, count=1)[0]
    for seed in range(50):
        with derived_rng(seed):
            expected, after = step.make_params([image]), torch.rand(1)
        with derived_rng(seed):
            found = AUGMENTATIONS[type(step)].parameters(step, TorchDraws(), (16, 12))
            assert torch.rand(1) == after
        assert {name: list(value) if name == "fn_idx" else value for name, value in expected.items()} == found


def test_affine_parameters_are_those_of_torchvision_and_whether_to_mirror():
    arguments = {"degrees": (-10.0, 40.0), "translate": (0.2, 0.5), "scale": (0.5, 2.0), "shear": [-5, 5, -9, 9]}
    plain, ours = v2.RandomAffine(**arguments), RandomAffine(**arguments, reflect=0.5)
    image = noise(3, 16, 12, count=1)[0]
    for seed in range(50):
        with derived_rng(seed):
            expected = plain.make_params([image]) | {"mirrored": torch.rand(1).item() < 0.5}
        with derived_rng(seed):
            assert ours.make_params([image]) == expected


@pytest.mark.parametrize(
    "step", [v2.RandomHorizontalFlip(0.3), v2.RandomVerticalFlip(0.7), v2.RandomErasing(0.5)], ids=repr
)
def test_steps_that_may_not_act_do_so_when_torchvisions_do(step):
    image = noise(3, 16, 12, count=1)[0]
    for seed in range(50):
        with derived_rng(seed):
            expected, after = step(image), torch.rand(1)
        with derived_rng(seed):
            assert torch.equal(
                TrainTransform([step], 16, 16)._in_size(expected), TrainTransform([step], 16, 16).augment(image)
            )
            assert torch.rand(1) == after


@pytest.mark.parametrize("step", [v2.RandomErasing(value="random"), v2.RandomRotation(10), v2.RandAugment()], ids=repr)
def test_steps_without_a_form_for_batches_are_named(step):
    assert TrainTransform([v2.RandomHorizontalFlip(), step], 16, 16).one_by_one == [type(step).__name__]


def test_subclass_is_not_taken_for_its_parent():
    class Inverted(v2.RandomHorizontalFlip):
        def transform(self, inpt, params):
            return 255 - inpt

    assert TrainTransform([Inverted()], 16, 16).one_by_one == ["Inverted"]
