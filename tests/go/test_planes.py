"""The 48 planes: published boards, symmetries, the slow reference, and the semantics that the table leaves open."""

import json

import numpy as np
import pytest
from go_reference import Reference, reference_planes
from hypothesis import given, settings
from hypothesis import strategies as st
from random_play import random_game
from real_games import real_games

from cnnlab.errors import InputError
from cnnlab.go.planes import board_planes, game_planes, planes_at
from cnnlab.go.positions import decode, encode
from cnnlab.go.symmetries import SYMMETRIES, restore, transform

GAMES = {"seed": st.integers(0, 2**32), "size": st.sampled_from([5, 6, 7, 9]), "length": st.integers(0, 100)}
# The eight symmetries by coordinates, independent of cnnlab.go.symmetries.
COORDINATES = [
    lambda r, c, last: (r, c),
    lambda r, c, last: (last - c, r),
    lambda r, c, last: (last - r, last - c),
    lambda r, c, last: (c, last - r),
    lambda r, c, last: (r, last - c),
    lambda r, c, last: (c, r),
    lambda r, c, last: (last - r, c),
    lambda r, c, last: (last - c, last - r),
]


def points(plane):
    return {tuple(point) for point in np.argwhere(plane).tolist()}


def test_every_published_board_plane_by_plane(shared_data):
    cases = json.loads((shared_data / "go" / "feature_cases.json").read_text())
    assert len(cases) == 20
    for case in cases:
        planes = board_planes(case["rows"], case["to_play"], case["ko"], case["moves_row_col"])
        listed = {int(name.split(":")[0]): stones for name, stones in case["planes"].items()}
        for plane in range(48):
            expected = {tuple(point) for point in listed.get(plane, [])}
            if plane == 2:
                expected = points(np.array([list(row) for row in case["rows"]]) == ".")
            elif plane == 3:
                expected = points(np.ones((case["size"],) * 2))
            assert points(planes[plane]) == expected, (case["name"], plane)


@pytest.mark.parametrize(("capture_encoding", "eye"), [("0to7", "recursive"), ("1to8", "simple")])
def test_random_games_agree_with_the_reference(capture_encoding, eye):
    @given(**GAMES)
    @settings(max_examples=12, deadline=None)
    def check(seed, size, length):
        moves, _ = random_game(seed, size, length)
        options = {"capture_encoding": capture_encoding, "eye": eye}
        turn = 1 + length // 2
        planes, labels = game_planes(moves[:turn], size, **options)
        expected, expected_labels = reference_planes(moves[:turn], size, **options)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(planes, expected)

    check()


def test_real_positions_agree_with_the_reference(shared_data):
    rng = np.random.default_rng(0)
    for moves in real_games(shared_data, 4):
        number = int(rng.integers(60, 200))
        planes, _ = game_planes(moves[: number + 2])
        np.testing.assert_array_equal(planes[number:], reference_planes(moves[: number + 2], only=number)[0])


def test_planes_of_a_transformed_game_are_the_transformed_planes(shared_data):
    for moves in real_games(shared_data, 1):
        planes, labels = game_planes(moves)
        for symmetry, coordinates in enumerate(COORDINATES):
            moved = [(colour, point and coordinates(*point, 18)) for colour, point in moves]
            other, other_labels = game_planes(moved)
            np.testing.assert_array_equal(other, transform(planes, symmetry))
            np.testing.assert_array_equal(restore(other, symmetry), planes)
            spots = np.eye(361, dtype=np.uint8)[labels].reshape(-1, 19, 19)
            np.testing.assert_array_equal(transform(spots, symmetry).reshape(-1, 361).argmax(1), other_labels)
    assert len(SYMMETRIES) == len(COORDINATES)


def test_a_ladder_across_the_whole_board_is_read():
    setup = [("W", (2, 2)), ("B", (1, 2)), ("B", (2, 1)), ("B", (1, 3))]
    planes, _ = game_planes([("B", (9, 0))], 19, setup)
    assert points(planes[0, 44]) == {(3, 2)}
    broken, _ = game_planes([("B", (9, 0))], 19, [*setup, ("W", (16, 15))])
    assert points(broken[0, 44]) == set()
    largest, _ = game_planes([("B", (9, 0))], 25, setup)
    assert points(largest[0, 44]) == {(3, 2)}


# A position of a real game, Black to move: the White stones at the top left can be chased for ever.
ENDLESS = [
    ".....XO.O.OXX.XX...",
    "...O.OXO.O.X.XOOX..",
    "..O.OOXXOOXXXO.OX..",
    "..XOX.X.XOXOOO.OX..",
    ".XX..X.XOOXO.OO....",
    ".OX.X.XXXOXOOX.....",
    ".O.OXXOOOXXXOOXO...",
    "X.OOOOXOOOXXXXO....",
    "OOXXOOXXOOOXOO.OX..",
    ".XXO.OOXX.OOO..X...",
    "..XO.OXX...X.......",
    "...OOX.............",
    "..XXXX.............",
    "...O............X..",
    "..O........O.......",
    "..OX..XXXOO.O..O...",
    "...OXX...XXO.O.....",
    "...O.XX.X.XXO......",
    "......X..X.X.......",
]


def test_a_chase_that_repeats_itself_has_failed():
    stones = [("B" if kind == "X" else "W", (r, c)) for r, row in enumerate(ENDLESS) for c, kind in enumerate(row)]
    setup = [stone for stone in stones if ENDLESS[stone[1][0]][stone[1][1]] != "."]
    for colour, to_play in (("B", "X"), ("W", "O")):
        planes = board_planes(ENDLESS, to_play)
        np.testing.assert_array_equal(planes, Reference(19, setup).planes(colour))
    assert points(board_planes(ENDLESS, "X")[44]) == {(1, 10)}


def test_a_board_of_diagonal_eyes_is_judged_at_once():
    """A board of nothing but eyes has more paths from eye to eye than a search along them could ever walk."""
    rows = ["".join("X."[(row + column) % 2] for column in range(19)) for row in range(19)]
    planes = board_planes(rows, "X")
    assert planes[46].sum() == 0
    assert board_planes([*rows[:-1], "O" + rows[-1][1:].replace("X", ".")], "X")[46].sum() > 0


def test_ages_count_passes_and_setup_stones_are_the_oldest():
    setup = [("B", (3, 3))]
    planes, labels = game_planes([("W", (5, 5)), ("B", None), ("W", (6, 6)), ("W", (7, 7))], 9, setup)
    assert labels.tolist() == [50, 60, 70]
    assert [points(planes[1, plane]) for plane in (4, 5, 11)] == [set(), {(5, 5)}, {(3, 3)}]
    assert [points(planes[2, plane]) for plane in (4, 5, 6, 11)] == [{(6, 6)}, set(), {(5, 5)}, {(3, 3)}]
    assert points(planes[2, 0]) == {(5, 5), (6, 6)}  # White's, although White moved last


def test_ages_end_in_the_last_plane_and_start_anew_where_a_stone_is_played_again():
    line = [("BW"[column % 2], (8, column)) for column in range(9)]
    planes, _ = game_planes([*line, ("B", (0, 0))], 9)
    assert [points(planes[-1, plane]) for plane in range(4, 11)] == [{(8, 8 - age)} for age in range(7)]
    assert points(planes[-1, 11]) == {(8, 0), (8, 1)}
    capture = [("B", (0, 1)), ("W", (0, 0)), ("B", (1, 0)), ("W", (4, 4)), ("B", (0, 0)), ("W", (4, 3))]
    planes, _ = game_planes(capture, 5)
    assert points(planes[4, 2]) >= {(0, 0)}
    assert points(planes[5, 4]) == {(0, 0)}


def test_capture_encodings_differ_by_one_plane():
    rows = ["XO...", "XO...", ".XXO.", "XO...", "....."]
    first, second = (board_planes(rows, "O", capture_encoding=encoding) for encoding in ("0to7", "1to8"))
    assert points(first[22]) == points(second[21]) == {(2, 0)}  # two stones
    assert points(first[20:28].sum(0)) == points(first[36:44].sum(0))  # every legal move captures 0 or more
    assert points(second[20:28].sum(0)) == {(2, 0)}


def test_eye_options_differ_where_a_diagonal_is_empty():
    rows = [".X...", "X....", ".....", ".....", "....."]
    assert board_planes(rows, "X", eye="recursive")[46, 0, 0] == 1
    assert board_planes(rows, "X", eye="simple")[46, 0, 0] == 0
    assert board_planes(rows, "O", eye="simple")[46, 0, 0] == 0  # suicide, so not legal


@pytest.mark.parametrize("features", [4, 12, 20])
def test_fewer_features_are_the_first_planes(features, shared_data):
    (moves,) = real_games(shared_data, 1)
    np.testing.assert_array_equal(game_planes(moves, features=features)[0], game_planes(moves)[0][:, :features])


def test_planes_of_chosen_moves_are_those_of_the_whole_game(shared_data):
    (moves,) = real_games(shared_data, 1)
    codes = encode(moves)
    assert codes.dtype == np.uint16
    assert decode(codes) == moves
    planes, labels = game_planes(moves)
    for numbers in ([0], [len(moves) - 1], [3, 4, 150], range(0, len(moves), 7)):
        some, some_labels = planes_at(codes, numbers)
        np.testing.assert_array_equal(some, planes[list(numbers)])
        np.testing.assert_array_equal(some_labels, labels[list(numbers)])


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"Move 1 \(W at A19\) is illegal: the point is occupied"):
        game_planes([("B", (0, 0)), ("W", (0, 0))])
    with pytest.raises(InputError, match="off the board of 9 lines"):
        game_planes([("B", (9, 0))], 9)
    with pytest.raises(InputError, match="5 to 25 lines, got 52"):
        game_planes([], 52)
    with pytest.raises(InputError, match="features=13: use 4, 12, 20 or 48"):
        game_planes([], features=13)
    with pytest.raises(InputError, match="capture_encoding=2to9"):
        game_planes([], capture_encoding="2to9")
    with pytest.raises(InputError, match="eye=glass"):
        game_planes([], eye="glass")
    with pytest.raises(InputError, match="Move 1 is a pass"):
        planes_at(encode([("B", (0, 0)), ("W", None)]), [1])
    for numbers in ([1, 0], [2], [-1], [0, 0]):
        with pytest.raises(InputError, match="ascending and below 2"):
            planes_at(encode([("B", (0, 0)), ("W", (1, 1))]), numbers)
    with pytest.raises(InputError, match="off the board of 5 lines"):
        planes_at(np.array([25], np.uint16), [0], 5)
    with pytest.raises(InputError, match="Rows must form a square"):
        board_planes(["....."] * 4, "X")
    with pytest.raises(InputError, match="to_play='x'"):
        board_planes(["....."] * 5, "x")


def test_a_game_without_moves_has_no_planes():
    planes, labels = game_planes([])
    assert planes.shape == (0, 48, 19, 19)
    assert labels.shape == (0,)
    assert (planes.dtype, labels.dtype) == (np.uint8, np.int64)
