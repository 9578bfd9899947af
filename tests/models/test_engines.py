"""Engines compute what torch computes, and say why where they cannot."""

import copy
import importlib.util
from types import SimpleNamespace

import pytest
import torch
import torchvision
from in_process import digits_with, parts_of_a_run
from short_mobilenet import short_mobilenet
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models import engines
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.engines import RUNTIMES, TORCH, EngineError, build_engine, require_engine
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.plain import Plain

NETWORKS = {
    "lenet5": (LeNet5, (1, 32, 32)),
    "alphago_policy": (lambda: AlphaGoPolicy(k=8), (48, 19, 19)),
    "mobilenet_v2": (lambda: short_mobilenet(num_classes=3), (3, 32, 32)),
    "plain": (Plain, (1, 32, 32)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=3), (3, 32, 32)),
}


def network_with_statistics(build) -> nn.Module:
    """A network whose batch norms have statistics and weights that are not those of new ones."""
    torch.manual_seed(0)
    network = build()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_torch_for_any_number_of_inputs(name):
    build, shape = NETWORKS[name]
    network = network_with_statistics(build)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(5, *shape)
    with torch.no_grad():
        expected = network(images)
    for engine in (TORCH, *RUNTIMES):
        computed = build_engine(engine, network, images[:2])
        for count in (5, 1):
            with torch.no_grad():
                found = computed(images[:count].contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(found, expected[:count], rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_batch_norm_is_folded_into_the_convolution():
    """Against the formula of batch normalization in float64."""
    network = network_with_statistics(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)))
    conv, norm = network
    images = torch.randn(4, 2, 6, 6)
    with torch.no_grad():
        plain = nn.functional.conv2d(images.double(), conv.weight.double())
        mean, var, scale, shift = (
            value.double()[:, None, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        expected = (plain - mean) / (var + norm.eps).sqrt() * scale + shift
        folded = engines.folded(network, images, network(images))
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
        torch.testing.assert_close(folded(images).double(), expected, rtol=1e-5, atol=1e-5)


class Backwards(nn.Module):
    """Runs its layers in another order than they are defined in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(images))


@pytest.mark.parametrize("engine", [TORCH, *RUNTIMES])
def test_layers_in_another_order_are_not_folded(engine):
    network = network_with_statistics(Backwards)
    images = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(build_engine(engine, network, images)(images), network(images), rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 2 if images.sum() > 0 else images


class Paired(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class Scaled(nn.Module):
    """Divides by the number of inputs, which becomes a number of an exported model."""

    def forward(self, images: Tensor) -> Tensor:
        return images / len(images)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching(), "Branching cannot be exported: its forward pass takes Python's decisions by tensors"),
        (Paired(), "Paired returns a tuple, not one tensor"),
        (Scaled(), "Scaled cannot be exported|outputs differ"),
        (nn.Dropout().train(), "outputs differ from torch's by"),  # random while testing
    ],
)
def test_what_cannot_be_exported_is_said(network, reason):
    with pytest.raises(EngineError, match=reason):
        build_engine("onnxruntime", network, torch.rand(4, 3, 8, 8) + 0.1)


def test_outputs_that_differ_too_much_are_refused(monkeypatch):
    images = torch.randn(2, 1, 32, 32)
    network = LeNet5().eval()
    for error, refused in ((1.0005, False), (1.01, True)):
        wrong = lambda model, threads, error=error: lambda inputs: network(inputs) * error  # noqa: E731
        monkeypatch.setitem(engines.BUILDERS, "onnxruntime", wrong)
        if refused:
            with pytest.raises(EngineError, match=r"outputs differ from torch's by 1\.0e-02 of the largest"):
                build_engine("onnxruntime", network, images)
        else:
            build_engine("onnxruntime", network, images)


@pytest.mark.parametrize("threads", [1, 2])
def test_engines_use_as_many_threads_as_torch(monkeypatch, threads):
    import onnxruntime
    import openvino

    asked = []
    session, compiled = onnxruntime.InferenceSession, openvino.Core.compile_model
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, **rest: asked.append(options.intra_op_num_threads) or session(model, options, **rest),
    )

    def compile_model(core, model, device, hints):
        done = compiled(core, model, device, hints)
        asked.append(done.get_property("INFERENCE_NUM_THREADS"))
        return done

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in RUNTIMES:
            build_engine(name, LeNet5().eval(), torch.randn(2, 1, 32, 32))
    finally:
        torch.set_num_threads(before)
    assert asked == [threads, threads]


# --- What may be asked for ---


def test_unknown_engine_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"speed\.engine=foo: use auto, torch, onnxruntime, openvino\.") as error:
        parts_of_a_run(tmp_path / "run", *digits_with("speed.engine=foo"))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("missing", ["onnx", "openvino"])
def test_engine_whose_extra_is_missing_is_refused(monkeypatch, tmp_path, missing):
    find_spec = importlib.util.find_spec
    known = SimpleNamespace(find_spec=lambda name: None if name == missing else find_spec(name))
    monkeypatch.setattr(engines, "importlib", SimpleNamespace(util=known))
    with pytest.raises(InputError, match=r"speed\.engine=openvino is not installed") as error:
        parts_of_a_run(tmp_path / "run", *digits_with("speed.engine=openvino"))
    assert "pip install 'cnnlab[openvino]'" in str(error.value)
    assert error.value.exit_code == 2
    require_engine("auto")
