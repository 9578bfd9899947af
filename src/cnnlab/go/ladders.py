"""Ladders, read to their end.

Definition (RocAlphaGo, after Fuego's tests). A move *captures* in a ladder if it is a liberty of an opponent chain with
exactly two, and leaves it one from which no answer escapes. An answer of a chain in atari, at its last liberty or by
capturing a chain beside it that is in atari itself, *escapes* if the chain then has three liberties or more, or two of
which neither is a capturing move for the opponent.

No chase across a board is too deep to be read. One that goes on for more plies than the board has points for repeats
itself, and has failed.
"""

import numpy as np

from cnnlab.go.chains import EMPTY, PLIES, liberty, lowest
from cnnlab.go.compiling import inner
from cnnlab.go.rules import STONE, is_legal, play, undo

# Positions that the reading of one move may look at before the chain counts as free: less than a second of work, and
# 200 times what any of 2.3 million positions of real games has needed.
MOST_POSITIONS = 1_000_000


@inner
def mark_ladders(b, colour, planes):
    """Set planes 44 and 45 (both 0) at the legal moves of `colour` that capture and that escape in a ladder."""
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
    """Whether the chain of `stone` escapes after `attack` took one of its two liberties; leaves `b` as it was.

    Searches depth first; the log of `b` is the stack, of attacks and answers in turn.
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
                # Caught, so the answer that allowed this attack was wrong.
                undo(b)
                if b.plies == start:
                    return False
                undo(b)
                continue
            while attack == 0:
                # No attack is left against this answer, so the attack that it answers was wrong.
                undo(b)
                wrong = b.log[b.plies - 1, STONE]
                undo(b)
                if b.plies == start:
                    return True
                attack = next_attack(b, stone, wrong)


@inner
def next_attack(b, stone, last):
    """The next legal move behind `last` (0: the first) at one of exactly two liberties of the chain of `stone`, or 0.

    0 also where the search ends: the chain counts as free.
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
    """Set the answers of this ply: the last liberty of the chain, and those of opponent chains in atari beside it."""
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
    """Take the next legal move of `colour` from the answers of this ply; 0 if none is left."""
    answers = b.answers[b.plies]
    for word in range(b.words):
        while answers[word]:
            point = 64 * word + lowest(answers[word]) + b.stride
            answers[word] &= answers[word] - np.uint64(1)
            if is_legal(b, point, colour):
                return point
    return 0
