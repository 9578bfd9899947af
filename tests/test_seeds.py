"""Seeds are functions of what they are for, the same in every process and on every machine."""

import hashlib

import pytest
import torch

from cnnlab.seeds import derive, derived_rng


@pytest.mark.parametrize(
    ("parts", "text", "seed"),
    [
        ((0, "augment", 3, 17), b"0/augment/3/17", 1874120953320323877),
        ((42, "split"), b"42/split", 5155447609778941116),
    ],
)
def test_seed_is_the_published_function_of_its_parts(parts, text, seed):
    """The literal values keep runs of today and of tomorrow equal."""
    first_eight = hashlib.blake2b(text, digest_size=8).hexdigest()
    assert derive(*parts) == int(first_eight, 16) // 2 == seed


def test_every_part_and_their_order_counts():
    parts = [
        (0,),
        (1,),
        (0, "order"),
        (0, "augment"),
        *((0, "augment", epoch, index) for epoch in range(10) for index in range(50)),
        ("augment", 0),
    ]
    assert len({derive(*part) for part in parts}) == len(parts) == 505


def test_seeds_fill_63_bits():
    seeds = [derive("bits", number) for number in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        ones = sum(seed >> bit & 1 for seed in seeds)
        assert 850 < ones < 1150, bit  # 1000 +- 6.7 standard deviations


def test_generator_is_given_back_as_it_was():
    torch.manual_seed(5)
    torch.rand(3)
    before = torch.get_rng_state()
    with derived_rng(0, "step", 1):
        torch.rand(10)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), derived_rng(0, "step", 1):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_parts_give_equal_numbers_and_others_others():
    drawn = []
    for parts in ((1, "step", 7), (1, "step", 7), (1, "step", 8)):
        torch.rand(4)  # what was drawn before does not matter
        with derived_rng(*parts):
            drawn.append(torch.rand(4))
    expected = torch.rand(4, generator=torch.Generator().manual_seed(derive(1, "step", 7)))
    assert torch.equal(drawn[0], expected)
    assert torch.equal(drawn[1], expected)
    assert not torch.equal(drawn[2], expected)
