"""The rules against the slow reference on random play, and case by case against the rule book."""

import numpy as np
import pytest
from go_reference import OTHER
from hypothesis import given, settings
from hypothesis import strategies as st
from random_play import random_game

from cnnlab.errors import InputError
from cnnlab.go.board import Board

GAMES = {"seed": st.integers(0, 2**32), "size": st.sampled_from([5, 6, 7, 9]), "length": st.integers(0, 120)}


def played(moves, size=19, setup=None):
    board = Board(size, setup)
    for colour, point in moves:
        board.play(colour, point)
    return board


def alternating(*points):
    return [("BW"[number % 2], point) for number, point in enumerate(points)]


def state(board):
    """What rules and planes read of a position in plain values: of each stone its chain's stones and liberties."""
    position, stones = board._position, [i for i, c in enumerate(board._position["colour"]) if c in (1, 2)]
    chains = {}
    for index in stones:
        circle, at = [index], int(position["next"][index])
        while at != index:
            circle.append(at)
            at = int(position["next"][at])
        chain = int(position["chain"][index])
        chains[index] = (frozenset(circle), int(position["stones"][chain]), position["sets"][chain].tobytes())
    return position["colour"].tobytes(), board.ko, chains


@given(**GAMES)
@settings(max_examples=100, deadline=None)
def test_random_games_agree_with_the_reference(seed, size, length):
    moves, reference = random_game(seed, size, length)
    board = played(moves, size)
    for point in reference.points:
        assert board.stone(point) == reference.stones.get(point)
        assert board.liberties(point) == (len(reference.chain(point)[1]) if point in reference.stones else 0)
    for colour in "BW":
        legal = {(row, column) for row, column in np.argwhere(board.legal(colour)).tolist()}
        assert legal == {point for point in reference.points if reference.legal(colour, point)}
    assert board.ko == (reference.ko[1] if reference.ko else None)


@given(**GAMES)
@settings(max_examples=50, deadline=None)
def test_undo_brings_back_the_position_before(seed, size, length):
    moves, _ = random_game(seed, size, length + 1)
    board = played(moves[:-1], size)
    before = state(board)
    board.play(*moves[-1])
    board.undo()
    assert state(board) == before
    assert board.moves == moves[:-1]


@given(**GAMES)
@settings(max_examples=50, deadline=None)
def test_reading_ladders_leaves_the_position_as_it_was(seed, size, length):
    board = played(random_game(seed, size, length)[0], size)
    before = state(board)
    for colour in "BW":
        board.planes(colour)
        assert state(board) == before


@given(**GAMES)
@settings(max_examples=50, deadline=None)
def test_every_chain_has_its_liberties_and_no_stone_belongs_to_two(seed, size, length):
    board = played(random_game(seed, size, length)[0], size)
    _, _, chains = state(board)
    for index, (circle, count, liberties) in chains.items():
        assert index in circle
        assert len(circle) == count
        assert any(liberties)
        assert all(chains[stone][0] == circle for stone in circle)


# Black has just captured the White stone at row 2, column 1.
KO = alternating((1, 1), (1, 2), (2, 0), (2, 3), (3, 1), (3, 2), (0, 4), (2, 1), (2, 2))


def test_simple_ko_forbids_the_recapture_until_another_turn():
    board = played(KO, 5)
    assert board.stone((2, 1)) is None
    assert board.ko == (2, 1)
    with pytest.raises(InputError, match=r"W at B3 is illegal: the ko forbids it\."):
        board.play("W", (2, 1))
    assert board.legal("B")[2, 1]
    board.play("W", (4, 4))
    board.play("B", (4, 3))
    board.play("W", (2, 1))
    assert board.ko == (2, 2)


@pytest.mark.parametrize("clearing", [("W", None), ("B", (4, 4))])
def test_pass_and_move_out_of_turn_clear_the_ko(clearing):
    board = played([*KO, clearing], 5)
    assert board.ko is None
    assert board.legal("W")[2, 1]


def set_up(*rows):
    """A board of five lines whose first rows are given."""
    stones = [(row, column, kind) for row, line in enumerate(rows) for column, kind in enumerate(line)]
    return Board(5, [("B" if kind == "X" else "W", (row, column)) for row, column, kind in stones if kind != "."])


def test_a_capture_of_two_stones_or_by_a_longer_chain_is_no_ko():
    two = set_up("OO...", "XX...", "O....")
    two.play("B", (0, 2))
    assert two.rows()[0] == "..X.."
    assert two.ko is None
    longer = set_up("O.XO.", "XOO..")
    longer.play("B", (0, 1))
    assert longer.rows()[0] == ".XXO."
    assert longer.ko is None
    assert longer.legal("W")[0, 0]


def test_suicide_of_one_stone_and_of_a_chain_is_illegal_unless_it_captures():
    board = set_up(".XO..", "XX...", "O....")
    assert not board.legal("W")[0, 0]
    with pytest.raises(InputError, match=r"W at A5 is illegal: it is suicide\."):
        board.play("W", (0, 0))
    board = set_up("X.O..", "OO...")
    assert not board.legal("B")[0, 1]
    board.play("W", (0, 1))
    assert board.rows()[0] == ".OO.."


def test_one_move_captures_chains_on_four_sides():
    setup = [("W", point) for point in ((1, 2), (2, 1), (2, 3), (3, 2))]
    setup += [("B", point) for point in ((0, 2), (1, 1), (1, 3), (2, 0), (2, 4), (3, 1), (3, 3), (4, 2))]
    board = Board(5, setup)
    board.play("B", (2, 2))
    assert board.rows() == ["..X..", ".X.X.", "X.X.X", ".X.X.", "..X.."]
    assert board.liberties((2, 2)) == 4


@pytest.mark.parametrize("size", [5, 25])
def test_the_corners_of_the_smallest_and_largest_board_are_apart(size):
    last = size - 1
    board = Board(size)
    for colour, point in zip("BWBW", [(0, 0), (0, last), (last, 0), (last, last)], strict=True):
        board.play(colour, point)
        assert board.liberties(point) == 2
    board.play(OTHER["B"], (0, 1))
    assert board.liberties((0, 0)) == 1


def test_what_is_no_board_or_point_is_named():
    for size in (1, 4, 26, 52):
        with pytest.raises(InputError, match=f"A board must have 5 to 25 lines, got {size}"):
            Board(size)
    with pytest.raises(InputError, match=r"Row 19, column 0 is off the board of 19 lines"):
        Board().play("B", (19, 0))
    with pytest.raises(InputError, match="colour of a move must be B or W, got 'black'"):
        Board().play("black", (0, 0))
    with pytest.raises(InputError, match="B at A19 is illegal: the point is occupied"):
        played(alternating((0, 0), (1, 1))).play("B", (0, 0))
    with pytest.raises(InputError, match="No move has been played"):
        Board().undo()
    with pytest.raises(InputError, match=r"set-up stone at A5 has no liberty"):
        Board(5, [("B", (0, 0)), ("W", (0, 1)), ("W", (1, 0))])
    with pytest.raises(InputError, match="at most one stone on a point"):
        Board(5, [("B", (0, 0)), ("W", (0, 0))])
