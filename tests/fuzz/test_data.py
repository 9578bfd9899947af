"""Caches, weights and lists of classes that are damaged or of somebody else's making."""

import contextlib
import functools
import gzip
import json

import numpy as np
import pytest
import torch
from fuzzing import changed, damaged, fuzzed, plain_values
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from cnnlab.api import load_run
from cnnlab.cli.cache import listing
from cnnlab.data.images import ImageArray
from cnnlab.data.scanning import _load
from cnnlab.data.sources.table import table
from cnnlab.data.splitting import select
from cnnlab.data.store import Store
from cnnlab.errors import CnnlabError
from cnnlab.models.preprocessing import fit_once
from cnnlab.system.files import load_tensors

IMAGE = "0123456789abcdef0123456789abcdef"
SHARD = save({IMAGE: torch.arange(6.0).view(2, 3)})
ABOUT = {"kind": "x", "input": {"image_size": 32}, "augmentation": {"flip": {"p": 1}}, "view": 0, "network": "x"}


@given(damaged(SHARD), st.one_of(changed(ABOUT), plain_values(list(ABOUT))))
@fuzzed
def test_entry_of_the_store(tmp_path_factory, shard, about):
    folder = tmp_path_factory.getbasetemp() / "store"
    entry = Store(folder).entry("features", {"x": 1})
    for file in entry.path.iterdir():
        file.unlink()
    (entry.path / "1-0000-0.safetensors").write_bytes(shard)
    (entry.path / "about.json").write_text(json.dumps(about))
    entry = Store(folder, limit_gib=1).entry("features", {"x": 1})
    if IMAGE in entry:
        assert entry[IMAGE].numel() >= 0
    assert list(entry.claims([IMAGE])) or IMAGE in entry
    assert listing(Store(folder).infos(), folder)


SCAN = {f"rose/{number}.jpg": [10, 20, IMAGE] for number in range(3)}


@given(st.one_of(changed(SCAN), plain_values()).map(json.dumps).map(str.encode) | damaged(json.dumps(SCAN).encode()))
@fuzzed
def test_scan_of_a_folder(tmp_path, contents):
    (tmp_path / "scan.json").write_bytes(contents)
    for size, time, digest in _load(tmp_path / "scan.json").values():
        assert int(digest, 16) >= 0
        assert [size, time] != [10, 20] or len(digest) == 32


TABLE = '\ufeffimage;label;part\r\na.png;\'1\';train\n"b.png";"x\ny";val\n../c.png;z;\n'
CELLS = st.lists(st.text(max_size=6) | st.sampled_from(["image", "label", "part", "a.png", "train", "1", "²", "\0"]))


@given(
    damaged(TABLE.encode())
    | damaged(gzip.compress(TABLE.encode()))
    | st.binary(max_size=60).map(b"PAR1".__add__)
    | st.lists(CELLS, max_size=5).map(lambda rows: "\n".join(map(",".join, rows)).encode(errors="replace"))
)
@fuzzed
def test_table(tmp_path, contents):
    (tmp_path / "a.png").touch()
    (tmp_path / "labels.csv").write_bytes(contents)
    for options in ({"split_column": "part"}, {"bad_rows": "skip", "groups": "part"}):
        with contextlib.suppress(CnnlabError):
            images = table(str(tmp_path / "labels.csv"), **options).train
            assert [images.name(index) for index in range(len(images))] == ["a.png"]


TENSORS = st.sampled_from([torch.zeros(()), torch.zeros(3), torch.ones(1, 1, 1), torch.zeros(1, 8, 8), torch.eye(2)])
LAYER = st.dictionaries(st.sampled_from(["mean", "std", "matrix", "offset", "x"]), TENSORS, max_size=4).map(
    lambda state: save({f"preprocessing.{name}": value.clone() for name, value in state.items()})
)


@given(
    st.one_of(
        LAYER, damaged(save({"preprocessing.mean": torch.zeros(1, 1, 1), "preprocessing.std": torch.ones(1, 1, 1)}))
    )
)
@fuzzed
def test_preprocessing_that_is_kept(tmp_path, contents):
    images = torch.linspace(0, 1, 4 * 64).view(4, 1, 8, 8)
    fit_once(tmp_path, "x", "standardize", [images])
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(contents)
    assert isinstance(fit_once(tmp_path, "x", "standardize", [images]), nn.Module)


@pytest.fixture(scope="module")
def files(quick_run, tmp_path_factory) -> dict[str, bytes]:
    """A small file of each format of weights."""
    folder = tmp_path_factory.mktemp("weights")
    state = {"features.0.weight": torch.ones(2, 3), "count": torch.tensor(3)}
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    names = {"new.pth": (folder / "new.pth").read_bytes(), "old.pth": (folder / "old.pth").read_bytes()}
    return names | {"x.safetensors": save(state)}


@given(st.data())
@fuzzed
def test_weights(files, tmp_path, data):
    name = data.draw(st.sampled_from(sorted(files)))
    (tmp_path / name).write_bytes(data.draw(damaged(files[name])))
    with contextlib.suppress(CnnlabError):
        assert isinstance(load_tensors(tmp_path / name), dict)


@given(st.data())
@functools.partial(fuzzed, share=0.4)  # building a network takes some 50 ms
def test_description_of_a_network(quick_run, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "network.ckpt"
    contents = torch.load(quick_run / "checkpoints" / "best.ckpt", weights_only=True)
    kept = {"state_dict": contents["state_dict"]}
    torch.save(kept | {"hyper_parameters": data.draw(changed(contents["hyper_parameters"]))}, path)
    with contextlib.suppress(CnnlabError):
        assert load_run(path).predict([]).shape[0] == 0


NAMES = ["daisy", "rose", "1", "n01440764"]
IMAGES = ImageArray(np.zeros((8, 2, 2), np.uint8), np.arange(8) % 4, NAMES, np.arange(8), ["n0", "n1", "n2", "n3"])
CHOICES = st.lists(st.one_of(st.sampled_from([*NAMES, "n2", 1, "dasiy"]), plain_values()), max_size=5)


@given(st.one_of(CHOICES, plain_values()), st.one_of(st.none(), st.integers(-2, 5)))
@fuzzed
def test_classes(classes, images_per_class):
    with contextlib.suppress(CnnlabError):
        chosen = select(IMAGES, classes, images_per_class, 0)
        assert 2 <= len(chosen.classes) <= 4
        assert set(chosen.labels) <= set(range(len(chosen.classes)))
