"""Weights from files, runs and names, and what is said about them."""

import dataclasses
import functools
import logging
import pickle
import re
import urllib.error
import urllib.request
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from malicious import Malicious, write_malicious
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from cnnlab.errors import DataError, InputError
from cnnlab.models import weights as module
from cnnlab.models.building import build_network
from cnnlab.models.inputs import InputSpec
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.weights import Weights, find_weights, for_classes, load_weights


def model_node(name: str, weights: str | None) -> dict:
    """The config group model of a network of torchvision, timm or cnnlab."""
    if name in torchvision.models.list_models():
        network = {"_target_": "torchvision.models.get_model", "name": name}
    elif name == "lenet5":
        network = {"_target_": "cnnlab.models.lenet5.LeNet5"}
    else:
        network = {"_target_": "timm.create_model", "model_name": name}
    sizes = {"in_channels": 3, "image_size": None, "resize_size": None}
    return {"name": name, "weights": weights, "network": network, **sizes}


def find(weights: str, name: str, data_dir: Path) -> Weights:
    return find_weights(model_node(name, weights), data_dir)


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
    found = find(str(path), "lenet5", tmp_path)
    assert_same_state(found.state, state)
    assert found.preprocessing is None
    assert found.source == str(path)


def test_file_of_a_wrapped_network(tmp_path):
    state = trained_state()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "w.pth"
    )
    assert_same_state(find(str(tmp_path / "w.pth"), "lenet5", tmp_path).state, state)


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
    spec = InputSpec(1, 32, 32, [0.25], [0.5])
    stored = {"classes": ["a"], "input": dataclasses.asdict(spec), "network": {"_target_": "x"}}
    torch.save({"state_dict": own, "hyper_parameters": stored}, checkpoint)
    found = find(str(tmp_path / "run" if place == "run" else checkpoint), "lenet5", tmp_path)
    assert_same_state(found.state, state)
    assert found.classes == ["a"]
    assert found.preprocessing(torch.tensor([0.75]).view(1, 1, 1, 1)).item() == (0.75 - 0.25) / 0.5


def test_network_receives_what_fits_and_draws_the_rest(tmp_path, caplog):
    torch.save(trained_state(10) | {"extra.weight": torch.ones(2)}, tmp_path / "w.pth")
    found = find(str(tmp_path / "w.pth"), "lenet5", tmp_path)
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
        find("IMAGENET22K", "mobilenet_v2", tmp_path)


def test_name_for_a_network_that_is_not_torchvisions(tmp_path):
    with pytest.raises(InputError, match="not a file, a run folder or a torchvision weight name of lenet5"):
        find("DEFAULT", "lenet5", tmp_path)


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
        found = find("IMAGENET1K_V1", "shufflenet_v2_x0_5", offline)
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
        assert_same_state(find("DEFAULT", "vgg16", offline).state, state)
    else:
        with pytest.raises(DataError, match="vgg16 could not be downloaded"):
            find("DEFAULT", "vgg16", offline)


def test_fetch_that_failed_says_where_a_file_may_lie(offline):
    with pytest.raises(DataError) as error:
        find("IMAGENET1K_V1", "shufflenet_v2_x0_5", offline)
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
    find("DEFAULT", "mobilenet_v2", tmp_path)
    url = torchvision.models.MobileNet_V2_Weights.DEFAULT.url
    assert asked == {"url": url, "sha256": url[:-4].rsplit("-", 1)[1], "name": url.rsplit("/", 1)[1]}


# --- Weights as their own library loads them ---


def test_densenet_of_the_published_file_has_all_of_its_layers(tmp_path):
    """torchvision's file calls the layers norm.1 and conv.2, which its builder renames."""
    builder = functools.partial(torchvision.models.DenseNet, 2, (2, 3), 4)
    torch.manual_seed(3)
    trained = builder().state_dict()
    older = {name: value for name, value in trained.items() if not name.endswith("num_batches_tracked")}
    published = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): v for name, v in older.items()}
    assert sum(name not in trained for name in published) == 5 * 10
    torch.save(published, tmp_path / "densenet121.pth")
    expected = builder()
    torchvision.models.densenet._load_state_dict(expected, SimpleNamespace(get_state_dict=lambda **_: published), False)

    found = find(str(tmp_path / "densenet121.pth"), "densenet121", tmp_path)

    network = build_network(builder, num_classes=1000, weights=found, seed=0, complete=True)
    assert_same_state(network.state_dict(), expected.state_dict())


def small_vit(num_classes: int = 7, image_size: int = 16) -> torchvision.models.VisionTransformer:
    return torchvision.models.VisionTransformer(image_size, 8, 2, 2, 8, 16, num_classes=num_classes)


def test_vision_transformer_of_the_published_file_has_all_of_its_layers(tmp_path):
    """torchvision's file calls the layers of an MLP linear_1 and linear_2; its class renames them while it loads."""
    torch.manual_seed(3)
    trained = small_vit().state_dict()
    published = {re.sub(r"(mlp)\.(\d)", lambda m: f"mlp.linear_{1 + int(m[2]) // 3}", n): v for n, v in trained.items()}
    torch.save(published, tmp_path / "vit_b_16.pth")
    expected = small_vit()
    expected.load_state_dict(published)

    found = find(str(tmp_path / "vit_b_16.pth"), "vit_b_16", tmp_path)

    assert_same_state(
        build_network(small_vit, num_classes=7, weights=found, seed=0, complete=True).state_dict(),
        expected.state_dict(),
    )


def test_position_embeddings_follow_the_size_of_the_input():
    torch.manual_seed(3)
    trained = OrderedDict(small_vit().state_dict())
    expected = interpolate_embeddings(32, 8, trained)["encoder.pos_embedding"]
    network = build_network(
        lambda num_classes: small_vit(num_classes, 32),
        num_classes=7,
        weights=Weights(trained, "here"),
        seed=0,
        complete=True,
    )
    assert torch.equal(network.encoder.pos_embedding, expected)


def test_layers_that_weights_leave_at_random_are_named(caplog):
    state = {name: value for name, value in trained_state().items() if not name.startswith("features.3")}
    with caplog.at_level(logging.WARNING):
        build_network(LeNet5, num_classes=10, weights=Weights(state, "here"), seed=0)
    assert "here has no weights for these layers of LeNet5: features.3.weight, features.3.bias." in caplog.text
    with pytest.raises(DataError, match=r"features\.3\.weight.*Choose the network"):
        build_network(LeNet5, num_classes=10, weights=Weights(state, "here"), seed=0, complete=True)


def test_head_of_a_run_is_kept_only_for_the_same_classes():
    own = Weights(trained_state(2), "here", nn.Identity(), ["ant", "bee"])
    assert for_classes(own, ["ant", "bee"]) is own
    body = set(own.state) - {"classifier.5.weight", "classifier.5.bias"}
    assert set(for_classes(own, ["bee", "ant"]).state) == body
    published = Weights(own.state, "here", None, ["ant", "bee"])
    assert for_classes(published, ["x", "y"]) is published


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No network, and an empty cache of the hub; gives the addresses that are asked for."""
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_constants(), "HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


def huggingface_constants():
    return pytest.importorskip("huggingface_hub.constants", reason="it comes with the extra timm")


def test_weights_of_timm_without_a_network_say_at_once_where_a_file_may_lie(timm, no_hub, tmp_path):
    with pytest.raises(DataError) as error:
        find("timm", "test_resnet", tmp_path)
    message = str(error.value)
    assert "huggingface.co/timm/test_resnet.r160_in1k cannot be downloaded: no route" in message
    assert f"test_resnet.r160_in1k.pth or .safetensors, into {tmp_path / 'weights'}" in message
    assert len(no_hub) == 1  # no retries


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_resnet"])
def test_weights_of_timm_from_the_data_folder_are_what_timm_itself_loads(timm, no_hub, tmp_path, name):
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "weights" / f"{name}.safetensors"
    path.parent.mkdir()
    save_file(state, path)
    found = find("timm", "test_resnet", tmp_path)
    assert_same_state(found.state, state)
    assert found.source == str(path)
    assert (len(found.wnids), found.wnids[0]) == (1000, "n01440764")


def test_weights_of_timm_come_from_the_hubs_cache_without_asking(timm, no_hub, tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, repository / "snapshots" / "abc" / "model.safetensors")
    assert_same_state(find("timm", "test_resnet", tmp_path).state, state)
    assert no_hub == []


def test_file_is_converted_as_timm_does_it(timm, tmp_path):
    """Position embeddings are resampled to another input; a head of other classes stays as it is."""
    torch.manual_seed(3)
    state = timm.create_model("test_vit", num_classes=4).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    cfg = {"state_dict": state, "num_classes": 4}
    expected = timm.create_model("test_vit", pretrained=True, img_size=96, num_classes=4, pretrained_cfg_overlay=cfg)

    model = model_node("test_vit", str(tmp_path / "w.safetensors")) | {"image_size": 96}
    found = find_weights(model, tmp_path)

    assert found.state["pos_embed"].shape != state["pos_embed"].shape
    assert_same_state(found.state, expected.state_dict())


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("test_resnet", "IMAGENET1K_V1", "use timm, null, a file or a run folder. The network is timm's test_resnet"),
        ("coatnet_0_224", "timm", "timm has none for it: use null"),
        ("resnet18", "timm", "not a file, a run folder or a torchvision weight name of resnet18"),
        ("resnet18", "IMAGENET1K_V2", "Did you mean IMAGENET1K_V1"),
        ("lenet5", "timm", "not a file, a run folder or a torchvision weight name of lenet5"),
    ],
)
def test_weights_that_the_networks_library_does_not_have(timm, tmp_path, name, weights, message):
    with pytest.raises(InputError, match=message):
        find(weights, name, tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch's, of the file that is malicious
@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_file_that_would_run_code_is_refused(tmp_path, ending):
    witness = tmp_path / "was_run"
    path = tmp_path / f"bad{ending}"
    torch.save({"state_dict": {"features.0.bias": torch.ones(6)}, "payload": Malicious(witness)}, path)
    with pytest.raises(DataError, match="could run code"):
        find(str(path), "lenet5", tmp_path)
    path.write_bytes(pickle.dumps(Malicious(witness)))
    with pytest.raises(DataError):
        find(str(path), "lenet5", tmp_path)
    assert not witness.exists()


@pytest.mark.parametrize("contents", [b"", b"not weights at all", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_damaged_file_is_named(tmp_path, contents, ending):
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=f"damaged{ending}"):
        find(str(path), "lenet5", tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pth"):
        find(str(tmp_path / "absent.pth"), "lenet5", tmp_path)


def test_dictionary_of_other_things_is_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "acc": 0.5}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="holds no state_dict of tensors; its keys are: epoch, acc"):
        find(str(tmp_path / "w.pth"), "lenet5", tmp_path)


def test_real_mobilenet_features_fill_every_feature(shared_data):
    found = find(str(shared_data / "weights" / "mobilenet_v2_features.pth"), "mobilenet_v2", shared_data)
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
        find(str(path), "lenet5", tmp_path)
    assert not marker.exists()
