"""Records in any charset, declared or not: every move is read, or the game is left out."""

import codecs

import pytest
from go_engine import MOVES

from cnnlab.go.sgf import read

PLAYED = ";B[ee];W[cc];B[]"
NAMES = {
    "shift_jis": "表予能ソ",
    "euc_jp": "本因坊秀策",
    "gbk": "李昌鎬丂丱",
    "gb18030": "古力",
    "big5": "許功蓋",
    "euc_kr": "이창호조훈현",
    "iso-8859-1": "René",
    "cp1252": "O’René",
}
"""Charset -> a name, in the charsets of two bytes with second bytes that are a backslash or `]`, if they have any."""


def read_one(text: bytes):
    """The games in the text, and why others are left out."""
    games = read(text)
    return list(games), [skipped.reason for skipped in games.skipped]


@pytest.mark.parametrize("charset", NAMES)
@pytest.mark.parametrize("declared", [None, "itself", "UTF-8", "ISO-8859-1", "nonsense"])
def test_every_move_is_read_whatever_is_declared(charset, declared):
    name = NAMES[charset]
    stated = f"CA[{charset if declared == 'itself' else declared}]" if declared else ""
    (game,), left_out = read_one(f"(;GM[1]{stated}SZ[9]PB[{name}]PW[{name}]{PLAYED})".encode(charset))
    assert (game.moves, left_out) == (MOVES, [])
    if declared == "itself":
        assert (game.black, game.white) == (name, name)


@pytest.mark.parametrize("charset", ["shift_jis", "gb18030", "iso-8859-1", "cp1252", "euc_kr"])
def test_usual_names_are_read_without_a_declaration(charset):
    name = NAMES[charset]
    (game,), _ = read_one(f"(;SZ[9]PB[{name}]PW[{name}]{PLAYED})".encode(charset))
    assert (game.black, game.white, game.moves) == (name, name, MOVES)


def test_ranks_of_chinese_records_are_read_without_a_declaration():
    (game,), _ = read_one(f"(;SZ[9]BR[9段]WR[1段]{PLAYED})".encode("gbk"))
    assert (game.black_rank, game.white_rank) == ("9段", "1段")


def test_games_of_a_collection_may_differ_in_their_charset():
    names = {"gbk": "丂", "shift_jis": "表", "big5": "功", "utf-8": "棋", "iso-8859-1": "é"}
    text = b"\n".join(f"(;GM[1]CA[{c}]SZ[9]PB[{n}]{PLAYED})".encode(c) for c, n in names.items())
    games, left_out = read_one(text)
    assert [game.black for game in games] == list(names.values())
    assert all(game.moves == MOVES for game in games)
    assert left_out == []


def test_charset_of_the_document_counts_for_games_that_declare_none():
    text = f"(;GM[1]CA[big5]SZ[9]PB[許]{PLAYED})(;GM[1]SZ[9]PB[功]{PLAYED})".encode("big5")
    games, _ = read_one(text)
    assert [game.black for game in games] == ["許", "功"]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_wide_encodings_need_no_byte_order_mark(codec, mark):
    (game,), _ = read_one(f"{mark}(;SZ[9]PB[棋]{PLAYED})".encode(codec))
    assert (game.black, game.moves) == ("棋", MOVES)


@pytest.mark.parametrize(
    ("charset", "declared", "name"),
    [
        ("iso2022_jp", "", "保竹移"),
        ("iso2022_jp", "CA[ISO-2022-JP]", "保竹移"),
        ("hz", "CA[HZ]", "遁避"),
    ],
)
def test_charsets_of_7_bits(charset, declared, name):
    r"""Their bytes are those of ASCII characters, here of J]C]0\ and of 6]1\."""
    (game,), left_out = read_one(f"(;{declared}SZ[9]PB[{name}]{PLAYED})".encode(charset))
    assert (game.black, game.moves, left_out) == (name, MOVES, [])


def test_name_cut_off_within_a_character_swallows_nothing():
    """As servers cut them after a number of bytes: half a character is left before the bracket."""
    name = "古力古".encode("gbk")[:-1]
    for declared in (b"", b"CA[gbk]"):
        (game,), _ = read_one(b"(;GM[1]" + declared + b"SZ[9]PB[" + name + b"]PW[x]" + PLAYED.encode() + b")")
        assert (game.moves, game.white) == (MOVES, "x")


def test_illegal_game_is_not_saved_by_a_charset_that_swallows_the_illegal_move():
    games, (reason,) = read_one("(;SZ[9];B[ee]C[表];W[ee];B[cc])".encode("shift_jis"))
    assert games == []
    assert reason == "move 2 (W at E5) is illegal: the point is occupied"


def test_game_that_differs_between_charsets_is_left_out():
    """Latin: C[café], B at C7, GC[é];B[aa]. Two bytes a character: C[caf閉;B[cc], GC[閈], B at A9."""
    games, (reason,) = read_one(b"(;SZ[9]C[caf\xe9];B[cc]GC[\xe9\\];B[aa])")
    assert games == []
    assert reason.startswith("it does not declare its charset, and it is a different game in each of ")
    assert {codecs.lookup(name).name for name in reason.rpartition(" of ")[2].split(" or ")} >= {"cp1252", "gb18030"}


def test_bracket_that_is_not_escaped_loses_no_moves_in_silence():
    games, (reason,) = read_one(b"(;SZ[9];B[ee]C[see (;W[aa]) ];W[cc])")
    assert [game.moves for game in games] == [MOVES[:1]]
    assert reason == "it begins without a parenthesis, or the game before it ends too early"


def test_records_in_linked_folders_are_read(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "games").mkdir()
    (tmp_path / "elsewhere" / "a.sgf").write_text(f"(;SZ[9]{PLAYED})")
    (tmp_path / "games" / "more").symlink_to(tmp_path / "elsewhere")
    assert [game.name for game in read(tmp_path / "games")] == ["more/a.sgf"]
