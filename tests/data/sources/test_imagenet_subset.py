"""ImageNet folders: both layouts, WordNet ids as classes, human names, in the order of a network's outputs."""

from pathlib import Path

import numpy as np
import pytest
from torchvision.models import MobileNet_V2_Weights

from cnnlab.data.sources.imagenet_subset import imagenet_classes, imagenet_subset
from cnnlab.data.splitting import select
from cnnlab.errors import DataError

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_classes_are_those_of_a_pretrained_network():
    assert list(imagenet_classes().values()) == MobileNet_V2_Weights.DEFAULT.meta["categories"]
    assert list(imagenet_classes()) == sorted(imagenet_classes())
    assert len(set(imagenet_classes().values())) == 1000


def test_flat_files_are_named_by_their_class(tmp_path):
    put(tmp_path, f"{SHARK}_a b.JPEG", f"{TENCH}_10026.jpg", f"{SHARK}_2.JPEG", ".hidden", "README.md")
    images = imagenet_subset(str(tmp_path)).train
    assert names(images) == [f"{TENCH}_10026.jpg", f"{SHARK}_2.JPEG", f"{SHARK}_a b.JPEG"]
    assert images.classes == ["tench", "great white shark"]
    assert images.wnids == [TENCH, SHARK]
    assert images.labels.tolist() == [0, 1, 1]
    assert images.labels.dtype == np.int64


def test_folders_are_named_by_their_class(tmp_path):
    put(tmp_path, f"{GOLDFISH}/x/1.JPEG", f"{TENCH}/2.JPEG")
    images = imagenet_subset(str(tmp_path)).train
    assert names(images) == [f"{TENCH}/2.JPEG", f"{GOLDFISH}/x/1.JPEG"]
    assert images.classes == ["tench", "goldfish"]


def test_parts_are_those_published(tmp_path):
    put(tmp_path, *(f"{part}/{wnid}/1.JPEG" for part in ("train", "val") for wnid in (TENCH, SHARK)))
    splits = imagenet_subset(str(tmp_path))
    assert splits.train.classes == splits.val.classes == ["tench", "great white shark"]
    assert splits.val.wnids == [TENCH, SHARK]
    assert splits.test is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no class folders"),
        ([f"{TENCH}/1.JPEG", "cats/1.JPEG"], r"not ImageNet WordNet ids: cats\. .*data=image_folder"),
        (["n00000000_x.JPEG"], "not ImageNet WordNet ids: n00000000"),
        ([f"train/{TENCH}/1.JPEG", f"val/{SHARK}/1.JPEG"], f"have different classes: {TENCH}, {SHARK}"),
    ],
)
def test_other_folders_are_named(tmp_path, files, message):
    put(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        imagenet_subset(str(tmp_path))


def test_missing_folder_says_what_to_put_where(tmp_path):
    with pytest.raises(
        DataError, match=rf"folder {tmp_path}/nothing not found.*no free download.*train/<wnid>/.*data\.root"
    ):
        imagenet_subset(str(tmp_path / "nothing"))


def test_real_samples_are_one_of_each_class(shared_data):
    images = imagenet_subset(str(shared_data / "imagenet_samples")).train
    assert images.labels.tolist() == list(range(1000))
    assert images.classes == list(imagenet_classes().values())
    for index in (0, 281, 999):
        wnid, _, rest = images.name(index).partition("_")
        assert imagenet_classes()[wnid].replace(" ", "_").replace("'", "") in rest.replace("'", "")


def test_real_subset_is_that_of_imagenette(shared_data):
    splits = imagenet_subset(str(shared_data / "imagenet_subset"))
    assert splits.train.classes == [
        *("tench", "English springer", "cassette player", "chain saw", "church"),
        *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
    ]
    assert np.bincount(splits.train.labels).tolist() == [100] * 10
    assert np.bincount(splits.val.labels).tolist() == [30] * 10
    chosen = select(splits.train, ["n03888257", "tench"], 7, 0)
    assert chosen.classes == ["tench", "parachute"]
    assert np.bincount(chosen.labels).tolist() == [7, 7]
    assert {name.split("/")[0] for name in names(chosen)} == {TENCH, "n03888257"}
