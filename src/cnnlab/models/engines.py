"""Engines that compute a network's outputs without gradients: torch, or a runtime that networks are exported to.

Every engine computes in float32 on the CPU, with batch normalization folded into the convolutions.
"""

import copy
import importlib.util
import io
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnlab.errors import InputError
from cnnlab.system.packages import version_of

AUTO, TORCH = "auto", "torch"
RUNTIMES = ("onnxruntime", "openvino")
"""The engines that networks are exported to; each is an extra of its name."""
TOLERANCE = 1e-3
"""Largest difference between the outputs of an engine and of torch, relative to the largest output."""
ROUNDING = 1e-4
"""Largest such difference where only the order of float32 operations differs."""
OPSET = 18
"""Version of the ONNX operators; both runtimes have known it since 2023."""

Engine = Callable[[Tensor], Tensor]
"""Maps preprocessed inputs, float32 N x ... with any N, to a network's outputs."""


class EngineError(RuntimeError):
    """Says why an engine cannot compute a network."""


def require_engine(setting: str) -> None:
    """Raise InputError for a value of speed.engine that is unknown or not installed."""
    if setting in (AUTO, TORCH):
        return
    if setting not in RUNTIMES:
        known = (AUTO, TORCH, *RUNTIMES)
        raise InputError(f"speed.engine={setting}: use {', '.join(known)}.")
    if not is_installed(setting):
        raise InputError(
            f"speed.engine={setting} is not installed. Install the extra with pip install 'cnnlab[{setting}]', or use "
            "speed.engine=auto."
        )


def is_installed(runtime: str) -> bool:
    """Return whether a runtime can be imported, and what exports networks to it."""
    return all(importlib.util.find_spec(package) is not None for package in (runtime, "onnx"))


def title_of(engine: str) -> str:
    """Return the name of an engine with its version; of torch, whose version is told elsewhere, only the name."""
    return engine if engine == TORCH else f"{engine} {version_of(engine)}"


def build_engine(name: str, network: nn.Module, inputs: Tensor) -> Engine:
    """Return an engine for `network`, which is in eval mode on the CPU and is left as it is.

    inputs: preprocessed, at least one; the outputs of the engine and of torch for them are compared.
    The engine uses as many threads as torch does now.
    Raises EngineError, with the end of a sentence, if the network cannot be exported or the outputs differ.
    """
    with torch.no_grad():
        expected = network.forward(inputs)
        if not isinstance(expected, Tensor):
            if name == TORCH:
                return network.forward
            raise EngineError(f"{type(network).__name__} returns a {type(expected).__name__}, not one tensor")
        plain = folded(network, inputs, expected)
        if name == TORCH:
            return plain.forward
        try:
            engine = BUILDERS[name](exported(plain, inputs), torch.get_num_threads())
        except ImportError as error:
            raise EngineError(f"it cannot be imported: {error}") from error
        difference = relative_error(engine(inputs), expected)
    if not difference < TOLERANCE:
        raise EngineError(f"its outputs differ from torch's by {difference:.1e} of the largest")
    return engine


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite if the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


def folded(network: nn.Module, inputs: Tensor, expected: Tensor) -> nn.Module:
    """Return a copy with batch normalization folded into convolutions; the network itself if nothing can be folded.

    A copy whose outputs for `inputs` differ from the expected ones, because its layers run in another order than they
    are defined in, is not returned either.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    shorter = fold_batch_norm(copy.deepcopy(network))
    if inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last):
        shorter = shorter.to(memory_format=torch.channels_last)
    return shorter if relative_error(shorter.forward(inputs), expected) < ROUNDING else network


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm2d that follows a convolution in the order of children into it, which is faster."""
    for child in module.children():
        fold_batch_norm(child)
    for (first, conv), (second, norm) in pairwise(module.named_children()):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels:
            setattr(module, first, fuse_conv_bn_eval(conv, norm))
            setattr(module, second, nn.Identity())
    return module


# --- Runtimes ---


def exported(network: nn.Module, inputs: Tensor) -> bytes:
    """Return the network as an ONNX model for any number of inputs; raise EngineError if it cannot be exported.

    It is traced, which takes a second where torch.export takes ten, longer than many evaluations; with another number
    of inputs than those whose outputs are compared, so that a number that became part of the model is noticed.
    """
    own, name = io.BytesIO(), type(network).__name__
    pair = inputs.repeat(2, *[1] * (inputs.ndim - 1))[: 3 if len(inputs) == 2 else 2]
    layout = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            torch.onnx.export(
                layout,
                (pair.contiguous(),),
                own,  # type: ignore[arg-type]  # a file in memory, which this exporter writes to
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=False,  # the runtimes do it, in less time
                input_names=["inputs"],
                output_names=["outputs"],
                dynamic_axes={"inputs": {0: "n"}, "outputs": {0: "n"}},
            )
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EngineError(f"{name} cannot be exported: {reason.rstrip('.')}") from error
    if any(issubclass(each.category, torch.jit.TracerWarning) for each in raised):
        raise EngineError(f"{name} cannot be exported: its forward pass takes Python's decisions by tensors")
    return own.getvalue()


def onnxruntime_engine(model: bytes, threads: int) -> Engine:
    """Return an engine that runs an ONNX model by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that wait without sleeping would take the cores from the processes that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = _built(lambda: onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))

    def run(inputs: Tensor) -> Tensor:
        (outputs,) = _built(lambda: session.run(None, {"inputs": inputs.contiguous().numpy()}))
        return torch.from_numpy(outputs)

    return run


def openvino_engine(model: bytes, threads: int) -> Engine:
    """Return an engine that runs an ONNX model by OpenVINO."""
    import openvino

    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    compiled = _built(lambda: core.compile_model(core.read_model(model), "CPU", hints))

    def run(inputs: Tensor) -> Tensor:
        outputs = _built(lambda: compiled(inputs.contiguous().numpy()))
        return torch.from_numpy(outputs[0].copy())  # the next call writes to the same memory

    return run


def _built(call: Callable[[], Any]) -> Any:
    """Return what `call` returns; raise EngineError for what a runtime raises, whose classes differ."""
    try:
        return call()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EngineError(f"it refuses the network: {reason.rstrip('.')}") from error


BUILDERS: dict[str, Callable[[bytes, int], Engine]] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
}
