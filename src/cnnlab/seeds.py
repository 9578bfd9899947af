"""Randomness is derived, never restored: every generator is a pure function of what it is used for.

A resumed run therefore continues exactly as if it had never stopped, and the number of workers changes nothing.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, such as `derive(seed, "augment", epoch, index)`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextmanager
def derived_rng(*parts: int | str) -> Iterator[None]:
    """Seed torch's CPU generator with `derive(*parts)` inside the block, and give the old state back after it."""
    import torch

    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(derive(*parts))
    try:
        yield
    finally:
        generator.set_state(state)


def seed_generators(seed: int, device: "torch.device") -> None:
    """Seed the generators of the CPU and of `device` if it is a GPU.

    `torch.manual_seed` without a CUDA context keeps a stack trace of every call for later: 0.1 ms a step, never freed.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
