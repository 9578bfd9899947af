"""A position of Go as one record: its points, and its chains with their exact liberties, for boards of 5 to 25 lines.

A position is one NumPy record (`POSITION`), which compiled functions take by reference, as `b`. Points are numbered row
by row with `size + 1` points a row, so that one column and one row of edge points serve both neighbouring lines: the
neighbours of a point are always at the same four distances. Chains of stones are circular linked lists that carry
their exact set of liberties as bits, which makes the liberties after a move the union of a few sets.
"""

import numpy as np

from cnnlab.go.compiling import compiled, inner

SMALLEST, LARGEST = 5, 25
EMPTY, BLACK, WHITE, EDGE = 0, 1, 2, 3
POINTS = (LARGEST + 1) * (LARGEST + 2) + 1
WORDS = (LARGEST * (LARGEST + 1) + 63) // 64
# How many plies can be taken back. A chase that is longer than this repeats itself in captures and recaptures.
PLIES = 2 * LARGEST * LARGEST
OLDEST = -(2**30)

POSITION = np.dtype(
    [
        ("size", np.int64),
        ("stride", np.int64),
        ("words", np.int64),
        ("steps", np.int64, 4),
        # Of each point: its colour; the chain of its stone, named by one of its points; the next stone of that chain.
        ("colour", np.uint8, POINTS),
        ("chain", np.int16, POINTS),
        ("next", np.int16, POINTS),
        # Of each chain, at the point that names it.
        ("stones", np.int16, POINTS),
        ("liberties", np.int16, POINTS),
        ("sets", np.uint64, (POINTS, WORDS)),
        # The point that `ko_colour` must not play, 0 if there is none.
        ("ko", np.int64),
        ("ko_colour", np.int64),
        # Turns (moves and passes) so far, and the turn in which each stone was played.
        ("turn", np.int64),
        ("played", np.int32, POINTS),
        # What `undo` needs of each ply that was played since `plies` was last 0.
        ("plies", np.int64),
        ("log", np.int16, (PLIES, 16)),
        ("log_sets", np.uint64, (PLIES, WORDS)),
        # What a move of either colour at each empty point leads to (see cnnlab.go.point_features), and the points whose
        # values are out of date.
        ("stale", np.uint64, (3, WORDS)),
        ("after", np.int16, (3, POINTS)),
        ("captures", np.int16, (3, POINTS)),
        ("own", np.int16, (3, POINTS)),
        ("scratch", np.uint64, WORDS),
        # The answers that the ladder search tries in each ply, and how many positions the search has seen.
        ("answers", np.uint64, (PLIES, WORDS)),
        ("seen", np.int64),
    ],
    align=True,
)


@compiled
def clear(b, size):
    """Make `b` an empty board of `size` x `size` points."""
    b.size = size
    b.stride = size + 1
    b.words = (size * (size + 1) + 63) // 64
    b.steps[0], b.steps[1], b.steps[2], b.steps[3] = -b.stride, -1, 1, b.stride
    b.colour[:] = EDGE
    for row in range(size):
        first = (row + 1) * b.stride
        b.colour[first : first + size] = EMPTY
        b.chain[first : first + size] = 0
    b.ko = 0
    b.ko_colour = 0
    b.turn = 0
    b.plies = 0
    b.seen = 0
    b.stale[:] = ~np.uint64(0)


@compiled
def arrange(b):
    """Form the chains of a board whose colours were just filled in; its stones count as the oldest.

    Returns a stone whose chain has no liberty, or 0 if all have one.
    """
    for point in range(b.stride, b.stride * (b.size + 1)):
        colour = b.colour[point]
        if colour not in (BLACK, WHITE):
            continue
        b.played[point] = OLDEST
        b.chain[point] = b.next[point] = point
        b.stones[point] = 1
        b.liberties[point] = 0
        b.sets[point] = 0
        for step in b.steps:
            if b.colour[point + step] == EMPTY:
                b.liberties[point] += add_bit(b, point, point + step)
        for step in b.steps[:2]:
            near = point + step
            if b.colour[near] == colour and b.chain[near] != b.chain[point]:
                absorb(b, b.chain[near], b.chain[point], point)
    for point in range(b.stride, b.stride * (b.size + 1)):
        colour = b.colour[point]
        if colour in (BLACK, WHITE) and b.liberties[b.chain[point]] == 0:
            return point
    return 0


@inner
def absorb(b, head, chain, point):
    """Make the stones of `chain` part of `head`, which touch each other at the new stone `point`."""
    rename(b, chain, head)
    join(b, head, chain)
    b.stones[head] += b.stones[chain]
    count = 0
    for word in range(b.words):
        b.sets[head, word] |= b.sets[chain, word]
    remove_bit(b, head, point)
    for word in range(b.words):
        count += ones(b.sets[head, word])
    b.liberties[head] = count


@inner
def join(b, first, second):
    """Exchange the successors of two stones: makes one circle of two, and two of one."""
    b.next[first], b.next[second] = b.next[second], b.next[first]


@inner
def rename(b, stone, name):
    """Give all stones of the circle through `stone` the chain `name`."""
    at = stone
    while True:
        b.chain[at] = name
        at = b.next[at]
        if at == stone:
            return


@inner
def add_bit(b, chain, point):
    """Make `point` a liberty of the chain; 1 if it was none, else 0."""
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    if b.sets[chain, word] & mask:
        return 0
    b.sets[chain, word] |= mask
    return 1


@inner
def remove_bit(b, chain, point):
    """Take `point` from the liberties of the chain; 1 if it was one, else 0."""
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    if b.sets[chain, word] & mask:
        b.sets[chain, word] &= ~mask
        return 1
    return 0


@inner
def liberty(b, chain, after):
    """The first liberty of the chain behind the point `after` (0: the first of all), or 0."""
    bit = max(after - b.stride + 1, 0)
    word = bit >> 6
    if word >= b.words:
        return 0
    left = b.sets[chain, word] >> np.uint64(bit & 63)
    if left:
        return bit + lowest(left) + b.stride
    for later in range(word + 1, b.words):
        if b.sets[chain, later]:
            return 64 * later + lowest(b.sets[chain, later]) + b.stride
    return 0


@inner
def ones(word):
    """How many bits of `word` are set."""
    count = 0
    while word:
        word &= word - np.uint64(1)
        count += 1
    return count


@inner
def lowest(word):
    """The index of the lowest bit that is set."""
    return ones((word & (~word + np.uint64(1))) - np.uint64(1))
