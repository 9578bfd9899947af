"""The processors that this process computes on."""

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
