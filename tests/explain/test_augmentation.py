"""The draws of one image, against the data set's own and against torchvision's functions with the parameters shown."""

import json
import shutil

import pytest
import torch
from PIL import Image
from program import draw_picture
from torchvision.transforms import v2

from cnnlab.cli.subjects import ModelSubject
from cnnlab.cli.visualize import visualize
from cnnlab.config import CONFIG_DIR, build_entries
from cnnlab.explain import augmentation
from cnnlab.explain.augmentation import augmented, described, recorded
from cnnlab.models.inputs import crops_for

CHAIN = "augmentation=[rotate,flip,color_jitter]"


@pytest.fixture
def subject(pictures):
    return ModelSubject(
        [
            *("model=mobilenet_v2", "model.weights=null", "model.image_size=32", "model.resize_size=36", CHAIN),
            *("data=image_folder", f"data.root={pictures}", "data.num_workers=0", "seed=5"),
        ]
    )


def test_draws_are_what_the_data_set_gives_in_each_epoch(subject):
    entries = build_entries(crops_for(subject.spec, subject.cfg["augmentation"]))
    data = subject.data
    dataset = data.train_dataloader().dataset
    images = [data.parts.train.load(index, 3) for index in (0, 1)]
    for epoch in range(4):
        picture, _ = augmented(images, entries, subject, subject.cfg["seed"], epoch)
        expected = dataset[(epoch, 0)][0]
        assert torch.equal(v2.functional.pil_to_tensor(picture), expected)


def test_parameters_shown_are_those_used():
    rotate, flip = v2.RandomRotation(30), v2.RandomHorizontalFlip(1.0)
    image = torch.arange(3 * 20 * 20).remainder(251).to(torch.uint8).view(3, 20, 20)
    entries = {"rotate": rotate, "flip": flip, "never": v2.RandomVerticalFlip(0.0)}
    with recorded(entries) as done:
        out = image
        for entry in entries.values():
            out = entry(out)
    assert done.keys() == {"rotate", "flip"}
    angle = float(done["rotate"].removeprefix("angle "))
    close = v2.functional.horizontal_flip(v2.functional.rotate(image, angle))
    assert (out.int() - close.int()).abs().float().mean() < 6  # the angle shown is rounded to hundredths
    assert done["flip"] == "applied"
    assert "transform" not in rotate.__dict__


def test_noise_of_the_device_is_in_the_draws(subject):
    images = [Image.new("RGB", (40, 40), (128, 128, 128))] * 2
    picture, done = augmented(images, {"noise": v2.GaussianNoise(sigma=0.1)}, subject, 0, 0)
    pixels = v2.functional.pil_to_tensor(picture).float() / 255
    assert pixels.std().item() == pytest.approx(0.1, rel=0.05)
    assert done == {"noise": "sigma 0.1"}


def test_mixing_shows_the_second_image(subject):
    images = [Image.new("RGB", (40, 40), "white"), Image.new("RGB", (40, 40), "black")]
    picture, done = augmented(images, {"mixup": v2.MixUp(alpha=1.0)}, subject, 0, 1)
    share = float(done["mixup"].removeprefix("lam "))
    assert v2.functional.pil_to_tensor(picture).float().mean().item() / 255 == pytest.approx(share, abs=0.01)


def test_automatic_augmentations_name_what_they_chose():
    step = v2.RandAugment(num_ops=2)
    image = torch.arange(3 * 20 * 20).remainder(251).to(torch.uint8).view(3, 20, 20)
    torch.manual_seed(3)
    with recorded({"rand_augment": step}) as done:
        step(image)
    operations = [part.split()[0] for part in done["rand_augment"].split(", ")]
    assert len(operations) == 2
    assert set(operations) <= set(v2.RandAugment._AUGMENTATION_SPACE)
    assert not {"transform", "_apply_image_or_video_transform"} & set(step.__dict__)


def test_parameters_that_change_nothing_are_left_out():
    assert described({"angle": -0.0, "translate": (0, 0), "scale": 1.0, "shear": (0.0, 0.0), "mirrored": False}) == ""
    assert described({"angle": 0.0, "scale": 1.2, "mirrored": True}) == "scale 1.20, mirrored yes"


def test_parameters_are_written_briefly():
    params = {"angle": 12.3456, "brightness_factor": 1.25, "fn_idx": torch.tensor([1, 0]), "translate": (3, -4.5)}
    assert described(params) == "angle 12.35, brightness 1.25, translate (3, -4.50)"


def test_files(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "augmentation"
    folder.mkdir(parents=True)
    for option in ("flip", "none"):  # of the 23, each of which composes a config
        shutil.copy(CONFIG_DIR / "augmentation" / f"{option}.yaml", folder)
    monkeypatch.setattr(augmentation, "CONFIG_DIR", tmp_path / "configs")
    draw_picture(tmp_path / "a.png", "circle", 1)
    arguments = ["what=augmentation", "model=mobilenet_v2", "model.weights=null", "model.image_size=32", CHAIN]
    arguments += [f"images={tmp_path / 'a.png'}", f"output={tmp_path / 'out'}", "draws=3"]
    assert [path.name for path in visualize(arguments)] == ["draws.png", "draws.json", "alone.png"]
    numbers = json.loads((tmp_path / "out" / "draws.json").read_text())
    assert numbers["augmentation"] == ["rotate", "flip", "color_jitter"]
    assert len(numbers["draws"]) == 3
    assert all(each["rotate"].startswith("angle ") for each in numbers["draws"])
