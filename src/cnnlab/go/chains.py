"""Go positions with chains and their exact liberties, for boards of 5 to 25 lines.

A position is one NumPy record (`POSITION`), which compiled functions take by reference as `b`. Points are numbered row
by row with `size + 1` points to a row: the one extra column borders both the end of a row and the start of the next, so
that the neighbours of a point are always at the same four offsets. A chain is a circular linked list of stones with a
bit set of its liberties, so that the liberties after a move are the union of a few sets.
"""

import numpy as np

from cnnlab.go.compiling import compiled, inner

SMALLEST, LARGEST = 5, 25
EMPTY, BLACK, WHITE, EDGE = 0, 1, 2, 3
POINTS = (LARGEST + 1) * (LARGEST + 2) + 1
WORDS = (LARGEST * (LARGEST + 1) + 63) // 64
# Number of plies that can be taken back. A longer chase repeats itself in captures and recaptures.
PLIES = 2 * LARGEST * LARGEST
OLDEST = -(2**30)

POSITION = np.dtype(
    [
        ("size", np.int64),
        ("stride", np.int64),
        ("words", np.int64),
        ("steps", np.int64, 4),
        # For each point: its colour; the chain of its stone, named by one of its points; the next stone of that chain.
        ("colour", np.uint8, POINTS),
        ("chain", np.int16, POINTS),
        ("next", np.int16, POINTS),
        # For each chain, at the point that names it: number of stones and liberties, and the bit set of its liberties.
        ("stones", np.int16, POINTS),
        ("liberties", np.int16, POINTS),
        ("sets", np.uint64, (POINTS, WORDS)),
        # The point where ko forbids `ko_colour` to play; 0 without a ko.
        ("ko", np.int64),
        ("ko_colour", np.int64),
        # Number of turns (moves and passes) so far, and the turn in which each stone was played.
        ("turn", np.int64),
        ("played", np.int32, POINTS),
        # What `undo` needs to know about each ply played since `plies` was last 0.
        ("plies", np.int64),
        ("log", np.int16, (PLIES, 16)),
        ("log_sets", np.uint64, (PLIES, WORDS)),
        # Outcome of a move of either colour at each empty point (see `look_ahead` in cnnlab.go.point_features), and the
        # points whose outcome is out of date.
        ("stale", np.uint64, (3, WORDS)),
        ("after", np.int16, (3, POINTS)),
        ("captures", np.int16, (3, POINTS)),
        ("own", np.int16, (3, POINTS)),
        ("scratch", np.uint64, WORDS),
        # Answers that the ladder search tries in each ply, and how many positions it has seen.
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
    """Build the chains of a board whose colours have just been filled in; its stones count as the oldest.

    Returns a stone of a chain without liberties, or 0 if every chain has one.
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
    """Merge `chain` into `head`; the new stone `point` connects them."""
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
    """Swap the successors of two stones: merges two circular lists into one, or splits one in two."""
    b.next[first], b.next[second] = b.next[second], b.next[first]


@inner
def rename(b, stone, name):
    """Set the chain of every stone in the circular list of `stone` to `name`."""
    at = stone
    while True:
        b.chain[at] = name
        at = b.next[at]
        if at == stone:
            return


@inner
def add_bit(b, chain, point):
    """Make `point` a liberty of the chain; return 1 if it was not one before, else 0."""
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    if b.sets[chain, word] & mask:
        return 0
    b.sets[chain, word] |= mask
    return 1


@inner
def remove_bit(b, chain, point):
    """Remove `point` from the liberties of the chain; return 1 if it was one, else 0."""
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    if b.sets[chain, word] & mask:
        b.sets[chain, word] &= ~mask
        return 1
    return 0


@inner
def liberty(b, chain, after):
    """Return the chain's first liberty after the point `after` (0: the first of all); 0 if there is none."""
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
    """Return how many bits of `word` are set."""
    count = 0
    while word:
        word &= word - np.uint64(1)
        count += 1
    return count


@inner
def lowest(word):
    """Return the index of the lowest set bit."""
    return ones((word & (~word + np.uint64(1))) - np.uint64(1))
