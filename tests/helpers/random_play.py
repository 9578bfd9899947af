"""Games of random legal moves, also out of turn and with passes, chosen with the slow reference's rules."""

import random

from go_reference import OTHER, Reference


def random_game(seed, size, length, setup=()):
    """Moves of a random game and the reference board after them."""
    rng = random.Random(seed)
    board, moves, colour = Reference(size, setup), [], "B"
    for _ in range(length):
        point = None
        if rng.random() > 0.03:
            # A few draws instead of the whole list of legal moves, which the reference takes long to make.
            draws = (rng.choice(board.points) for _ in range(4 * size))
            point = next((draw for draw in draws if board.legal(colour, draw)), None)
        moves.append((colour, point))
        board.play(colour, point)
        if rng.random() > 0.05:
            colour = OTHER[colour]
    return moves, board
