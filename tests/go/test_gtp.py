"""GTP 2: every command, every refusal, and any garbage; with a policy whose answers are known."""

import io

import numpy as np
import pytest
from gnugo import Opponent, ask, needs_gnugo
from go_engine import by_rows, engine

from cnnlab.go.gtp import LONGEST_LINE, Engine, serve
from cnnlab.go.player import Player
from cnnlab.go.positions import vertex

REQUIRED = {"protocol_version", "name", "version", "known_command", "list_commands", "quit", "boardsize", "clear_board"}
REQUIRED |= {"komi", "play", "genmove"}


def replies(*commands, size=5, at=None):
    """The replies to commands, without the trailing empty line."""
    at = at or engine(size)
    answers = [at.answer(command.encode() + b"\n") for command in commands]
    assert all(answer.endswith("\n\n") and "\n\n" not in answer[:-2] for answer in answers if answer)
    return [answer[:-2] for answer in answers]


def session(text):
    """What `serve` writes for a whole input."""
    output = io.BytesIO()
    serve(engine(), io.BytesIO(text), output)
    return output.getvalue().decode()


def test_required_commands_are_there_and_known():
    at = engine()
    listed = replies("list_commands", at=at)[0][2:].split("\n")
    assert set(listed) >= REQUIRED
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert replies(f"known_command {name}", at=at) == ["= true"]
    assert replies("known_command fly", "known_command", at=at) == ["= false", "= false"]
    assert replies("protocol_version", "name", at=at) == ["= 2", "= cnnlab"]


def test_identifiers_comments_blank_lines_and_control_characters():
    at = engine()
    assert at.answer(b"  12\tpro\x07tocol_version # why not\r\n") == "=12 2\n\n"
    assert at.answer(b"007 fly\n") == "?007 unknown command\n\n"
    assert at.answer(b"# a comment\n") == at.answer(b"\n") == at.answer(b" \t \r\n") == ""


def test_a_game_of_moves_out_of_turn_and_undo():
    at = engine()
    assert replies("play b c3", "PLAY W A5", at=at) == ["= ", "? unknown command"]
    assert replies("play W A5", "play white B5", "play black pass", at=at) == ["= "] * 3
    assert at.board.moves == [("B", (2, 2)), ("W", (0, 0)), ("W", (0, 1)), ("B", None)]
    assert replies("undo", "undo", "undo", "undo", "undo", at=at) == ["= "] * 4 + ["? cannot undo"]
    assert at.board.moves == []


@pytest.mark.parametrize("command", ["play w c3", "play b c3", "play w A1"])
def test_illegal_moves_are_refused_and_change_nothing(command):
    at = engine()
    replies("play b a2", "play b b1", "play b c3", at=at)
    before = at.board.rows()
    assert replies(command, at=at) == ["? illegal move"]
    assert at.board.rows() == before


@pytest.mark.parametrize(
    "command",
    [
        *[
            "play",
            "play b",
            "play x a1",
            "play b i3",
            "play b a0",
            "play b a6",
            "play b f1",
            "play b 33",
            "play b resign",
        ],
        *["komi", "komi six", "komi nan", "komi 1e999", "boardsize", "boardsize big", "genmove", "genmove green"],
        *["time_left b 3", "time_left 3 3", "time_settings 1 2", "time_settings 1 2 x", "time_settings 1 2 3 4"],
        *["kgs-time_settings", "kgs-time_settings fischer 1 2", "kgs-time_settings canadian 1", "loadsgf"],
        *[
            "fixed_handicap",
            "fixed_handicap two",
            "set_free_handicap A1 Z9",
            "cnnlab-probabilities",
            "cnnlab-top_moves q",
        ],
    ],
)
def test_syntax_errors(command):
    assert replies(command) == ["? syntax error"]


def test_boardsize_clears_and_only_takes_what_the_policy_plays():
    at = Engine(Player(by_rows))
    replies("play b a1", at=at)
    for size in (1, 9, 26, 52, -19):
        assert replies(f"boardsize {size}", at=at) == ["? unacceptable size"]
    assert at.board.moves
    assert replies("boardsize 19", at=at) == ["= "]
    assert not at.board.moves
    replies("play b a1", "clear_board", "komi 7.5", at=at)
    assert (at.board.moves, at.komi) == ([], 7.5)


def test_genmove_plays_reg_genmove_does_not():
    at = engine()
    assert replies("reg_genmove b", "genmove b", "genmove w", at=at) == ["= A5", "= A5", "= B5"]
    assert at.board.moves == [("B", (0, 0)), ("W", (0, 1))]
    assert replies("play b pass", "genmove w", at=at) == ["= ", "= pass"]


def test_a_game_against_itself_ends_with_passes_and_without_an_illegal_move():
    at, moves = engine(7, temperature=1.0), []
    while moves[-2:] != ["= pass", "= pass"]:
        moves += replies(f"genmove {'bw'[len(moves) % 2]}", at=at)
        assert len(moves) < 2000
    assert all(move.startswith("= ") for move in moves)


HANDICAP = ("boardsize", "fixed_handicap")


@needs_gnugo
def test_fixed_handicaps_are_those_of_gnugo():
    cases = [(size, stones) for size in (7, 8, 9, 12, 13, 18, 19) for stones in range(2, 10)]
    allowed = [(size, stones) for size, stones in cases if stones <= 4 or (size % 2 and size > 7)]
    theirs = ask([f"{line} {value}" for case in allowed for line, value in zip(HANDICAP, case, strict=True)])[1::2]
    for (size, stones), points in zip(allowed, theirs, strict=True):
        at = engine(size)
        (ours,) = replies(f"fixed_handicap {stones}", at=at)
        assert set(ours[2:].split()) == set(points.split())
        assert {vertex(point, size) for _, point in at.board.setup} == set(points.split())
        assert sum(row.count("X") for row in at.board.rows()) == stones
    for size, stones in set(cases) - set(allowed):
        assert replies(f"fixed_handicap {stones}", size=size) == ["? invalid number of stones"]


def test_handicaps_need_an_empty_board_and_a_number_that_fits():
    assert replies("fixed_handicap 10", "fixed_handicap 1", size=19) == ["? invalid number of stones"] * 2
    assert replies("fixed_handicap 5", size=8) == ["? invalid number of stones"]
    assert replies("place_free_handicap 2", size=5) == ["? invalid number of stones"]
    at = engine(9)
    assert len(replies("place_free_handicap 20", at=at)[0].split()) == 1 + 9
    assert replies("fixed_handicap 2", "set_free_handicap A1 B2", at=at) == ["? board not empty"] * 2
    assert replies("undo", at=at) == ["? cannot undo"]
    assert replies("clear_board", "set_free_handicap A1 b2 C3", at=at) == ["= ", "= "]
    assert at.board.rows()[-3:] == ["..X......", ".X.......", "X........"]
    for bad in ("A1", "A1 A1", "A1 pass", ""):
        assert replies(f"set_free_handicap {bad}", size=9) == ["? bad vertex list"]


def test_loadsgf_goes_to_before_a_move(tmp_path):
    path = tmp_path / "my game.sgf"
    path.write_text("(;SZ[9]KM[0.5]AB[aa];W[ee];B[cc];W[])")
    at = engine(9)
    assert replies(f"loadsgf {path}", at=at) == ["= "]
    assert (len(at.board.moves), at.komi, at.board.stone((0, 0))) == (3, 0.5, "B")
    assert replies(f"loadsgf {path} 2", at=at) == ["= "]
    assert at.board.moves == [("W", (4, 4))]
    (tmp_path / "bad.sgf").write_text("(;SZ[9];B[ee];W[ee])")
    (tmp_path / "small.sgf").write_text("(;SZ[5];B[cc])")
    only_nine = Engine(Player(by_rows), 9, sizes=(9,))
    for name, why in (("bad", "illegal"), ("small", "5 lines"), ("missing", "does not exist")):
        (reply,) = replies(f"loadsgf {tmp_path / name}.sgf", at=only_nine)
        assert reply.startswith("? cannot load file")
        assert why in reply


def test_times_are_accepted_and_scoring_is_refused():
    commands = [
        "time_settings 600 30 5",
        "time_left b 12 0",
        "kgs-time_settings none",
        "kgs-time_settings byoyomi 9 3 5",
    ]
    assert replies(*commands) == ["= "] * 4
    assert replies("final_score")[0].startswith("? cannot score")


def test_showboard_shows_stones_and_coordinates():
    lines = replies("play b a1", "play w e5", "showboard")[-1].split("\n")
    assert lines[1:3] == ["   A B C D E", " 5 . . . . O 5"]
    assert lines[6] == " 1 X . . . . 1"
    assert "2 moves, the last W E5" in lines[-1]


def test_gogui_commands_show_the_probabilities():
    at = engine()
    for line in replies("gogui-analyze_commands", at=at)[0][2:].split("\n"):
        kind, label, command = line.split("/")
        assert kind in ("dboard", "pspairs")
        assert label
        assert replies(command.replace("%c", "b"), at=at)[0].startswith("=")
    rows = replies("cnnlab-probabilities b", at=at)[0].split("\n")[1:]
    shown = np.array([[float(share) for share in row.split()] for row in rows])
    np.testing.assert_allclose(shown, by_rows(np.zeros((1, 48, 5, 5))).reshape(5, 5), atol=5e-5)
    assert replies("cnnlab-top_moves b", at=at)[0].split("\n")[0] == "= A5 7.7%"


def test_a_failing_policy_is_an_error_reply_and_the_game_goes_on(caplog):
    at = Engine(Player(lambda planes: 1 / 0), 5, sizes=(5,))
    assert replies("genmove b", "play b a1", at=at) == ["? internal error: division by zero", "= "]
    assert "genmove" in caplog.text
    at = Engine(Player(lambda planes: np.ones((1, 361))), 5, sizes=(5,))
    assert replies("genmove b", at=at)[0].startswith("? The policy returned shape (1, 361)")


def test_sessions_end_with_quit_or_the_input_and_survive_long_lines():
    assert session(b"1 name\n2 quit\n3 name\n") == "=1 cnnlab\n\n=2 \n\n"
    assert session(b"1 name") == "=1 cnnlab\n\n"
    long = b"play b " + b"a" * (3 * LONGEST_LINE)
    assert session(long + b"\n5 name\n") == "? line too long\n\n=5 cnnlab\n\n"
    assert session(b"x" * LONGEST_LINE + b"\n6 name\n").endswith("=6 cnnlab\n\n")
    assert session(long) == "? line too long\n\n"


def test_nobody_reading_the_replies_ends_the_session():
    class Closed(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError

    commands = io.BytesIO(b"name\nname\n")
    serve(engine(), commands, Closed())
    assert commands.read() == b"name\n"


@needs_gnugo
@pytest.mark.parametrize("ours", ["black", "white"])
def test_a_game_against_gnugo_has_no_illegal_move_on_either_side(ours):
    rng = np.random.default_rng(0)
    at = Engine(Player(lambda planes: rng.random((len(planes), 81)), symmetries=8), 9, sizes=(9,))
    with Opponent("--level", "1", "--seed", "1", "--boardsize", "9") as gnugo:
        passes, colour = 0, "black"
        for _ in range(400):
            other = gnugo(f"genmove {colour}") if colour != ours else None
            move = other or replies(f"genmove {colour}", at=at)[0][2:]
            if move == "resign":
                break
            if other:
                assert replies(f"play {colour} {move}", at=at) == ["= "]
            else:
                gnugo(f"play {colour} {move}")
            passes = passes + 1 if move.lower() == "pass" else 0
            if passes == 2:
                break
            colour = "white" if colour == "black" else "black"
        else:
            pytest.fail("the game does not end")
        assert gnugo("final_score")[0] in "BW0"
        stones = {name: gnugo(f"list_stones {name}").split() for name in ("black", "white")}
        for name, letter in (("black", "X"), ("white", "O")):
            rows = at.board.rows()
            mine = {vertex((r, c), 9) for r in range(9) for c in range(9) if rows[r][c] == letter}
            assert mine == set(stones[name])
