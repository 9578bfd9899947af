"""Weights from files, runs and names, and what is said about them."""

import logging
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from malicious import Malicious, write_malicious
from safetensors.torch import save_file
from torch import nn

from cnnlab.errors import DataError, InputError
from cnnlab.models import weights as module
from cnnlab.models.building import build_network
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.weights import Weights, find_weights, load_weights


def trained_state(num_classes: int = 10) -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return LeNet5(num_classes).state_dict()


def assert_same_state(found, expected) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_file_of_a_plain_state_dict(tmp_path, ending):
    path, state = tmp_path / f"weights{ending}", trained_state()
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    found = find_weights(str(path), "lenet5", tmp_path)
    assert_same_state(found.state, state)
    assert found.mean is None
    assert found.source == str(path)


def test_file_of_a_wrapped_network(tmp_path):
    state = trained_state()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "w.pth"
    )
    assert_same_state(find_weights(str(tmp_path / "w.pth"), "lenet5", tmp_path).state, state)


@pytest.mark.parametrize("place", ["run", "checkpoint"])
def test_own_checkpoint_brings_its_preprocessing_along(tmp_path, place):
    state = trained_state()
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    own = {f"network.{name}": value for name, value in state.items()} | {
        "preprocessing.mean": torch.tensor([0.25]).view(1, 1, 1),
        "preprocessing.std": torch.tensor([0.5]).view(1, 1, 1),
        "val_loss.mean_value": torch.tensor(1.0),
    }
    torch.save({"state_dict": own, "hyper_parameters": {"classes": ["a"]}}, checkpoint)
    found = find_weights(str(tmp_path / "run" if place == "run" else checkpoint), "lenet5", tmp_path)
    assert_same_state(found.state, state)
    assert (found.mean, found.std) == ([0.25], [0.5])


def test_network_receives_what_fits_and_draws_the_rest(tmp_path, caplog):
    torch.save(trained_state(10) | {"extra.weight": torch.ones(2)}, tmp_path / "w.pth")
    found = find_weights(str(tmp_path / "w.pth"), "lenet5", tmp_path)
    with caplog.at_level(logging.INFO):
        network = build_network(LeNet5, num_classes=5, weights=found, seed=0)
    state = network.state_dict()
    for name, value in trained_state(10).items():
        assert torch.equal(state[name], value) == (not name.startswith("classifier.5"))
    message = next(record.getMessage() for record in caplog.records if "Weights from" in record.getMessage())
    loaded, new, ignored = message.split(": ", 1)[1].split("; ")
    assert loaded == "loaded features.0.weight, features.0.bias, features.3.weight, features.3.bias, ... (8 in all)"
    assert new == "new (initialised): classifier.5.weight, classifier.5.bias"
    assert ignored == "ignored: classifier.5.weight (10, 84), classifier.5.bias (10,), extra.weight (2,)"


def test_loaded_names_are_returned():
    network = LeNet5(10)
    names = load_weights(network, Weights({"features.0.bias": torch.arange(6.0), "other": torch.ones(1)}, "here"))
    assert names == {"features.0.bias"}
    assert network.features[0].bias.tolist() == [0, 1, 2, 3, 4, 5]


def test_weights_that_fit_nothing_are_refused():
    with pytest.raises(DataError, match=r"here does not match LeNet5.*conv9 \(3,\)"):
        load_weights(LeNet5(), Weights({"conv9": torch.ones(3)}, "here"))


def test_unknown_name_lists_those_that_exist(tmp_path):
    with pytest.raises(InputError, match="IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        find_weights("IMAGENET22K", "mobilenet_v2", tmp_path)


def test_name_for_a_network_that_is_not_torchvisions(tmp_path):
    with pytest.raises(InputError, match="not a file, a run folder or a torchvision weight name of lenet5"):
        find_weights("DEFAULT", "lenet5", tmp_path)


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """No network and an empty cache of torch; gives the data folder."""

    def refuse(url: str, path: Path, **options: object) -> Path:
        raise DataError(f"{url} cannot be downloaded: no route")

    monkeypatch.setattr(module, "download", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "data"


def test_local_file_replaces_a_fetch_that_failed(offline, caplog):
    state = torchvision.models.shufflenet_v2_x0_5(num_classes=3).state_dict()
    (offline / "weights").mkdir(parents=True)
    torch.save(state, offline / "weights" / "shufflenet_v2_x0_5.pth")
    with caplog.at_level(logging.WARNING):
        found = find_weights("IMAGENET1K_V1", "shufflenet_v2_x0_5", offline)
    assert_same_state(found.state, state)
    assert "could not be downloaded" in caplog.text
    assert str(offline / "weights" / "shufflenet_v2_x0_5.pth") in caplog.text


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("vgg16.pth", True),
        ("vgg16.safetensors", True),
        ("vgg16-397923af.pth", True),
        ("vgg16_features_fp16.pth", True),
        ("vgg16_bn.pth", False),
        ("vgg16_bn-6c64b313.pth", False),
        ("vgg16.txt", False),
        ("other_vgg16.pth", False),
    ],
)
def test_local_file_is_one_of_the_same_network(offline, name, taken):
    path, state = offline / "weights" / name, {"features.0.bias": torch.arange(64.0)}
    path.parent.mkdir(parents=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    if taken:
        assert_same_state(find_weights("DEFAULT", "vgg16", offline).state, state)
    else:
        with pytest.raises(DataError, match="vgg16 could not be downloaded"):
            find_weights("DEFAULT", "vgg16", offline)


def test_fetch_that_failed_says_where_a_file_may_lie(offline):
    with pytest.raises(DataError) as error:
        find_weights("IMAGENET1K_V1", "shufflenet_v2_x0_5", offline)
    message = str(error.value)
    assert "shufflenet_v2_x0_5.pth" in message
    assert str((offline / "weights").absolute()) in message
    assert "no route" in message
    assert "model.weights=null" in message


def test_address_and_checksum_are_torchvisions(monkeypatch, tmp_path):
    asked = {}

    def record(url: str, path: Path, *, sha256: str, max_bytes: int) -> Path:
        asked.update(url=url, sha256=sha256, name=path.name)
        torch.save(trained_state(), tmp_path / "fetched.pth")
        return tmp_path / "fetched.pth"

    monkeypatch.setattr(module, "download", record)
    find_weights("DEFAULT", "mobilenet_v2", tmp_path)
    url = torchvision.models.MobileNet_V2_Weights.DEFAULT.url
    assert asked == {"url": url, "sha256": url[:-4].rsplit("-", 1)[1], "name": url.rsplit("/", 1)[1]}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch's, of the file that is malicious
@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_file_that_would_run_code_is_refused(tmp_path, ending):
    witness = tmp_path / "was_run"
    path = tmp_path / f"bad{ending}"
    torch.save({"state_dict": {"features.0.bias": torch.ones(6)}, "payload": Malicious(witness)}, path)
    with pytest.raises(DataError, match="could run code"):
        find_weights(str(path), "lenet5", tmp_path)
    path.write_bytes(pickle.dumps(Malicious(witness)))
    with pytest.raises(DataError):
        find_weights(str(path), "lenet5", tmp_path)
    assert not witness.exists()


@pytest.mark.parametrize("contents", [b"", b"not weights at all", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_damaged_file_is_named(tmp_path, contents, ending):
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=f"damaged{ending}"):
        find_weights(str(path), "lenet5", tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pth"):
        find_weights(str(tmp_path / "absent.pth"), "lenet5", tmp_path)


def test_dictionary_of_other_things_is_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "acc": 0.5}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="holds no state_dict of tensors; its keys are: epoch, acc"):
        find_weights(str(tmp_path / "w.pth"), "lenet5", tmp_path)


def test_real_mobilenet_features_fill_every_feature(shared_data):
    found = find_weights(str(shared_data / "weights" / "mobilenet_v2_features.pth"), "mobilenet_v2", shared_data)
    with torch.device("meta"):
        expected = torchvision.models.mobilenet_v2().features.state_dict()
    network = torchvision.models.mobilenet_v2(num_classes=5)
    loaded = load_weights(network, found)
    floating = {f"features.{name}" for name, value in expected.items() if value.is_floating_point()}
    assert floating <= loaded
    assert isinstance(network.classifier[1], nn.Linear)


@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_file_of_another_format_is_named_and_never_opened(tmp_path, ending):
    marker = tmp_path / "was_run"
    path = write_malicious(tmp_path / f"weights{ending}", marker)
    with pytest.raises(InputError, match=rf"weights\{ending}: unknown format {ending}.*safetensors"):
        find_weights(str(path), "lenet5", tmp_path)
    assert not marker.exists()
