"""Seeds derived from the run's seed and the purpose of each generator; generator states are never saved.

A resumed run therefore continues exactly as if it had never stopped, and the number of workers does not matter.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part, for example `derive(seed, "augment", epoch, index)`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@contextmanager
def derived_rng(*parts: int | str) -> Iterator[None]:
    """Seed torch's CPU generator with `derive(*parts)` inside the block and restore its state afterwards."""
    import torch

    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(derive(*parts))
    try:
        yield
    finally:
        generator.set_state(state)


def seed_generators(seed: int, device: "torch.device") -> None:
    """Seed torch's CPU generator, and that of `device` if it is a GPU.

    Used instead of `torch.manual_seed`, which queues a stack trace for every call made before CUDA is initialized and
    never frees it.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
