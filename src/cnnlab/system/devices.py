"""The processors that this process computes on."""

import platform
from pathlib import Path
from typing import Any

import torch

from cnnlab.errors import InputError
from cnnlab.system.processes import cores


def require_device(accelerator: str) -> None:
    """Raise InputError if a GPU is asked for where there is none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator={accelerator}: this machine has no CUDA GPU. Use trainer=cpu or trainer=auto."
        )


def set_threads(count: int | None) -> None:
    """Set this process's CPU threads; None uses every core the process may run on."""
    torch.set_num_threads(count or min(torch.get_num_threads(), cores()))


def device_of(accelerator: str, devices: Any) -> torch.device:
    """Return the first device that Lightning would train on, given trainer.accelerator and trainer.devices.

    Every accelerator other than CPUs and GPUs of CUDA is "meta".
    """
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", devices[0] if isinstance(devices, list) and devices else 0)
    is_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available())
    return torch.device("cpu" if is_cpu else "meta")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 arithmetic and does not emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def processor_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
