"""Read ladders to the end.

Definition (RocAlphaGo, after Fuego's tests). A move *captures* in a ladder if it takes one of exactly two liberties of
an opponent chain, and no answer of that chain escapes. An answer of a chain in atari, at its last liberty or by
capturing an adjacent chain that is in atari itself, *escapes* if the chain then has three liberties or more, or has two
and neither is a capturing move for the opponent.

The search is deep enough for any ladder across the board. A longer chase repeats itself in captures and recaptures, and
has failed.
"""

import numpy as np

from cnnlab.go.chains import EMPTY, PLIES, liberty, lowest
from cnnlab.go.compiling import inner
from cnnlab.go.rules import STONE, is_legal, play, undo

# Limit on the positions searched for one move; beyond it the chain counts as free. It bounds the time of constructed
# positions and is far more than real games need.
MOST_POSITIONS = 1_000_000


@inner
def mark_ladders(b, colour, planes):
    """Set planes 44 and 45 (both 0) to 1 at the legal moves of `colour` that capture or escape in a ladder."""
    for row in range(b.size):
        for column in range(b.size):
            stone = (row + 1) * b.stride + column
            if b.colour[stone] == EMPTY or b.chain[stone] != stone:
                continue
            if b.colour[stone] == colour and b.liberties[stone] == 1:
                mark_escapes(b, stone, planes[45])
            elif b.colour[stone] != colour and b.liberties[stone] == 2:
                mark_captures(b, stone, planes[44])


@inner
def mark_captures(b, stone, plane):
    """Set `plane` to 1 at the moves that capture the chain of `stone`, which has two liberties."""
    b.seen = 0
    attack = next_attack(b, stone, 0)
    while attack:
        if not escapes(b, attack, stone):
            plane[attack // b.stride - 1, attack % b.stride] = 1
        b.seen = 0
        attack = next_attack(b, stone, attack)


@inner
def mark_escapes(b, stone, plane):
    """Set `plane` to 1 at the answers that save the chain of `stone`, which is in atari."""
    prey = b.colour[stone]
    gather_answers(b, stone)
    while True:
        answer = next_answer(b, prey)
        if answer == 0:
            return
        play(b, answer, prey)
        if b.liberties[b.chain[stone]] > 1:
            b.seen = 0
            attack = next_attack(b, stone, 0)
            while attack and escapes(b, attack, stone):
                attack = next_attack(b, stone, attack)
            if attack == 0:
                plane[answer // b.stride - 1, answer % b.stride] = 1
        undo(b)


@inner
def escapes(b, attack, stone):
    """Return whether the chain of `stone` escapes after `attack` takes one of its two liberties; `b` is unchanged.

    The search is depth-first; the log of `b` is the stack, with attacks and answers in turn.
    """
    prey = b.colour[stone]
    start = b.plies
    while True:
        play(b, attack, 3 - prey)
        gather_answers(b, stone)
        attack = 0
        while attack == 0:
            answer = next_answer(b, prey)
            if answer:
                play(b, answer, prey)
                if b.liberties[b.chain[stone]] == 1:
                    undo(b)
                    continue
                attack = next_attack(b, stone, 0)
            else:
                # The chain is caught, so the answer that allowed this attack fails.
                undo(b)
                if b.plies == start:
                    return False
                undo(b)
                continue
            while attack == 0:
                # No attack is left against this answer, so the attack that it answers fails.
                undo(b)
                wrong = b.log[b.plies - 1, STONE]
                undo(b)
                if b.plies == start:
                    return True
                attack = next_attack(b, stone, wrong)


@inner
def next_attack(b, stone, last):
    """Return the next legal move after `last` (0: the first) at a liberty of the chain of `stone`.

    Returns 0 if no such move is left, if the chain does not have exactly two liberties, or at the limits of the search,
    where the chain counts as free.
    """
    b.seen += 1
    if b.liberties[b.chain[stone]] != 2 or b.seen > MOST_POSITIONS or b.plies + 2 > PLIES:
        return 0
    attack = last
    while True:
        attack = liberty(b, b.chain[stone], attack)
        if attack == 0 or is_legal(b, attack, 3 - b.colour[stone]):
            return attack


@inner
def gather_answers(b, stone):
    """Store the answers of this ply: the chain's last liberty, and those of adjacent opponent chains in atari."""
    answers = b.answers[b.plies]
    for word in range(b.words):
        answers[word] = b.sets[b.chain[stone], word]
    at = stone
    while True:
        for step in b.steps:
            near = at + step
            if b.colour[near] == 3 - b.colour[stone] and b.liberties[b.chain[near]] == 1:
                for word in range(b.words):
                    answers[word] |= b.sets[b.chain[near], word]
        at = b.next[at]
        if at == stone:
            return


@inner
def next_answer(b, colour):
    """Take the next legal move of `colour` from the answers of this ply and return it; 0 if none is left."""
    answers = b.answers[b.plies]
    for word in range(b.words):
        while answers[word]:
            point = 64 * word + lowest(answers[word]) + b.stride
            answers[word] &= answers[word] - np.uint64(1)
            if is_legal(b, point, colour):
                return point
    return 0
