"""Moves of real games, read by a regular expression: the collections are plain enough for that."""

import re


def real_games(shared_data, count, file="00.sgf"):
    """The moves of the first `count` games of a collection of 9-dan games that have more than 200."""
    text = (shared_data / "go" / "tygem_9d_2016_07" / file).read_text()
    games = []
    for game in re.findall(r"\(;.*?\)", text, re.DOTALL):
        found = re.findall(r";([BW])\[(\w?\w?)\]", game)
        moves = [(colour, (ord(at[1]) - 97, ord(at[0]) - 97) if at not in ("", "tt") else None) for colour, at in found]
        if len(moves) > 200:
            games.append(moves)
        if len(games) == count:
            break
    return games
