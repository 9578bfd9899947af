"""The input of every published network, and what its weights tell its constructor, against timm and torchvision."""

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from cnnlab.config import build
from cnnlab.data.transforms import EvalTransform
from cnnlab.errors import DataError, InputError
from cnnlab.models.building import pretrained_network, weights_preprocessing
from cnnlab.models.inputs import InputSpec, crops_for, input_spec, network_node, require_statistics
from cnnlab.models.weights import find_weights

ENTRIES = [
    entry
    for name in torchvision.models.list_models(module=torchvision.models)
    for entry in torchvision.models.get_model_weights(name)
]
NAMES = {
    enum: name
    for name in torchvision.models.list_models(module=torchvision.models)
    for enum in [torchvision.models.get_model_weights(name)]
}


def model_of(name: str, weights: str | None, **changed: Any) -> dict[str, Any]:
    """The config group model of a network of torchvision (or of timm, with `library`)."""
    library = changed.pop("library", "torchvision")
    network = {"_target_": "torchvision.models.get_model", "name": name}
    if library == "timm":
        network = {"_target_": "timm.create_model", "model_name": name}
    network |= changed.pop("network", {})
    sizes = {"in_channels": 3, "image_size": None, "resize_size": None}
    return {"name": name, "weights": weights, "network": network, **sizes, **changed}


# --- timm ---


def test_input_of_every_pretrained_tag_is_timms_own():
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    from timm.data import resolve_data_config

    refused, wrong = [], []
    names = timm.list_models(pretrained=True)
    for name in names:
        published = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        channels, height, width = published["input_size"]
        expected = {
            "channels": channels,
            "ranges": None,
            "image_size": height,
            "resize_size": math.floor(height / published["crop_pct"]),
            **{key: list(published[key]) for key in ("mean", "std")},
            **{key: published[key] for key in ("interpolation", "crop_mode")},
        }
        try:
            spec = input_spec(model_of(name, "timm", library="timm"))
        except InputError as error:
            refused.append((height != width, str(error)))
        else:
            wrong += [name] if dataclasses.asdict(spec) != expected else []
    assert len(names) > 1500
    assert wrong == []
    assert all(is_narrow and "are square" in message for is_narrow, message in refused)


@pytest.mark.parametrize(
    ("name", "changed", "arguments"),
    [
        ("vit_tiny_patch16_224", {}, {}),
        ("vit_tiny_patch16_224", {"image_size": 96}, {"img_size": 96}),
        ("resnet10t", {"image_size": 96}, {}),
        ("resnet10t", {"in_channels": 1}, {"in_chans": 1}),
        ("vit_tiny_patch16_224", {"network": {"img_size": 64}}, {"img_size": 64}),
    ],
)
def test_fixed_network_of_timm_is_built_for_the_size_that_is_asked_for(name, changed, arguments):
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    model = model_of(name, None, library="timm", **changed)
    node = network_node(model, input_spec(model))
    assert node == {"_target_": "timm.create_model", "model_name": name, "_partial_": True, **arguments}


def test_pretrained_network_of_timm_sees_what_timm_shows_it(tmp_path):
    """Bicubic, another mean and std than ImageNet's, 160 pixels: the scores are those of timm's own pipeline."""
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    torch.manual_seed(0)
    reference = timm.create_model("test_vit", num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((240, 190), Image.Resampling.BICUBIC)
    config = timm.data.resolve_model_data_config(reference)
    model = model_of("test_vit", str(tmp_path / "w.pth"), library="timm")

    spec = input_spec(model)
    weights = find_weights(model, tmp_path)
    network = pretrained_network(build(network_node(model, spec)), weights)
    pixels = EvalTransform(**spec.resizing)(picture)[None].float() / 255
    with torch.no_grad():
        expected = reference(timm.data.create_transform(**config)(picture)[None])
        found = network(weights_preprocessing(weights, spec)(pixels))

    assert (config["input_size"][1], config["interpolation"], config["mean"]) == (160, "bicubic", (0.5, 0.5, 0.5))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-2)


def test_size_by_hand_keeps_the_published_proportions():
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    bit = input_spec(model_of("resnetv2_50.a1h_in1k", "timm", library="timm", image_size=100))  # crop_pct 0.95
    assert (bit.image_size, bit.resize_size) == (100, 105)
    swag = input_spec(model_of("regnet_y_16gf", "IMAGENET1K_V2", image_size=112))  # 232 for 224
    assert (swag.image_size, swag.resize_size) == (112, 116)
    small = input_spec(model_of("resnet18", None, image_size=64, resize_size=32))
    assert (small.image_size, small.resize_size) == (64, 64)


def test_old_name_of_timm_means_todays():
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    old, new = "convnext_tiny_in22ft1k", "convnext_tiny.fb_in22k_ft_in1k"
    assert timm.models.get_deprecated_models()[old] == new
    model = model_of(old, "timm", library="timm")
    assert input_spec(model) == input_spec(model_of(new, "timm", library="timm"))
    assert network_node(model, input_spec(model))["model_name"] == new


# --- torchvision ---


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_input_of_every_entry_is_its_own(entry):
    spec = input_spec(model_of(NAMES[type(entry)], entry.name))
    published = entry.transforms()
    assert [spec.image_size] == published.crop_size
    assert [spec.resize_size] == published.resize_size
    assert (spec.mean, spec.std) == (published.mean, published.std)
    assert (spec.interpolation, spec.crop_mode) == (published.interpolation.value, "center")
    assert published.antialias is True


class Told(Exception):  # noqa: N818
    """Ends the construction of a network when its class has been given its arguments."""


def told(monkeypatch, builder, **arguments: Any) -> tuple[type, dict[str, Any]]:
    """The class of the network that a builder makes, and what its constructor is given, defaults included."""
    begin = nn.Module.__init__

    def stop_at_network(self: nn.Module, *_: object, **__: object) -> None:
        if type(self).__module__.startswith("torchvision.models."):
            raise Told
        begin(self)

    monkeypatch.setattr(nn.Module, "__init__", stop_at_network)
    monkeypatch.setattr(torchvision.models.vgg, "make_layers", lambda *_, **__: None)  # before the network itself
    with pytest.raises(Told) as stopped:
        builder(**arguments)
    monkeypatch.undo()
    frame = next(entry.frame for entry in stopped.traceback if entry.name == "__init__")
    given = inspect.signature(type(frame.f_locals["self"])).parameters
    return type(frame.f_locals["self"]), {name: comparable(frame.f_locals[name]) for name in given}


def comparable(value: Any) -> Any:
    """A number as it is; of anything else its type, since layers and settings have no equality."""
    if isinstance(value, list | tuple):
        return [comparable(each) for each in value]
    return value if isinstance(value, bool | int | float) or value is None else type(value)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_network_is_given_what_torchvisions_builder_gives_it_for_the_entry(monkeypatch, entry):
    model = model_of(NAMES[type(entry)], entry.name)
    builder = torchvision.models.get_model_builder(model["name"])

    expected_class, expected = told(monkeypatch, builder, weights=entry)
    constructor = build(network_node(model, input_spec(model)))
    found_class, found = told(monkeypatch, constructor, num_classes=len(entry.meta["categories"] or range(1000)))

    if model["name"] == "googlenet":  # the builder removes the heads of the published file after loading them
        expected["aux_logits"] = False
    assert (found_class, found) == (expected_class, expected)


def test_network_without_weights_is_told_only_what_it_must_know():
    assert "transform_input" not in network_node(*with_spec("inception_v3"))
    assert network_node(*with_spec("vit_b_16"))["image_size"] == 224
    assert input_spec(model_of("inception_v3", None)).image_size == 299
    assert input_spec(model_of("vit_h_14", None)).image_size == 224  # the published 518 only with SWAG's weights


def with_spec(name: str, weights: str | None = None) -> tuple[dict[str, Any], InputSpec]:
    model = model_of(name, weights)
    return model, input_spec(model)


def test_file_is_known_by_its_published_name():
    file = torchvision.models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1.url.rsplit("/", 1)[1]
    assert input_spec(model_of("vit_h_14", f"weights/{file}")).image_size == 518
    assert input_spec(model_of("vit_h_14", "weights/mine.pth")).image_size == 224


def test_what_is_typed_wins_over_what_weights_imply():
    model = model_of("inception_v3", "DEFAULT", network={"transform_input": False, "aux_logits": False})
    node = network_node(model, input_spec(model))
    assert (node["transform_input"], node["aux_logits"]) == (False, False)


@pytest.mark.parametrize("told", [{"transform_input": True, "aux_logits": False}, {"init_weights": True}])
def test_network_for_the_weights_of_a_run_is_built_as_that_of_the_run(tmp_path, told):
    """A run from scratch had pixels that were not transformed; one from published weights had."""
    spec = InputSpec(3, 75, 80, [0.1] * 3, [0.2] * 3, "bicubic")
    own = {"_target_": "torchvision.models.get_model", "name": "inception_v3", "dropout": 0.1, **told}
    stored = {"classes": ["a"], "network": own, "input": dataclasses.asdict(spec)}
    torch.save({"state_dict": {}, "hyper_parameters": stored}, tmp_path / "best.ckpt")
    model = model_of("inception_v3", str(tmp_path / "best.ckpt"))
    assert dataclasses.replace(input_spec(model), ranges=None) == spec
    node = network_node(model, input_spec(model))
    kept = {name: node[name] for name in ("transform_input", "aux_logits", "dropout") if name in node}
    assert kept == {name: value for name, value in told.items() if name != "init_weights"}


def test_checkpoint_that_does_not_say_how_images_were_resized_is_refused(tmp_path):
    older = {"classes": ["a"], "network": {}, "input": {"channels": 3, "image_size": 32, "resize_size": 32}}
    torch.save({"state_dict": {}, "hyper_parameters": older}, tmp_path / "old.ckpt")
    with pytest.raises(DataError, match=r"old\.ckpt does not say how its network takes images"):
        input_spec(model_of("resnet18", str(tmp_path / "old.ckpt")))


def test_other_packages_network_takes_the_input_but_no_arguments():
    model = model_of("vgg16", "IMAGENET1K_FEATURES", network={"_target_": "cnnlab.models.vgg16.vgg16"})
    spec = input_spec(model)
    assert spec.std == [1 / 255] * 3
    assert "init_weights" not in network_node(model, spec)


# --- by hand ---


def test_statistics_by_hand_replace_the_published_ones():
    node = {"name": "weights", "mean": [0.1, 0.2, 0.3], "std": None}
    spec = input_spec(model_of("resnet18", "DEFAULT"), node)
    assert (spec.mean, spec.std) == ([0.1, 0.2, 0.3], [0.229, 0.224, 0.225])
    pixels = torch.rand(2, 3, 4, 4)
    expected = torchvision.transforms.functional.normalize(pixels, spec.mean, spec.std)
    torch.testing.assert_close(weights_preprocessing(None, spec)(pixels), expected)
    assert input_spec(model_of("resnet18", "DEFAULT"), {"name": "none", "mean": [0.1]}).mean == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("name", "values"),
    [("mean", [0.5]), ("mean", [123.7, 116.3, 103.5]), ("std", [0.2, 0.2, 0]), ("std", [0.2, math.nan, 0.2])],
)
def test_statistics_that_no_pixels_in_0_to_1_have_are_refused(name, values):
    with pytest.raises(InputError, match=rf"preprocessing\.{name}=.*3 channels.*255"):
        require_statistics({"name": "weights", name: values}, channels=3)


def test_grey_network_has_no_statistics_of_three_channels():
    spec = input_spec(model_of("resnet18", None, in_channels=1))
    with pytest.raises(InputError, match="statistics of 3 channels, but the network takes 1"):
        weights_preprocessing(None, spec)


def test_crops_of_training_are_resized_as_evaluation_resizes():
    spec = InputSpec(3, 96, 100, [0.5] * 3, [0.5] * 3, "bicubic", "squash")
    entries = {"crop": {"size": None, "interpolation": None}, "small": {"size": 8}, "flip": {"p": 0.5}, "off": None}
    assert crops_for(spec, entries) == {
        "crop": {"size": 96, "interpolation": "bicubic"},
        "small": {"size": 8},
        "flip": {"p": 0.5},
        "off": None,
    }
