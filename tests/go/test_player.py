"""From probabilities to moves, with policies whose answers are known."""

import numpy as np
import pytest
import scipy.stats

from cnnlab.errors import InputError
from cnnlab.go.board import Board
from cnnlab.go.player import Player
from cnnlab.go.symmetries import SYMMETRIES, restore, transform


def constant(weights):
    """A policy that gives every position the same probabilities."""
    return lambda planes: np.repeat(weights.reshape(1, -1), len(planes), 0)


def weights(size=5, **chosen):
    board = np.full((size, size), 1e-6)
    for name, weight in chosen.items():
        board["abcde".index(name[0]), int(name[1])] = weight
    return board


def test_top_1_is_the_most_probable_sensible_move():
    board = Board(5)
    player = Player(constant(weights(a0=0.5, b1=0.3, c2=0.2)))
    assert player.choose(board, "B") == (0, 0)
    board.play("W", (0, 0))
    assert player.choose(board, "B") == (1, 1)


def test_own_eyes_are_never_filled_and_a_pass_follows_when_nothing_else_is_left():
    stones = [(row, column) for row in range(5) for column in range(5) if (row, column) not in ((0, 0), (0, 2), (4, 4))]
    board = Board(5, [("B", point) for point in stones])
    player = Player(constant(weights(a0=1.0, a2=1.0, e4=1.0)))
    assert player.choose(board, "B") is None
    assert player.choose(board, "W") is None  # suicide everywhere
    assert player.probabilities(board, "B")[0, 0] == 1.0


def test_a_pass_is_answered_by_a_pass():
    board = Board(5)
    board.play("W", None)
    player = Player(constant(weights(a0=1.0)))
    assert player.choose(board, "B") is None
    assert player.choose(board, "W") == (0, 0)


def test_eight_symmetries_are_averaged_over_boards_turned_back():
    """A policy that likes the top left corner of whatever it sees likes all four corners alike."""
    board = Board(5)
    player = Player(constant(weights(a0=1.0)), symmetries=8)
    shares = player.probabilities(board, "B")
    assert shares[[0, 0, 4, 4], [0, 4, 0, 4]] == pytest.approx(0.25, abs=1e-5)
    # One that looks at the board finds the same point in every view of it.
    board.play("W", (1, 3))
    seeing = Player(lambda planes: planes[:, 1].reshape(len(planes), -1), symmetries=8)
    assert seeing.probabilities(board, "B")[1, 3] == 1.0
    assert seeing.probabilities(board, "B").sum() == 1.0


def test_temperature_1_draws_by_the_probabilities_and_others_sharpen_or_flatten_them():
    board, draws = Board(5), 600
    for temperature, ratio in ((1.0, 3.0), (0.5, 9.0), (2.0, 3**0.5)):
        player = Player(constant(weights(a0=0.75, b1=0.25) * (weights(a0=1, b1=1) > 0.5)), temperature, seed=1)
        chosen = [player.choose(board, "B") for _ in range(draws)]
        assert set(chosen) == {(0, 0), (1, 1)}
        assert scipy.stats.binomtest(chosen.count((0, 0)), draws, ratio / (1 + ratio)).pvalue > 1e-3
    first, second = (Player(constant(weights()), 1.0, seed=7) for _ in range(2))
    assert [first.choose(board, "B") for _ in range(9)] == [second.choose(board, "B") for _ in range(9)]


@pytest.mark.parametrize("answer", [np.nan, np.inf, -1.0, 0.0])
def test_a_policy_of_no_numbers_still_leads_to_a_sensible_move(answer):
    board = Board(5)
    board.play("W", (0, 0))
    for temperature in (0.0, 1.0):
        point = Player(constant(np.full((5, 5), answer)), temperature).choose(board, "B")
        assert board.legal("B")[point]


def test_bad_options_and_answers_are_named():
    with pytest.raises(InputError, match="symmetries=4: use 1 or 8"):
        Player(constant(weights()), symmetries=4)
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="temperature="):
            Player(constant(weights()), temperature)
    with pytest.raises(InputError, match=r"shape \(1, 361\); this board needs \(1, 25\)"):
        Player(lambda planes: np.ones((len(planes), 361))).choose(Board(5), "B")


def test_options_of_the_planes_reach_the_policy():
    seen = []
    Player(lambda planes: seen.append(planes) or np.ones((1, 25)), features=12).choose(Board(5), "B")
    assert seen[0].shape == (1, 12, 5, 5)


def test_symmetries_are_eight_different_ones_and_are_undone():
    board = np.arange(9).reshape(3, 3)
    views = [transform(board, symmetry) for symmetry in SYMMETRIES]
    assert len({view.tobytes() for view in views}) == 8
    for symmetry, view in zip(SYMMETRIES, views, strict=True):
        np.testing.assert_array_equal(restore(view, symmetry), board)
    np.testing.assert_array_equal(transform(board, 1), [[2, 5, 8], [1, 4, 7], [0, 3, 6]])
