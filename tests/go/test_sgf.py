"""Game records: every form SGF comes in, and every way in which a file can be bad."""

import io
import logging
import zipfile

import pytest
from container import in_container
from go_engine import GOOD, MOVES
from real_games import real_games

from cnnlab.errors import DataError
from cnnlab.go.planes import game_planes
from cnnlab.go.sgf import read


def only(source, **options):
    """The one game of a source of which nothing is left out."""
    games = read(source, **options)
    (game,) = games
    assert games.skipped == []
    return game


def reason(source, **options):
    """Why the one game of a source is left out."""
    games = read(source, **options)
    assert list(games) == []
    (skipped,) = games.skipped
    return skipped.reason


def test_a_game_and_what_it_says_of_itself():
    game = only(GOOD)
    assert game.moves == MOVES
    assert (game.size, game.setup, game.to_play, game.komi, game.handicap) == (9, [], "B", 6.5, 0)
    assert (game.black, game.white, game.black_rank, game.white_rank) == ("Ann", "Ben", "9d", "1d")
    assert (game.result, game.date) == ("B+R", "2016-07-01")


@pytest.mark.parametrize(
    "text",
    [
        b"(;GaMe[1]SiZe[9]Black[ee];White[cc];Black[])",
        b"(;gm[1]sz[9];b[ee];w[cc];b[])",
        b"(;FF[1]SZ[9]\r\n;B[ee]\r\n;W[cc]\r\n;B[tt])\r\n",
        b"junk before (; FF [3] SZ\n[9]\t; B\n[ee] ;W[cc];B[]) junk after",
        b"(;SZ[9]C[a (fake; variation) \\] ];B[ee]C[);W[aa\\]];W[cc];B[])",
        b"(;SZ[9];B[ee](;W[cc];B[](;C[])(;W[bb]))(;W[dd](;B[aa]))(;W[aa]))",
        b"\xef\xbb\xbf(;SZ[9];B[ee];W[cc];B[])",
        "(;CA[UTF-16]SZ[9]C[\u770b];B[ee];W[cc];B[])".encode("utf-16"),
    ],
)
def test_forms_of_the_same_game(text):
    game = only(text)
    assert (game.size, game.moves) == (9, MOVES)


@pytest.mark.parametrize(
    ("charset", "name"),
    [("gbk", "\u6f14\u5f5d\u8abd"), ("shift_jis", "\u8868\u4e88"), ("big5", "\u529f\u8a31"), ("utf-8", "\u68cb")],
)
def test_charsets_whose_second_bytes_look_like_brackets(charset, name):
    text = f"(;CA[{charset}]SZ[9]PB[{name}];B[ee];W[cc];B[])".encode(charset)
    game = only(text)
    assert (game.black, game.moves) == (name, MOVES)


def test_text_of_an_unknown_charset_is_latin_1():
    assert only(b"(;CA[no-such]SZ[9]PB[J\xfcrg];B[ee])").black == "J\xfcrg"
    for odd in (b"zlib", b"punycode", b"\0", b"\xff", b""):
        assert only(b"(;CA[" + odd + b"]SZ[9]PB[J\xfcrg];B[ee])").black == "J\xfcrg"


def test_a_pass_is_tt_up_to_19_lines_and_a_point_above():
    assert only(b"(;SZ[19];B[tt])").moves == [("B", None)]
    assert only(b"(;SZ[21];B[tt])").moves == [("B", (19, 19))]
    assert only(b"(;B[aa])").size == 19


def test_what_a_record_says_wrongly_of_itself_does_not_matter():
    game = only(b"(;SZ[9]KM[6,5]HA[two]RE[]DT[?];B[ee])")
    assert (game.komi, game.handicap, game.result, game.date) == (None, 0, "", "?")
    assert only(b"(;SZ[9];B[ee])").komi is None
    assert only(b"(;SZ[9]KM[nan];B[ee])").komi is None


def test_games_without_root_properties_are_told_apart():
    games = read(b"(;B[aa])(;B[bb]()())(;B[cc])")
    assert [game.name for game in games] == ["bytes game 1", "bytes game 3"]
    assert games.skipped[0].name == "bytes game 2"


def test_setup_handicap_and_who_plays_first():
    game = only(b"(;SZ[9]HA[2]AB[cg][gc]KM[0.5];W[ee])")
    assert (sorted(game.setup), game.handicap, game.to_play) == ([("B", (2, 6)), ("B", (6, 2))], 2, "W")
    game = only(b"(;SZ[9]AB[aa:bb]AW[ii];AE[ab];AW[ab]PL[W];B[ee])")
    assert sorted(game.setup) == [("B", (0, 0)), ("B", (0, 1)), ("B", (1, 1)), ("W", (1, 0)), ("W", (8, 8))]
    assert (only(b"(;SZ[9]AB[aa])").to_play, only(b"(;SZ[9]AB[aa]PL[b])").to_play) == ("W", "B")
    planes, labels = game_planes(game.moves, game.size, game.setup)
    assert planes[0, 11].sum() == 5
    assert labels.tolist() == [40]


def test_a_collection_goes_on_after_a_broken_game(caplog):
    broken = [
        b"(;GM[1]SZ[9];B[ee];W[c",  # cut off in a value, which swallows the start of the next game
        b"(;GM[1]SZ[9];B[ee](;W[cc]",  # cut off in a variation
        b"(;GM[1]SZ[9];B[ee];W[ee])",
    ]
    with caplog.at_level(logging.WARNING):
        games = read(b"\n".join([GOOD, broken[0], GOOD, broken[1], GOOD, broken[2], GOOD]))
        assert [game.name for game in games] == [f"bytes game {number}" for number in (1, 3, 5, 7)]
    assert [skipped.name for skipped in games.skipped] == [f"bytes game {number}" for number in (2, 4, 6)]
    assert "value" in games.skipped[0].reason
    assert "parenthesis" in games.skipped[1].reason
    assert "Left out 3 of 7 games" in caplog.text
    assert games.skipped[2].reason == "move 2 (W at E5) is illegal: the point is occupied"
    assert "bytes game 6: move 2 (W at E5) is illegal" in caplog.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no game"),
        (b"no game here", "no game"),
        (b"(;SZ[9];B[ee]", "parenthesis"),
        (b"(;SZ[9];B[ee", "value"),
        (b"(;SZ[9];B[ee]W[cc])", "several moves"),
        (b"(;SZ[9];B[ee][cc])", "several moves"),
        (b"(;SZ[9];B[ee](;W[cc]);B[aa])", "follows a variation"),
        (b"(;SZ[9];B[ee]()(;W[cc]))", "no node"),
        (b"(;SZ[9];B[ee]W;B[aa])", "malformed"),
        (b"(;SZ[9];B[zz])", "move 1 is at 'zz'"),
        (b"(;SZ[9];B[EE])", "move 1 is at 'EE'"),
        (b"(;SZ[1];B[aa])", "5 to 25 lines, got 1"),
        (b"(;SZ[52];B[aa])", "52"),
        (b"(;SZ[nine];B[aa])", "malformed"),
        (b"(;GM[2];B[aa])", r"not a game of Go: GM\[2\]"),
        (b"(;SZ[9];B[ee];AW[aa])", "set up after move 1"),
        (b"(;SZ[9]AB[zz];B[ee])", "off the board"),
        (b"(;SZ[9]AB[aa]AW[ab][ba];B[ee])", "set-up stone at A9 has no liberty"),
        (b"(;SZ[9]HA[4];W[ee])", "4 handicap stones are not placed"),
        (b"(;SZ[9]AB[ba][ab];W[aa])", "suicide"),
    ],
)
def test_bad_games_are_left_out_with_the_reason(text, why):
    assert why.replace("\\", "") in reason(text)


def test_games_are_compared_by_every_move_with_a_plain_reading(shared_data):
    file = shared_data / "go" / "tygem_9d_2016_07" / "22.sgf"
    long_games = [game.moves for game in read(file) if len(game.moves) > 200]
    assert long_games == real_games(shared_data, len(long_games), "22.sgf")
    assert len(long_games) > 100


def test_folders_and_archives_in_order_and_in_parallel(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "one.SGF").write_bytes(GOOD)
    (tmp_path / "two games.sgf").write_bytes(GOOD + GOOD)
    (tmp_path / "notes.txt").write_bytes(GOOD)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.sgf", GOOD)
        archive.writestr("readme.txt", b"hello")
    names = ["a/deep/one.SGF", "b.zip/../../escape.sgf", "two games.sgf game 1", "two games.sgf game 2"]
    for workers in (0, 1):
        games = list(read(tmp_path, workers=workers))
        assert [game.name for game in games] == names
        assert all(game.moves == MOVES for game in games)
    assert in_container("ro", lambda: [game.name for game in read(tmp_path, workers=1)]) == names  # none can start
    assert only((tmp_path / "b.zip").read_bytes()).moves == MOVES
    assert not list(tmp_path.parent.glob("escape.sgf"))


def test_what_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "missing.sgf")
    with pytest.raises(DataError, match=r"has no \.sgf or \.zip file"):
        read(str(tmp_path))


def test_sizes_are_limited(tmp_path):
    (tmp_path / "large.sgf").write_bytes(GOOD + b" " * 1000)
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        archive.writestr("in.sgf", GOOD + b" " * 1000)
    for name in ("large.sgf", "large.zip"):
        assert "more than 1000" in reason(tmp_path / name, max_bytes=1000)
        assert only(tmp_path / name, max_bytes=2000).moves == MOVES
    assert "more than 50" in reason(GOOD, max_bytes=50)


def test_archives_that_are_bombs_or_damaged_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.sgf", b"(" * 10**7)
    assert "would unpack to 10000000 bytes" in reason(tmp_path / "bomb.zip")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.sgf", GOOD)
        archive.writestr("b.sgf", GOOD)
    damaged = buffer.getvalue().replace(b"PB[Ann]", b"PB[Xnn]", 1)  # no longer fits its checksum
    games = read(damaged)
    assert [game.name for game in games] == ["bytes/b.sgf"]
    assert [skipped.name for skipped in games.skipped] == ["bytes/a.sgf"]
    assert "cannot be unpacked" in games.skipped[0].reason


def test_100_000_nested_variations_neither_overflow_nor_hide_the_main_line():
    depth = 100_000
    assert only(b"(;SZ[9];B[ee];W[cc];B[]" + b"(;C[x]" * depth + b")" * depth + b")").moves == MOVES
    assert "parenthesis" in reason(b"(;SZ[9]" + b"(;B[ee]" * depth)
    assert "no node" in reason(b"(;SZ[9]" + b"(" * depth + b")" * (depth + 1))
    assert "value" in reason(b"(;SZ[9];C[" + b"\\" * 999_999)
