"""Random numbers of many images at once are those of torch's generator, seeded for one image after the other."""

import pytest
import torch

from cnnlab.data.draws import READY, TorchDraws, seeded_draws
from cnnlab.seeds import derive

SEEDS = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, *(derive("test", number) for number in range(40))]


@pytest.mark.parametrize(("low", "width"), [(0.0, 1.0), (-0.35, 2.05), (1e3, 1e-3), (-7.0, 0.0), (0.02, 0.31)])
@pytest.mark.parametrize(("count", "k"), [(1, 1), (2, 4), (29, 9), (2**28 - 1, 2)])
def test_draws_are_torchs(low, width, count, k):
    """More numbers than are computed in advance."""
    draws = seeded_draws(SEEDS)
    for seed, ours in zip(SEEDS, draws, strict=True):
        torch.manual_seed(seed)
        for _ in range(READY // 3):
            assert ours.uniform() == torch.rand(1).item()
            assert ours.uniform(low, low + width) == torch.empty(1).uniform_(low, low + width).item()
            assert ours.integer(count) == torch.randint(count, ()).item()
            assert ours.permutation(k) == torch.randperm(k).tolist()


def test_draws_of_torch_come_from_its_generator():
    torch.manual_seed(3)
    expected = [torch.rand(1).item(), torch.randint(9, ()).item(), torch.randperm(4).tolist()]
    torch.manual_seed(3)
    draws = TorchDraws()
    assert [draws.uniform(), draws.integer(9), draws.permutation(4)] == expected


def test_no_seeds_no_draws():
    assert seeded_draws([]) == []


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_draws_of_a_seed_do_not_depend_on_the_others(seed):
    alone, *_ = seeded_draws([seed])
    *_, last = seeded_draws([7, 8, seed])
    assert [alone.integer(1000) for _ in range(50)] == [last.integer(1000) for _ in range(50)]
