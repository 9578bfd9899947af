"""A network as a chain of layers: what is exported, computed again by plain NumPy, is what PyTorch computes."""

import numpy as np
import pytest
import torch
import torchvision
from explorable import Functional, everything, layer_outputs
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from cnnlab.errors import InputError
from cnnlab.explain.chain import Layer, chain_of
from cnnlab.models.lenet5 import LeNet5
from cnnlab.models.plain import Plain
from cnnlab.models.preprocessing import Normalize
from cnnlab.training.regularizers.surgery import Dropout


def convolved(x, layer: Layer):
    s, w = layer.description.settings, layer.description.arrays["weight"].astype(float)
    (top, left), (rows, columns) = s["padding"], layer.shape[1:]
    reach = [(k - 1) * d + 1 for k, d in zip(s["kernel"], s["dilation"], strict=True)]
    padded = np.pad(x, ((0, 0), (top, 2 * reach[0]), (left, 2 * reach[1])))
    windows = sliding_window_view(padded, reach, axis=(1, 2))[..., :: s["dilation"][0], :: s["dilation"][1]]
    windows = windows[:, :: s["stride"][0], :: s["stride"][1]][:, :rows, :columns]
    out = [
        np.einsum("iyxab,oiab->oyx", windows_of_group, weights)
        for windows_of_group, weights in zip(np.split(windows, s["groups"]), np.split(w, s["groups"]), strict=True)
    ]
    return np.concatenate(out) + layer.description.arrays.get("bias", np.zeros(len(w)))[:, None, None]


def pooled(x, layer: Layer, reduce):
    s = layer.description.settings
    return np.array([[[reduce(m[a:b, c:d], n * k) for c, d, k in s["columns"]] for a, b, n in s["rows"]] for m in x])


def normalized(x, layer: Layer):
    a = {name: values.reshape(-1, 1, 1).astype(float) for name, values in layer.description.arrays.items()}
    return (x - a["mean"]) / a["std"] * a.get("weight", 1) + a.get("bias", 0)


def response_normalized(x, layer: Layer):
    s = layer.description.settings
    squares = np.pad(x**2, ((s["size"] // 2, (s["size"] - 1) // 2), (0, 0), (0, 0)))
    sums = sum(squares[i : i + len(x)] for i in range(s["size"]))
    return x / (s["k"] + s["alpha"] / s["size"] * sums) ** s["beta"]


REPLAY = {
    "conv": convolved,
    "linear": lambda x, layer: (
        layer.description.arrays["weight"].astype(float) @ x + layer.description.arrays.get("bias", 0)
    ),
    "normalize": normalized,
    "response_norm": response_normalized,
    "max_pool": lambda x, layer: pooled(x, layer, lambda window, _: window.max()),
    "avg_pool": lambda x, layer: pooled(x, layer, lambda window, count: window.sum() / count),
    "relu": lambda x, layer: np.maximum(x, 0),
    "relu6": lambda x, layer: np.clip(x, 0, 6),
    "tanh": lambda x, layer: np.tanh(x),
    "sigmoid": lambda x, layer: 1 / (1 + np.exp(-x)),
    "identity": lambda x, layer: x,
    "flatten": lambda x, layer: x.ravel(),
}


def replayed(layers: list[Layer], image) -> dict[str, np.ndarray]:
    x, outputs = image.numpy().astype(float), {}
    for layer in layers:
        x = REPLAY[layer.description.kind](x, layer)
        assert x.shape == layer.shape
        outputs[layer.name] = x
    return outputs


def subject(name: str):
    torch.manual_seed(0)
    if name == "everything":
        return *everything(), (3, 33, 33)
    if name == "functional":
        return nn.Identity(), Functional().eval(), (1, 20, 20)
    if name == "plain":
        return Normalize([0.2], [0.3]), Plain().eval(), (1, 16, 16)
    network = LeNet5().eval()
    Dropout(0.5, conv_p=0.2).modify_network(network)  # by hooks, which do nothing in eval mode
    return Normalize([0.1], [0.3]), network, (1, 32, 32)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", ["everything", "functional", "plain", "lenet5"])
def test_layers_replayed_by_numpy_give_what_torch_gives(name):
    preprocessing, network, shape = subject(name)
    layers = chain_of(preprocessing, network, shape)
    for image in torch.rand(3, *shape):
        found = replayed(layers, image)
        batch = preprocessing(image[None])
        expected = layer_outputs(network, batch)
        with torch.no_grad():
            np.testing.assert_allclose(found[layers[-1].name], network(batch)[0], atol=1e-5, rtol=1e-5)
        for layer, values in expected.items():
            if name != "functional" or layer != "relu":  # used twice: hooks keep the second output
                np.testing.assert_allclose(found[layer], values[0], atol=1e-5, rtol=1e-5, err_msg=layer)


def test_layers_come_in_order_with_the_names_of_their_modules():
    preprocessing, network, shape = subject("lenet5")
    layers = chain_of(preprocessing, network, shape)
    names = [f"features.{i}" for i in range(6)] + [f"classifier.{i}" for i in range(6)]
    assert [layer.name for layer in layers] == ["preprocessing", *names]
    assert [layer.shape for layer in layers if layer.description.kind == "conv"] == [(6, 28, 28), (16, 10, 10)]


def test_functions_have_names_and_a_layer_used_twice_has_two():
    _, network, shape = subject("functional")
    names = [layer.name for layer in chain_of(nn.Identity(), network, shape)]
    assert names == [
        *("conv1", "relu", "max_pool2d", "conv2", "relu (2)", "avg_pool2d", "adaptive_avg_pool2d"),
        *("dropout", "view", "fc1", "tanh", "fc2"),
    ]


class Residual(LeNet5):
    def forward(self, images):
        maps = self.features(images)
        return self.classifier(maps + self.features[1](maps))


class Branching(LeNet5):
    def forward(self, images):
        return super().forward(images) if images.sum() > 0 else super().forward(-images)


class Averaging(LeNet5):
    def forward(self, images):
        return super().forward(images).mean(dim=1, keepdim=True)


class Cutting(LeNet5):
    def forward(self, images):
        return super().forward(images[..., :32])


class Folding(LeNet5):
    def forward(self, images):
        return super().forward(images.view(-1, 1, 32, 32))


class Shifted(LeNet5):
    """Does something that a chain of its layers does not."""

    def __init__(self):
        super().__init__()
        self.features[3].register_forward_hook(lambda module, arguments, output: output + 1)


def with_layer(index: int, layer: nn.Module) -> LeNet5:
    network = LeNet5()
    network.features[index] = layer
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Residual(), r"Residual is not a chain \(add after features\.1\)"),
        (Branching(), "Branching cannot be traced"),
        (Averaging(), "mean of Averaging is not a supported layer"),
        (Cutting(), "getitem of Cutting is not a supported layer"),
        (Folding(), r"features\.0 of Folding is a Conv2d that does not accept 1024"),
        (Shifted(), "Shifted does not compute what its layers compute"),
        (with_layer(1, nn.Hardswish()), r"features\.1 of LeNet5 is a Hardswish: only chains of Conv2d, Linear"),
        (with_layer(0, nn.Conv2d(1, 6, 5, padding_mode="reflect")), r"features\.0 .* Conv2d with padding_mode=reflect"),
        (with_layer(2, nn.MaxPool2d(2, dilation=2, padding=1)), r"features\.2 of LeNet5 is a MaxPool2d with dilation"),
        (with_layer(1, nn.BatchNorm2d(6, track_running_stats=False)), r"features\.1 .*track_running_stats=False"),
    ],
)
def test_what_is_no_chain_of_known_layers_is_refused_by_name(network, message):
    with pytest.raises(InputError, match=message) as error:
        chain_of(Normalize([0.1], [0.3]), network.eval(), (1, 32, 32))
    assert "\n" not in str(error.value)
    assert "can be explored" in str(error.value)


def test_residual_networks_of_torchvision_are_refused():
    with pytest.raises(InputError, match=r"ResNet is not a chain \(add after layer1\.0\.bn2\)"):
        chain_of(nn.Identity(), torchvision.models.resnet18(num_classes=2).eval(), (3, 64, 64))


def test_diverged_network_is_refused():
    network = LeNet5().eval()
    nn.init.constant_(network.features[0].bias, float("nan"))
    with pytest.raises(InputError, match="diverged"):
        chain_of(nn.Identity(), network, (1, 32, 32))
