"""Games kept in two bytes a move: what comes out is what the records say, whatever is left out has a reason."""

import os
import pickle

import numpy as np
import pytest
from go_records import random_moves, sgf, write_games

from cnnlab.errors import DataError, InputError
from cnnlab.go.archive import Filters, open_archive, strength
from cnnlab.go.positions import decode


def archive_of(folder, *games, cache=None, **filters):
    """The archive of games, each an SGF text."""
    (folder / "records").mkdir(exist_ok=True)
    (folder / "records" / "all.sgf").write_text("\n".join(games))
    return open_archive(folder / "records", Filters(size=9, **filters), cache or folder / "cache")


def played(archive):
    return [decode(archive.moves(game), archive.size) for game in range(len(archive))]


def test_moves_come_out_as_they_were_recorded(tmp_path):
    games = write_games(tmp_path / "records", 7)
    archive = open_archive(tmp_path / "records", Filters(size=9), tmp_path / "cache")
    assert played(archive) == games
    assert archive.positions.tolist() == [sum(point is not None for _, point in moves) for moves in games]
    assert archive.names == [f"a.sgf game {n}" for n in (1, 2, 3)] + [f"b.sgf game {n}" for n in (1, 2, 3, 4)]
    assert (archive.folder / "moves.bin").stat().st_size == 2 * sum(map(len, games))


def test_set_up_stones_are_kept_apart_from_moves(tmp_path):
    archive = archive_of(tmp_path, sgf([("W", (0, 0))], AB="cc][dd", PL="W"), sgf([("B", (5, 5))]))
    assert decode(archive.setup(0), 9) == [("B", (2, 2)), ("B", (3, 3))]
    assert played(archive) == [[("W", (0, 0))], [("B", (5, 5))]]
    assert len(archive.setup(1)) == 0


def test_what_is_broken_illegal_or_there_twice_is_left_out_with_its_reason(tmp_path):
    illegal = sgf([("B", (0, 0)), ("W", (0, 0))])
    good = sgf(random_moves(1))
    archive = archive_of(tmp_path, good, illegal, good, sgf([("B", None)]), sgf(random_moves(2, size=13), size=13))
    assert len(archive) == 1
    assert list(archive.skipped) == ["all.sgf game 2"]
    assert "occupied" in archive.skipped["all.sgf game 2"]
    assert archive.unwanted == {"the moves of an earlier game": 1, "no move": 1, "board of 13 lines": 1}


def test_names_of_files_may_be_anything(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    for name, moves in ((b"two\nlines.sgf", random_moves(1)), (b"\xff.sgf", random_moves(2))):
        (folder / os.fsdecode(name)).write_text(sgf(moves))
    archive = open_archive(folder, Filters(size=9), tmp_path / "cache")
    assert sorted(archive.names) == ["\\udcff.sgf", r"two\nlines.sgf"]
    assert len(played(archive)) == 2


def test_records_are_read_once_until_they_or_the_filters_change(tmp_path, monkeypatch):
    games = [sgf(random_moves(seed)) for seed in range(3)]
    first = archive_of(tmp_path, *games)
    with monkeypatch.context() as patched:
        patched.setattr("cnnlab.go.archive.read", lambda *_, **__: pytest.fail("the records were read again"))
        assert archive_of(tmp_path, *games).folder == first.folder
    assert len(archive_of(tmp_path, *games[:2])) == 2
    assert len(archive_of(tmp_path, *games, max_games=1)) == 1


def test_interrupted_reading_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnlab.go.archive.encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        archive_of(tmp_path, sgf(random_moves(1)))
    assert list((tmp_path / "cache" / "go").iterdir()) == []


def test_another_process_maps_the_files_instead_of_getting_a_copy(tmp_path):
    archive = archive_of(tmp_path, *(sgf(random_moves(seed)) for seed in range(20)))
    message = pickle.dumps(archive)
    assert len(message) < 500
    assert np.array_equal(pickle.loads(message).moves(7), archive.moves(7))


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"min_rank": "6d"}, "abd"),
        ({"min_rank": "1p"}, "d"),
        ({"max_handicap": 0}, "abdef"),
        ({"first_date": "2016-07"}, "bc"),
        ({"last_date": 2015}, "ad"),
        ({"first_date": "2015-12-31", "last_date": "2016-07"}, "ab"),
        ({"results": ["B+R", "W+R"]}, "ac"),
        ({"max_games": 2}, "ab"),
    ],
)
def test_filters(tmp_path, filters, kept):
    games = {
        "a": {"BR": "6d", "WR": "9d", "DT": "2015-12-31", "RE": "B+R"},
        "b": {"BR": "7 dan", "WR": "7d?", "DT": "2016-07-01,02", "RE": "W+0.5"},
        "c": {"BR": "5d", "WR": "9d", "DT": "2017", "RE": "W+Resign", "HA": "2", "AB": "cc][gg"},
        "d": {"BR": "1p", "WR": "9p", "DT": "1999-01-01", "RE": "Void"},
        "e": {"BR": "1k", "WR": "12k"},
        "f": {},
    }
    texts = [
        sgf([("W", (0, number)), ("B", (8, number))], PB=name, **properties)
        for number, (name, properties) in enumerate(games.items())
    ]
    archive = archive_of(tmp_path, *texts, **filters)
    columns = [moves[0][1][1] for moves in played(archive)]
    assert "".join("abcdef"[column] for column in columns) == kept


def test_ranks_are_in_order():
    ranks = ["30k", "1 kyu", "1d", "9 dan", "1p", "9p"]
    found = [strength(rank) for rank in ranks]
    assert found == sorted(found)
    assert len(set(found)) == len(ranks)
    assert strength("NR") is None


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"min_rank": "strong"}, "data.min_rank=strong: use a rank"),
        ({"first_date": "July"}, "data.first_date=July"),
        ({"max_games": 0}, "data.max_games=0"),
    ],
)
def test_filter_that_is_none_is_refused(filters, message):
    with pytest.raises(InputError, match=message):
        Filters(**filters)


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(DataError, match=r"broken 1, not wanted 2 \(a player below 1d\)"):
        archive_of(tmp_path, *(sgf(random_moves(seed)) for seed in range(2)), sgf([("B", (0, 0))] * 2), min_rank="1d")
