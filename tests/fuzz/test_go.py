"""Game records, GTP commands and kept archives, in every state they can be in."""

import shutil

import pytest
from fuzzing import damaged, fuzzed
from go_engine import GOOD, MOVES, engine
from go_records import write_games
from hypothesis import given
from hypothesis import strategies as st

from cnnlab.errors import CnnlabError
from cnnlab.go.archive import Archive, Filters, open_archive
from cnnlab.go.planes import planes_at
from cnnlab.go.positions import PASS
from cnnlab.go.sgf import read

PARTS = [
    *(b"(", b")", b";", b"[", b"]", b"\\", b"B", b"W", b"[aa]", b"[zz]", b"SZ[9]", b"AB[bb]", b"(;GM[1]", b"\xff"),
    *(b"C[", b"CA[utf-16]", b"CA[big5]", b"SZ[19:5]", b"HA[9]", b"KM[1e999]", b"AE[aa:ss]", b"B[tt]", b"\xff\xfe"),
]
COMMANDS = [*engine().commands, "play b", "play w", "genmove b", "boardsize 5", "fixed_handicap 2"]
WORDS = st.one_of(st.sampled_from([*COMMANDS, "a1", "c3", "pass", "-1", "99999999999", "\u0660"]), st.text(max_size=8))
LINES = st.one_of(st.lists(WORDS, max_size=4).map(" ".join).map(str.encode), st.binary(max_size=20))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Numba has compiled all before the first input is timed."""
    list(read(GOOD))
    engine().answer(b"genmove b\n")


@given(st.one_of(st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=6)), max_size=40).map(b"".join)))
@fuzzed
def test_any_bytes_are_games_or_are_counted(text):
    games = read(text)
    found = len(list(games))
    assert found + len(games.skipped) >= 1
    assert all(skipped.name and skipped.reason for skipped in games.skipped)


@given(st.integers(0, len(GOOD)), st.binary(max_size=3), st.integers(0, 3))
@fuzzed
def test_a_damaged_game_takes_none_of_its_neighbours_along(place, extra, removed):
    """Whatever happens to one game, those before and after it are read; it is one game, or left out, or both."""
    bad = GOOD[:place] + extra + GOOD[place + removed :]
    games = read(GOOD + b"\n" + bad + b"\n" + GOOD)
    found = [game.moves for game in games]
    assert found[0] == found[-1] == MOVES
    assert len(found) >= 2
    assert len(found) + len(games.skipped) >= 2


@given(st.lists(LINES, max_size=6))
@fuzzed
def test_any_lines_get_one_reply_each_and_the_engine_lives(lines):
    at = engine()
    for line in lines:
        reply = at.answer(line)
        assert reply == "" or (reply[0] in "=?" and reply.endswith("\n\n") and "\n\n" not in reply[:-2])
        assert "internal error" not in reply
    assert at.answer(b"7 name\n") == "=7 cnnlab\n\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    write_games(folder / "games", 4, length=20)
    archive = open_archive(folder / "games", Filters(size=9), folder / "cache")
    planes_at(archive.moves(0), [0], 9)
    return archive


@given(st.data())
@fuzzed
def test_kept_games_are_whole_or_an_error(kept, tmp_path_factory, data):
    folder = kept.folder.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept.folder, folder)
    name = data.draw(st.sampled_from(["about.json", "games.bin", "moves.bin", "names.txt"]))
    (folder / name).write_bytes(data.draw(damaged((kept.folder / name).read_bytes())))
    try:
        archive = Archive(folder)
        for game in range(len(archive)):
            moves = archive.moves(game)
            numbers = (moves & PASS != PASS).nonzero()[0]
            assert archive.positions[game] == len(numbers)
            planes_at(moves, numbers, archive.size, archive.setup(game))
    except CnnlabError:
        pass
