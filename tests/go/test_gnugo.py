"""GNU Go as an oracle that shares no code with us: legal moves, liberties, and liberties after each move."""

import numpy as np
import pytest
from gnugo import ask, needs_gnugo
from real_games import real_games

from cnnlab.go.board import Board
from cnnlab.go.planes import planes_at
from cnnlab.go.positions import encode, vertex

COLOUR = {"B": "black", "W": "white"}


@needs_gnugo
@pytest.mark.parametrize(
    ("games", "least"),
    [(2, 40), pytest.param(21, 500, marks=pytest.mark.slow)],  # slow: the same of more games, for a minute
)
def test_gnugo_agrees_on_real_positions(shared_data, games, least):
    positions = mismatches = 0
    for game, moves in enumerate(real_games(shared_data, games, "07.sgf")):
        numbers = range(game % 8, len(moves), 8)
        planes, _ = planes_at(encode(moves), numbers)
        commands, expected, board = ["boardsize 19", "clear_board"], [None, None], Board()
        for number, (colour, point) in enumerate(moves):
            if number in numbers:
                for command, answer in questions(board, colour, planes[numbers.index(number)]):
                    commands.append(command)
                    expected.append(answer)
                positions += 1
            board.play(colour, point)
            commands.append(f"play {colour} {vertex(point, 19)}")
            expected.append(None)
        for command, answer, reply in zip(commands, expected, ask(commands), strict=True):
            found = len(reply.split()) if command.startswith("accuratelib") else set(reply.split())
            if command.startswith("accuratelib"):
                found = min(found, 8)  # as many as the planes tell apart
            mismatches += answer is not None and answer != found
    assert positions >= least
    assert mismatches == 0


def questions(board, colour, planes):
    """GTP commands about a position, and what our planes say."""
    after = planes[36:44]
    legal = {vertex((row, column), 19) for row, column in np.argwhere(after.any(0)).tolist()}
    yield f"all_legal {COLOUR[colour]}", legal
    for row, column in np.argwhere(after.any(0)).tolist():
        yield f"accuratelib {COLOUR[colour]} {vertex((row, column), 19)}", int(after[:, row, column].argmax()) + 1
    for row, column in np.argwhere(planes[:2].any(0)).tolist():
        liberties = board.liberties((row, column))
        assert planes[11 + min(liberties, 8), row, column] == 1
        yield f"countlib {vertex((row, column), 19)}", {str(liberties)}
