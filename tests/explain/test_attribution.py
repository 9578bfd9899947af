"""Attributions against their definitions, and the check against a randomised network."""

import json
import logging

import pytest
import torch
import torchvision
from torch import nn

from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.explain.attribution import (
    Options,
    alike,
    attribute,
    coloured,
    plain_relus,
    randomise,
    usable,
)
from cnnlab.models.lenet5 import LeNet5

pytest.importorskip("captum")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return plain_relus(nn.Sequential(nn.Identity(), LeNet5().eval()))


@pytest.fixture
def image():
    return torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))


def test_saliency_is_the_magnitude_of_the_gradient(model, image):
    variable = image.clone().requires_grad_()
    model(variable)[0, 4].backward()
    found = attribute(model, "saliency", image, 4, "features.3", Options())
    torch.testing.assert_close(found, variable.grad[0, 0].abs())


def test_integrated_gradients_add_up_to_the_change_of_the_score(model, image):
    """Completeness (Sundararajan et al. 2017, proposition 1), from the black image."""
    found = attribute(model, "integrated_gradients", image, 4, "features.3", Options(steps=200))
    with torch.no_grad():
        change = model(image)[0, 4] - model(torch.zeros_like(image))[0, 4]
    assert found.sum().item() == pytest.approx(change.item(), rel=0.02)


def test_grad_cam_is_its_formula(model, image):
    """relu(sum_k mean(dy / dA_k) A_k) (Selvaraju et al. 2017, equations 1 and 2), enlarged."""
    network = model[1]
    maps = network.features[:4](image).detach().requires_grad_()
    network.classifier(network.features[4:](maps))[0, 4].backward()
    expected = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    expected = nn.functional.interpolate(expected, size=(32, 32), mode="bilinear")[0, 0].detach()
    found = attribute(model, "grad_cam", image, 4, "features.3", Options())
    torch.testing.assert_close(found, expected)


def test_occlusion_of_a_pixel_that_matters_alone():
    class OnePixel(nn.Module):
        def forward(self, images):
            return images[:, 0, 10:11, 20] * torch.tensor([[3.0, 1.0]])

    found = attribute(nn.Sequential(nn.Identity(), OnePixel()), "occlusion", torch.ones(1, 1, 32, 32), 0, "", Options())
    assert found[10, 20] == found.max() == pytest.approx(1.5)  # from 1 to the baseline of 0.5, times 3
    assert (found[:4] == 0).all()


def test_guided_backpropagation_lets_nothing_negative_through_a_relu(image):
    conv = nn.Conv2d(1, 3, 3)
    network = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 30 * 30, 2))
    found = attribute(nn.Sequential(nn.Identity(), network), "guided_backpropagation", image, 1, "", Options())
    above = network[3].weight[1].detach().view(1, 3, 30, 30)
    passed = above.clamp_min(0) * (conv(image) > 0)
    expected = nn.functional.conv_transpose2d(passed, conv.weight)[0, 0].detach()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_guided_backpropagation_of_a_relu_that_is_used_twice(image):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
            self.head = nn.Linear(4 * 28 * 28, 2)

        def forward(self, images):
            return self.head(self.relu(self.second(self.relu(self.first(images)))).flatten(1))

    network = Twice()
    inner = network.first(image)
    outer = network.second(inner.relu())
    passed = network.head.weight[1].view(1, 4, 28, 28).clamp_min(0) * (outer > 0)
    passed = nn.functional.conv_transpose2d(passed, network.second.weight).clamp_min(0) * (inner > 0)
    expected = nn.functional.conv_transpose2d(passed, network.first.weight)[0, 0].detach()
    found = attribute(nn.Sequential(nn.Identity(), network), "guided_backpropagation", image, 1, "", Options())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_guided_backpropagation_is_left_out_where_it_would_be_the_gradient():
    assert usable(["saliency", "guided_backpropagation"], nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU6())) == ["saliency"]
    assert usable(["guided_backpropagation"], nn.Sequential(nn.ReLU())) == ["guided_backpropagation"]


def test_randomised_network_has_other_weights_and_the_original_keeps_its_own(model, image):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = randomise(model, 0)
    assert all(not torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(randomise(model, 0)(image), other(image))


def test_likeness_is_a_rank_correlation_of_magnitudes():
    values = torch.linspace(0.1, 1, 50).view(5, 10)
    assert alike(values, -values.square()) == pytest.approx(1)
    assert alike(values, 1 / values) == pytest.approx(-1)
    assert alike(values, torch.zeros(5, 10)) == 0


def test_colours_say_for_and_against():
    pixels = coloured(torch.tensor([[-2.0, 0.0, 2.0]]))[:, 0].T.tolist()
    assert pixels[0][2] > pixels[0][0]
    assert pixels[1] == [255, 255, 255]
    assert pixels[2][0] > pixels[2][2]


def test_files_and_warning(quick_run, tmp_path, caplog):
    """What is warned of is what the numbers call alike."""
    arguments = [f"run={quick_run}", "what=attribution", "methods=[saliency,grad_cam]", f"output={tmp_path}"]
    with caplog.at_level(logging.WARNING):
        paths = visualize(arguments)
    found = json.loads((tmp_path / "attribution.json").read_text())
    assert found["grad_cam_layer"] == "features.5"
    assert paths[0] == tmp_path / f"{found['images'][0]['image']}.png"
    likeness = found["images"][0]["randomised"]
    assert set(likeness) == {"saliency", "grad_cam"}
    warned = {name for name in likeness if any(name in record.message for record in caplog.records)}
    assert warned == {name for name, value in likeness.items() if value > 0.5}


def test_networks_without_maps_can_be_explained_by_the_other_methods(quick_run, tmp_path):
    arguments = [f"run={quick_run}", "what=attribution", f"output={tmp_path}"]
    with pytest.raises(InputError, match="layer=classifier has no maps"):
        visualize([*arguments, "layer=classifier"])
    visualize([*arguments, "layer=classifier", "methods=[saliency]"])
    assert json.loads((tmp_path / "attribution.json").read_text())["grad_cam_layer"] is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("methods=[lime]", "Unknown method lime .* Available: saliency"),
        ("target=10", "'10' is not a class"),
        ("target=cat", "0 to 9"),
    ],
)
def test_wrong_options_are_named(quick_run, argument, message):
    with pytest.raises(InputError, match=message):
        visualize([f"run={quick_run}", "what=attribution", argument])


def test_weights_without_a_classifier_are_refused(tmp_path, pictures):
    trunk = torchvision.models.squeezenet1_1().features.state_dict(prefix="features.")
    torch.save(trunk, tmp_path / "features.pth")
    arguments = ["what=attribution", "model=squeezenet1_1", f"model.weights={tmp_path / 'features.pth'}"]
    with pytest.raises(InputError, match="no classifier, which this picture needs"):
        visualize([*arguments, f"images={pictures}"])
