"""Images that are made by gradients: maximized, dreamt and painted."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from cnnlab.api import load_run
from cnnlab.cli.visualize import visualize
from cnnlab.errors import CnnlabError, InputError
from cnnlab.explain import dream, style
from cnnlab.explain.maximize import FourierImages
from cnnlab.models.feature_maps import layer_maps
from cnnlab.models.gradients import input_gradient
from cnnlab.models.lenet5 import LeNet5


def test_gradient_with_respect_to_images_is_there_in_inference_mode_and_leaves_parameters_alone():
    network = nn.Conv2d(1, 1, 3, bias=False)
    images = torch.rand(2, 1, 5, 5)
    expected = F.conv_transpose2d(torch.ones(2, 1, 3, 3), network.weight)
    torch.testing.assert_close(input_gradient(lambda x: network(x).sum((1, 2, 3)), images), expected.detach())
    with torch.inference_mode():
        made_inside = images * 1.0
        found = input_gradient(lambda x: network(x).sum((1, 2, 3)), made_inside)
    torch.testing.assert_close(found, expected.detach())
    assert network.weight.grad is None


def test_network_stops_where_all_layers_have_answered():
    network = LeNet5().eval()
    images = torch.rand(1, 1, 50, 40)
    with pytest.raises(RuntimeError):
        network(images)
    outputs = layer_maps(network, images, {"a": network.features[0], "b": network.features[3]})
    torch.testing.assert_close(outputs["a"], network.features[0](images))
    torch.testing.assert_close(outputs["b"], network.features[:4](images))
    assert outputs["b"].requires_grad
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("channels", [1, 3])
def test_spectrum_of_one_frequency_is_a_wave(channels):
    images = FourierImages(1, channels, 16)
    with torch.no_grad():
        images.spectrum.zero_()
        assert torch.allclose(images(), torch.full((1, channels, 16, 16), 0.5))
        images.spectrum[0, 0, 0, 2, 0] = 1.0
        wave = images()[0, 0]
    spectrum = torch.fft.rfft2(wave.logit()).abs()
    assert spectrum.argmax().item() == 2
    assert spectrum.flatten().sort().values[-2] < 1e-3 * spectrum.max()


def test_class_image_is_taken_for_its_class(quick_run, tmp_path):
    visualize([f"run={quick_run}", "what=maximize", "target=3,7", "steps=60", f"output={tmp_path}"])
    found = json.loads((tmp_path / "maximize.json").read_text())
    assert list(found) == ["3", "7"]
    assert all(each["end"] > each["start"] + 3 for each in found.values())
    assert Image.open(tmp_path / "film.gif").n_frames >= 4


def test_channel_images_are_seeded(quick_run, tmp_path):
    arguments = [f"run={quick_run}", "what=maximize", "layer=3", "channels=1,4", "steps=15"]
    for name in ("a", "b"):
        visualize([*arguments, f"output={tmp_path / name}"])
    visualize([*arguments, "seed=1", f"output={tmp_path / 'c'}"])
    first, second, third = ((tmp_path / name / "maximize.png").read_bytes() for name in ("a", "b", "c"))
    assert first == second != third
    numbers = json.loads((tmp_path / "a" / "maximize.json").read_text())
    assert numbers["channel 4"]["end"] > numbers["channel 4"]["start"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["what=maximize", "target=12"], "'12' is not a class"),
        (["what=maximize", "layer=3", "channels=99"], "channels 0 to 15"),
        (["what=maximize", "layer=3", "channels=x"], "channels 0 to 15"),
        (["what=maximize", "steps=0"], "steps=0"),
        (["what=dream", "channel=99", "layer=3"], "channels 0 to 15"),
        (["what=dream", "octaves=0"], "at least 1"),
        (["what=dream", "image=nowhere.png"], "nowhere.png"),
        (["what=style", "content=a.png"], "a.png"),
        (["what=style"], "content=FILE style=FILE"),
    ],
)
def test_wrong_options_are_named(quick_run, arguments, message, tmp_path):
    with pytest.raises(CnnlabError, match=message):
        visualize([f"run={quick_run}", *arguments, f"output={tmp_path}"])


def test_dream_of_a_grey_network_raises_the_answer_and_stays_an_image(quick_run, tmp_path):
    visualize([f"run={quick_run}", "what=dream", "layer=3", "steps=5", "jitter=2", f"output={tmp_path}"])
    found = json.loads((tmp_path / "dream.json").read_text())
    assert found["end"] > 1.2 * found["start"]
    assert found["octaves"][-1] == [32, 32]
    assert Image.open(tmp_path / "dream.png").mode == "L"
    assert not (tmp_path / "state.safetensors").exists()


def test_interrupted_dream_continues_to_the_same_image(quick_run, tmp_path, monkeypatch):
    arguments = [f"run={quick_run}", "what=dream", "layer=0", "steps=4", "jitter=2"]
    visualize([*arguments, f"output={tmp_path / 'whole'}"])
    asked = []
    original = dream.input_gradient

    def interrupted(*given):
        asked.append(1)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(dream, "input_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        visualize([*arguments, f"output={tmp_path / 'parts'}"])
    assert (tmp_path / "parts" / "state.safetensors").exists()
    visualize([*arguments, f"output={tmp_path / 'parts'}"])
    octaves = len(json.loads((tmp_path / "whole" / "dream.json").read_text())["octaves"])
    assert len(asked) == 7 + 4 * (octaves - 1), "the first octave is not dreamt again"
    whole, parts = ((tmp_path / name / "dream.png").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_gram_matrix_by_hand():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, -1.0]]]])
    inner = torch.tensor([[30.0, -2.0], [-2.0, 2.0]])  # 1+4+9+16, 2*1+4*(-1), 1+1
    torch.testing.assert_close(style.gram(maps), inner / 8)


def test_total_variation_by_hand():
    images = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
    assert style.total_variation(images).item() == pytest.approx((9 + 4) / 2 + (1 + 0) / 2)


def test_colours_of_the_content_and_brightness_of_the_result():
    content, result = Image.new("RGB", (8, 8), (200, 40, 40)), Image.new("RGB", (8, 8), (90, 90, 90))
    mixed = style.with_colors_of(content, result).convert("YCbCr").getpixel((0, 0))
    assert mixed[0] == pytest.approx(90, abs=4)
    assert mixed[1:] == pytest.approx(content.convert("YCbCr").getpixel((0, 0))[1:], abs=4)


def test_style_transfer_lowers_the_style_loss_and_logs_it(quick_run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    generator = torch.Generator().manual_seed(0)
    for name in ("content", "style"):
        pixels = (torch.rand(40, 48, generator=generator) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [f"content={tmp_path / 'content.png'}", f"style={tmp_path / 'style.png'}"]
    layers = ["style_layers=features.1,features.4", "content_layer=features.3"]
    output = tmp_path / "out"
    arguments = [f"run={quick_run}", "what=style", *files, *layers, "size=64", "steps=24", f"output={output}"]
    visualize(arguments)
    losses = json.loads((output / "style.json").read_text())["losses"]
    assert len(losses) == 24
    assert losses[-1]["style"] < 0.5 * losses[12]["style"]
    assert Image.open(output / "result.png").size == (64, 53)
    events = EventAccumulator(str(output), size_guidance={"scalars": 0}).Reload()
    assert [entry.value for entry in events.Scalars("style/style")] == pytest.approx([x["style"] for x in losses])


def test_weights_stay_what_they_were(quick_run, tmp_path):
    network = load_run(quick_run).network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(1, 1, 32, 32)
    input_gradient(lambda x: network(x).sum(1), images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_too_small_a_style_is_refused(quick_run, tmp_path):
    with pytest.raises(InputError, match="size=16 at least 64"):
        visualize([f"run={quick_run}", "what=style", "size=16", "scales=3", f"output={tmp_path}"])
