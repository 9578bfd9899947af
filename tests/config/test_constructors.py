"""Networks of torchvision and timm: names that they have, and arguments that their constructors take."""

import pytest
import torch.hub
import torchvision
from in_process import command_line, digits_with, quickly_composed
from torch import nn

from cnnlab.config import compose
from cnnlab.config.checking import problems_of
from cnnlab.config.constructors import ask, name_problem
from cnnlab.errors import InputError


def problems(*overrides: str) -> list[str]:
    return problems_of(quickly_composed(overrides))


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it downloads")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def timm_with(*overrides: str) -> list[str]:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'cnnlab[timm]'")
    return problems("model=timm", "model.weights=null", *overrides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", "timm has no network resnt50. Did you mean resnet50"),
        ("resnet50.a1_in1kk", "timm has no weights a1_in1kk of resnet50. Did you mean a1_in1k"),
        ("coatnet_0_224.a", "timm has no weights a of coatnet_0_224. Available: untrained."),
        ("xxxxxxxx", "timm has no network xxxxxxxx."),
        ("hf_hub:timm/resnet50.a1_in1k", "model.name=hf_hub:timm/resnet50.a1_in1k: timm's name of an architecture"),
    ],
)
def test_name_that_timm_does_not_have(name, message):
    (found,) = timm_with(f"model.name='{name}'")
    assert found.startswith(message)


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "convnext_tiny_in22ft1k", "test_vit.r160_in1k"])
def test_name_that_timm_has_or_had(name):
    assert timm_with(f"model.name={name}") == []


OTHER_TASKS = {
    "mc3_18": "video",
    "raft_small": "optical flow",
    "fcn_resnet50": "segmentation",
    "fasterrcnn_resnet50_fpn": "detection",
    "quantized_resnet50": "quantization",
}


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_network_of_another_task_is_refused_before_anything_is_downloaded(no_download, monkeypatch, name):
    (found,) = problems("model=torchvision", f"model.name={name}")
    assert found.startswith(f"torchvision's {name} is a network for {OTHER_TASKS[name]}; use one for classification.")
    assert command_line(monkeypatch, *digits_with("model=torchvision", f"model.name={name}")) == 2


def test_builder_of_another_task_is_refused_too(no_download):
    target = "torchvision.models.segmentation.fcn_resnet50"
    (found,) = problems("model=resnet18", f"model.network._target_={target}")
    assert found.startswith("torchvision's fcn_resnet50 is a network for segmentation")


def test_every_network_of_torchvision_is_either_for_classification_or_refused():
    classifiers = torchvision.models.list_models(module=torchvision.models)
    for name in torchvision.models.list_models():
        problem = name_problem(torchvision.models.get_model, "torchvision.models.get_model", {"name": name})
        assert bool(problem) == (name not in classifiers), name
    (found,) = problems("model=torchvision", "model.name=resnet5")
    assert found.startswith("torchvision has no network resnet5. Did you mean resnet50")


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("densenet121", "drop_rate=0.1"),
        ("densenet121", "memory_efficient=true"),
        ("convnext_tiny", "layer_scale=0.1"),
        ("convnext_tiny", "stochastic_depth_prob=0.2"),
        ("vit_b_16", "attention_dropout=0.1"),
        ("swin_t", "dropout=0.1"),
        ("resnet18", "zero_init_residual=true"),
        ("inception_v3", "aux_logits=false"),
        ("mnasnet0_5", "dropout=0.1"),
        ("regnet_y_400mf", "stem_width=16"),
    ],
)
def test_arguments_that_the_networks_class_takes(name, argument):
    assert problems("model=torchvision", f"model.name={name}", f"+model.network.{argument}") == []


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        (
            "densenet121",
            "drop_ratee=0.1",
            "model.network.drop_ratee is not an argument of torchvision.models.get_model. Did you mean drop_rate",
        ),
        ("densenet121", "drop_rate=abc", "model.network.drop_rate='abc' is not float."),
        (
            "densenet121",
            "growth_rate=4",
            "model.network: torchvision.models.get_model cannot be built with growth_rate=4",
        ),
        ("mobilenet_v2", "dropout=7", "model.network: torchvision.models.get_model cannot be built with dropout=7"),
        ("densenet121", "weights=DEFAULT", "model.network.weights is for loading weights: use model.weights."),
        ("densenet121", "num_classes=3", "model.network.num_classes is set by the data."),
    ],
)
def test_arguments_that_it_does_not_take(no_download, name, argument, message):
    (found,) = problems("model=torchvision", f"model.name={name}", f"+model.network.{argument}")
    assert found.startswith(message)


def test_arguments_of_timms_networks():
    assert timm_with("model.name=test_resnet", "+model.network.drop_rate=0.1") == []
    assert timm_with("model.name=test_efficientnet", "+model.network.bn_eps=0.1") == []  # taken by no constructor
    assert timm_with("model.name=test_resnet", "+model.network.drop_ratee=0.1", "+model.network.pretrained=true") == [
        "model.network.pretrained is for loading weights: use model.weights.",
        "model.network.drop_ratee is not an argument of timm.create_model. Did you mean drop_rate?",
    ]


def test_constructor_that_needs_another_number_of_classes_is_not_blamed_on_its_arguments():
    def picky(num_classes: int, **options: float) -> nn.Module:
        if num_classes != 361:
            raise ValueError("this network has 361 outputs")
        return nn.Linear(1, num_classes)

    assert ask(picky, "picky", {"k": 1}).error == ""


def test_key_that_the_config_lacks_says_how_arguments_are_passed_on():
    with pytest.raises(InputError, match=r"add it: \+model\.network\.width_mult=0\.5"):
        compose(["model.network.width_mult=0.5"])
