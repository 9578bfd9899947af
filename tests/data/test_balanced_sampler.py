"""data.sampler=balanced: equal shares of the classes, no image more often than another of its class, nothing random."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import DIGITS, interrupt_at_epoch, parts_of_a_run, train_in_process

from cnnlab.data.sampling import BalancedSampler


def drawn(labels: np.ndarray, epoch: int, seed: int = 0, world_size: int = 1) -> list[list[tuple[int, int]]]:
    samplers = [BalancedSampler(labels, seed, world_size, rank) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), epoch=st.integers(0, 50))
def test_every_class_has_its_share_of_every_epoch(counts, epoch):
    labels = np.repeat(np.arange(len(counts)), counts)
    (draws,) = drawn(labels, epoch)
    assert len(draws) == len(labels)
    share = len(labels) / np.count_nonzero(counts)
    per_class = Counter(labels[index] for _, index in draws)
    assert all(abs(per_class[label] - share) < 1 for label, count in enumerate(counts) if count)


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=4), world_size=st.integers(1, 3))
def test_images_of_a_class_take_turns_and_no_draw_is_repeated(counts, world_size):
    labels = np.repeat(np.arange(len(counts)), counts)
    every = [draw for epoch in range(5) for (draws) in drawn(labels, epoch) for draw in draws]
    assert len(set(every)) == len(every)  # a repeated image is augmented in another way
    seen = Counter(index for _, index in every)
    for label in range(len(counts)):
        times = [seen[index] for index in np.flatnonzero(labels == label)]
        assert max(times) - min(times) <= 1
    for epoch in range(2):  # ranks share what one process draws
        (whole,) = drawn(labels, epoch)
        parts = drawn(labels, epoch, world_size=world_size)
        assert {len(part) for part in parts} == {len(labels) // world_size}
        kept = len(labels) // world_size * world_size
        assert Counter(draw for part in parts for draw in part) == Counter(whole[:kept])


def test_order_depends_on_seed_and_epoch_only():
    labels = np.array([0] * 30 + [1] * 3)
    assert drawn(labels, 3) == drawn(labels, 3)
    assert drawn(labels, 3) != drawn(labels, 4)
    assert drawn(labels, 3) != drawn(labels, 3, seed=1)


RUN = (
    *(each for each in DIGITS if each != "augmentation=none"),
    *("data.sampler=balanced", "speed=exact", "speed.num_threads=1", "trainer.max_epochs=3", "data.batch_size=64"),
    *("data.images_per_class=20", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
    "augmentation=[shift]",
)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path, monkeypatch):
    train_in_process(tmp_path / "whole" / "run", *RUN)
    with monkeypatch.context() as patch:
        interrupt_at_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(tmp_path / "part" / "run", *RUN)
    train_in_process(tmp_path / "part" / "run", *RUN, resume=True)
    states = [
        torch.load(tmp_path / name / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "part")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("memory_gib", [0.0, 2.0])
def test_batches_are_balanced_from_memory_and_from_workers_loaders(memory_gib, tmp_path):
    _, _, data = parts_of_a_run(tmp_path / "run", *RUN, f"data.memory_gib={memory_gib}")
    train = data.parts.train
    rare = np.flatnonzero((train.labels != 3) | (np.arange(len(train)) % 7 == 0))
    data.parts = replace(data.parts, train=train.subset(rare))
    labels = torch.cat([targets for _, targets in data.train_dataloader()])
    assert Counter(data.parts.train.labels.tolist())[3] < 4
    assert Counter(labels.tolist())[3] == pytest.approx(len(labels) / 10, abs=3)
