"""Random numbers of augmentations, in one image's stream or in those of many images at once."""

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch

READY = 32
"""Random words computed for each image in advance; an image that needs more gets them one by one."""
SHIFT = 397
"""Distance of the words of MT19937's state that make an output."""
SINGLE = struct.Struct("f")


class Draws(Protocol):
    """The random numbers of one image, in the order in which its augmentations draw them."""

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a float32 number of [low, high)."""
        ...

    def integer(self, count: int) -> int:
        """Return a number of 0 ... count - 1; count: less than 2^28, from which on torch takes two words."""
        ...

    def permutation(self, count: int) -> list[int]:
        """Return 0 ... count - 1 in random order."""
        ...


class TorchDraws:
    """Draws of torch's default generator on the CPU."""

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integer(self, count: int) -> int:
        return int(torch.randint(count, ()).item())

    def permutation(self, count: int) -> list[int]:
        return torch.randperm(count).tolist()


class SeededDraws:
    """The draws of torch's generator after `manual_seed(seed)`, without its calls, which cost microseconds each.

    words: the first outputs of MT19937 for the seed, each of 32 bits.
    """

    def __init__(self, seed: int, words: Sequence[int]) -> None:
        self._words = _continued(seed, words)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        share = (next(self._words) & 0xFFFFFF) * 2.0**-24  # as many bits as a float32 has
        first, width, last = _interval(low, high)
        number = _single(share * width + first)
        return first if number == last else number

    def integer(self, count: int) -> int:
        return next(self._words) % count

    def permutation(self, count: int) -> list[int]:
        order = list(range(count))
        for place in range(count - 1):
            other = place + self.integer(count - place)
            order[place], order[other] = order[other], order[place]
        return order


def seeded_draws(seeds: Sequence[int]) -> list[SeededDraws]:
    """Return the draws of each seed, faster than by seeding one generator after the other."""
    return [SeededDraws(seed, words) for seed, words in zip(seeds, first_words(seeds).tolist(), strict=True)]


def first_words(seeds: Sequence[int]) -> np.ndarray:
    """Return the first READY outputs of MT19937 for each seed, uint32 N x READY (Matsumoto and Nishimura 1998).

    Only the lower 32 bits of a seed count, as in torch's generator.
    """
    state = np.empty((SHIFT + READY, len(seeds)), np.uint32)
    state[0] = np.array(seeds, np.uint64).astype(np.uint32)
    for row in range(1, len(state)):
        before = state[row - 1]
        state[row] = (before ^ (before >> 30)) * np.uint32(1812433253) + np.uint32(row)
    mixed = (state[:READY] & np.uint32(0x80000000)) | (state[1 : READY + 1] & np.uint32(0x7FFFFFFF))
    words = state[SHIFT:] ^ (mixed >> 1) ^ np.where(mixed & 1, np.uint32(0x9908B0DF), np.uint32(0))
    words ^= words >> 11
    words ^= (words << 7) & np.uint32(0x9D2C5680)
    words ^= (words << 15) & np.uint32(0xEFC60000)
    words ^= words >> 18
    return words.T


def _single(number: float) -> float:
    """Round to single precision."""
    return SINGLE.unpack(SINGLE.pack(number))[0]


@cache
def _interval(low: float, high: float) -> tuple[float, float, float]:
    """Return beginning, width and end of an interval in single precision."""
    first, last = _single(low), _single(high)
    return first, _single(last - first), last


def _continued(seed: int, words: Sequence[int]) -> Iterator[int]:
    """Yield the given outputs of MT19937 for `seed`, then those that follow."""
    yield from words
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    generator.bytes(4 * len(words))
    while True:
        yield int.from_bytes(generator.bytes(4), "little")
