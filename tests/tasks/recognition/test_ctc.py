"""CTC against the sum over all paths of tiny alphabets, spelt out."""

import itertools
import math
from collections import defaultdict

import pytest
import torch

from cnnlab.tasks.recognition.ctc import CTC, beam_search, blank_share, columns_needed, greedy, lines_of


def spelt(path: tuple[int, ...]) -> tuple[int, ...]:
    """What a path reads: repeats are one, then blanks go."""
    return tuple(output - 1 for output, _ in itertools.groupby(path) if output)


def texts_by_probability(probabilities: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Every text and the sum of the probabilities of its paths, one path after the other."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(probabilities.shape[1]), repeat=len(probabilities)):
        found[spelt(path)] += float(torch.stack([probabilities[t, k] for t, k in enumerate(path)]).double().prod())
    return found


def random_probabilities(columns: int, outputs: int, seed: int, sharpness: float = 2.0) -> torch.Tensor:
    return (sharpness * torch.randn(columns, outputs, generator=torch.Generator().manual_seed(seed))).softmax(1)


@pytest.mark.parametrize("seed", range(8))
def test_loss_is_the_sum_over_all_paths(seed):
    probabilities = random_probabilities(5, 3, seed)
    exact = texts_by_probability(probabilities)
    for text in [(0,), (1, 0), (0, 0), (1, 1, 0)]:
        targets = torch.tensor([[20, *text, -1, -1]])
        loss = CTC()(probabilities.log()[None], targets)
        assert float(loss) == pytest.approx(-math.log(exact[text]) / len(text), rel=1e-5)


def test_columns_beyond_the_image_do_not_count():
    inside = random_probabilities(4, 3, 0).log()
    targets = torch.tensor([[16, 1, 0]])
    longer = torch.cat([inside, random_probabilities(3, 3, 1).log()])
    assert CTC()(longer[None], targets) == CTC()(inside[None], targets)
    assert lines_of(longer[None], torch.tensor([16])) == lines_of(inside[None], torch.tensor([16]))


def test_text_that_needs_more_columns_than_there_are_has_no_gradient_instead_of_nan():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss = CTC()(logits, torch.tensor([[8, 0, 0]]))  # 0, blank, 0
    loss.backward()
    assert (loss.item(), float(logits.grad.abs().sum())) == (0.0, 0.0)


@pytest.mark.parametrize(("text", "columns"), [([], 0), ([3], 1), ([3, 3], 3), ([1, 2, 1], 3), ([1, 1, 1], 5)])
def test_columns_needed_are_those_of_the_shortest_path(text, columns):
    assert columns_needed(text) == columns
    shortest = next(n for n in range(9) if any(spelt(p) == tuple(text) for p in itertools.product(range(5), repeat=n)))
    assert shortest == columns


@pytest.mark.parametrize("seed", range(12))
def test_wide_beam_finds_the_most_probable_text(seed):
    probabilities = random_probabilities(6, 3, seed, sharpness=1.0)
    exact = texts_by_probability(probabilities)
    assert beam_search(probabilities, beam=200) == list(max(exact, key=exact.__getitem__))


def test_best_path_and_best_text_may_differ():
    probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4]])  # both columns blank: .36; all paths that read 0: .64
    assert greedy(probabilities).classes == []
    assert beam_search(probabilities, beam=4) == [0]


@pytest.mark.parametrize("seed", range(6))
def test_lexicon_leaves_only_its_texts(seed):
    probabilities = random_probabilities(6, 4, seed)
    lexicon = {(0, 1, 2), (2,), (1, 1), (0, 2, 0, 1)}
    exact = texts_by_probability(probabilities)
    assert beam_search(probabilities, 50, lexicon) == list(max(lexicon, key=lambda text: exact[text]))


def test_greedy_text_has_the_score_and_column_of_each_character():
    probabilities = torch.tensor([[0.1, 0.9, 0], [0.05, 0.95, 0], [0.8, 0.2, 0], [0.4, 0.6, 0], [0.1, 0.2, 0.7]])
    line = greedy(probabilities)
    assert (line.classes, line.columns) == ([0, 0, 1], [1, 3, 4])
    assert line.scores == pytest.approx([0.95, 0.6, 0.7])


def test_share_of_blanks_counts_columns_of_the_images_only():
    logits = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [1, 0]], [[0, 1.0], [1, 0], [0, 1], [0, 1]]])
    assert float(blank_share(logits, torch.tensor([8, 16]))) == pytest.approx(2 / 6)
