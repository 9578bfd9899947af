"""Augmentation: mask, box and picture of a drawn shape stay together to a pixel."""

import numpy as np
import pytest
import torch
from in_process import quickly_composed
from omegaconf import OmegaConf

from cnnlab.config import build_entries
from cnnlab.errors import InputError
from cnnlab.seeds import derived_rng
from cnnlab.tasks.detection.augmenting import Augmentation, Fit, check_augmentations, padded
from cnnlab.tasks.detection.samples import Sample, fitted_size, resized

GEOMETRIC = ("flip", "vertical_flip", "rotate", "shift", "random_scale", "iou_crop", "mosaic", "copy_paste")
COLOURS = ("color_jitter", "blur", "noise")
REFUSED = ("reflect", "random_crop", "random_resized_crop", "random_erasing", "mixup", "cutmix", "rand_augment")


def entries(*names):
    cfg = quickly_composed([f"augmentation=[{','.join(names)}]", "model.image_size=96"])
    return build_entries(OmegaConf.to_container(cfg, resolve=True)["augmentation"])


def drawn(seed, with_masks=True, size=(80, 100)):
    """A black picture with a white, a red and a green rectangle, one of each class."""
    random = np.random.default_rng(seed)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    masks = torch.zeros(3, *size, dtype=torch.uint8)
    boxes = []
    for number, channels in enumerate(([0, 1, 2], [0], [1])):
        top, left = int(random.integers(4, 50)), int(4 + 32 * number)
        bottom, right = top + int(random.integers(10, 26)), left + int(random.integers(10, 26))
        masks[number, top:bottom, left:right] = 1
        image[channels, top:bottom, left:right] = 255
        boxes.append([left, top, right, bottom])
    return Sample(image, torch.tensor(boxes).float(), torch.arange(3), masks if with_masks else None)


def seen(image, label):
    """The box around the pixels that have the colour of a class; a class has one object at most."""
    red, green, blue = (channel > 127 for channel in image)
    colours = (red & green & blue, red & ~green, green & ~red)
    rows, columns = torch.nonzero(colours[label], as_tuple=True)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None


@pytest.mark.parametrize("name", [name for name in GEOMETRIC if name not in ("mosaic", "copy_paste")])
@pytest.mark.parametrize("with_masks", [True, False])
def test_boxes_and_masks_follow_the_picture(name, with_masks):
    steps = entries(name)
    if not with_masks and name == "rotate":
        with pytest.raises(InputError, match="turns objects"):
            check_augmentations(steps, has_masks=False)
        return
    check_augmentations(steps, with_masks)
    augmentation = Augmentation(steps, Fit(96, 160))
    moved = 0
    for seed in range(25):
        sample = drawn(seed, with_masks)
        with derived_rng(seed):
            made = augmentation(sample, lambda number: drawn(100 + number, with_masks))
        plain = Fit(96, 160)(sample)
        moved += made.size != plain.size or not torch.equal(made.image, plain.image)
        assert len(made.boxes) == len(made.labels) > 0
        for place, label in enumerate(made.labels.tolist()):
            expected = torch.tensor(seen(made.image, label)).float()
            # Resizing spreads an edge over two pixels; a crop of the picture enlarges that.
            tolerance = 3.0 if name == "iou_crop" else 2.0
            assert (made.boxes[place] - expected).abs().max() <= tolerance, (name, seed)
            if with_masks:
                inside = made.masks[place].bool()
                rows, columns = torch.nonzero(inside, as_tuple=True)
                around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
                assert (made.boxes[place] - around).abs().max() <= 1.5
    assert moved > 5


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
def test_what_is_put_together_has_the_masks_of_what_is_seen(name):
    """Every white, red or green pixel belongs to an object of that class, and objects are where their boxes are."""
    augmentation = Augmentation(entries(name), Fit(96, 160))
    assert augmentation.others == (3 if name == "mosaic" else 1)
    changed = 0
    for seed in range(30):
        sample = drawn(seed)
        with derived_rng(seed):
            made = augmentation(sample, lambda number, seed=seed: drawn(1000 + 10 * seed + number))
        changed += not torch.equal(made.image, Fit(96, 160)(sample).image)
        union = made.masks.bool().any(dim=0)
        bright = made.image.amax(dim=0) > 200
        assert (bright & ~union).sum() <= 0.02 * bright.sum() + 2 * len(made.labels)
        for box, mask in zip(made.boxes, made.masks.bool(), strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert (box - around).abs().max() <= 1.5
    assert changed > 5


@pytest.mark.parametrize("name", COLOURS)
def test_colours_leave_objects_where_they_are(name):
    steps = entries(name)
    check_augmentations(steps, has_masks=False)
    sample = Fit(96, 160)(drawn(0))
    with derived_rng(1):
        made = Augmentation(steps, Fit(96, 160))(sample, lambda number: sample)
    assert torch.equal(made.boxes, sample.boxes)
    assert torch.equal(made.masks, sample.masks)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_with_boxes_is_refused(name):
    with pytest.raises(InputError, match=f"augmentation={name}"):
        check_augmentations(entries(name), has_masks=True)


def test_copy_paste_needs_masks():
    with pytest.raises(InputError, match="cuts objects out along their masks"):
        check_augmentations(entries("copy_paste"), has_masks=False)


def test_the_short_side_is_fitted_unless_the_long_one_would_be_too_long():
    """As GeneralizedRCNNTransform of torchvision: min(short / min(h, w), long / max(h, w))."""
    assert fitted_size((480, 640), 320, 533) == (320, 427)
    assert fitted_size((100, 1000), 320, 533) == (53, 533)
    assert fitted_size((1, 1), 320, 533) == (320, 320)


def test_resizing_scales_boxes_and_masks():
    made = resized(drawn(3), (160, 200))
    assert torch.equal(made.boxes, 2 * drawn(3).boxes)
    assert torch.equal(made.masks.sum(dim=(1, 2)), 4 * drawn(3).masks.sum(dim=(1, 2)))


def test_batches_are_padded_to_multiples_or_to_a_square():
    images = [torch.full((3, 20, 50), 7, dtype=torch.uint8), torch.full((3, 40, 30), 9, dtype=torch.uint8)]
    batch = padded(images, square=None)
    assert batch.shape == (2, 3, 64, 64)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (int(batch[0].sum()), int(batch[1].sum())) == (3 * 20 * 50 * 7, 3 * 40 * 30 * 9)
    assert padded(images, square=96).shape == (2, 3, 96, 96)
