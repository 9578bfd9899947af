"""The rules of Go on arrays: moves, captures, simple ko, suicide and an exact undo, for boards of 5 to 25 lines.

A position is one NumPy record (`POSITION`), which compiled functions take by reference. Points are numbered row by row
with `size + 1` points a row, so that one column and one row of edge points serve both neighbouring lines: the
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
        # What a move of either colour at each empty point leads to (see cnnlab.go.features), and the points whose
        # values are out of date.
        ("stale", np.uint64, (3, WORDS)),
        ("after", np.int16, (3, POINTS)),
        ("captures", np.int16, (3, POINTS)),
        ("own", np.int16, (3, POINTS)),
        ("scratch", np.uint64, WORDS),
        # The answers that the ladder search tries in each ply, and how many positions the search has seen.
        ("answers", np.uint64, (PLIES, WORDS)),
        ("seen", np.int64),
    ]
)
# Columns of `log`; then the names of up to three chains that the new stone joined to the first one, and the entry
# points of up to four captured chains.
STONE, COLOUR, HEAD, NEXT, CHAIN, STONES, LIBERTIES, KO, KO_COLOUR, JOINED, CAPTURED = (*range(10), 12)


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
def is_legal(b, point, colour):
    """Whether `colour` may play at `point`: empty, not the ko, not suicide."""
    if b.colour[point] != EMPTY or (point == b.ko and colour == b.ko_colour):
        return False
    for step in b.steps:
        near = point + step
        if b.colour[near] == EMPTY:
            return True
        if b.colour[near] != EDGE and (b.colour[near] == colour) == (b.liberties[b.chain[near]] > 1):
            return True
    return False


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
def play(b, point, colour):
    """Put a stone of `colour` on the legal `point`, remove what it captures, set the ko; `undo` takes it back."""
    other = 3 - colour
    log = b.log[b.plies]
    log[STONE], log[COLOUR], log[NEXT], log[CHAIN] = point, colour, b.next[point], b.chain[point]
    log[KO], log[KO_COLOUR] = b.ko, b.ko_colour
    head = point
    for step in b.steps:
        near = point + step
        if b.colour[near] == colour and (head == point or b.stones[b.chain[near]] > b.stones[head]):
            head = b.chain[near]
    log[HEAD], log[STONES], log[LIBERTIES] = head, b.stones[head], b.liberties[head]
    for word in range(b.words):
        b.log_sets[b.plies, word] = b.sets[head, word]
    b.plies += 1

    b.colour[point] = colour
    b.chain[point] = head
    b.next[point] = point
    if head == point:
        b.stones[head] = 1
        b.liberties[head] = 0
        for word in range(b.words):
            b.sets[head, word] = 0
    else:
        join(b, head, point)
        b.stones[head] += 1
        b.liberties[head] -= remove_bit(b, head, point)
    joined = captured = 0
    for step in b.steps:
        near = point + step
        if b.colour[near] == EMPTY:
            b.liberties[head] += add_bit(b, head, near)
        elif b.colour[near] == colour and b.chain[near] != head:
            log[JOINED + joined] = b.chain[near]
            joined += 1
            absorb(b, head, b.chain[near], point)
    for step in b.steps:
        near = point + step
        if b.colour[near] == other:
            chain = b.chain[near]
            b.liberties[chain] -= remove_bit(b, chain, point)
            if b.liberties[chain] == 0:
                log[CAPTURED + captured] = near
                captured += 1
                remove(b, near, colour)
    if joined < 3:
        log[JOINED + joined] = 0
    if captured < 4:
        log[CAPTURED + captured] = 0
    b.ko = 0
    if captured == 1 and b.stones[head] == 1 and b.liberties[head] == 1:
        taken = log[CAPTURED]
        if b.stones[b.chain[taken]] == 1:
            b.ko = taken
            b.ko_colour = other


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
def remove(b, stone, colour):
    """Take the chain of `stone` off the board; its points become liberties of the chains of `colour` beside it."""
    at = stone
    while True:
        b.colour[at] = EMPTY
        at = b.next[at]
        if at == stone:
            break
    while True:
        for step in b.steps:
            near = at + step
            if b.colour[near] == colour:
                b.liberties[b.chain[near]] += add_bit(b, b.chain[near], at)
        at = b.next[at]
        if at == stone:
            return


@inner
def restore(b, stone, colour):
    """Put the captured chain of `stone` back on the board, of the colour that is not `colour`."""
    at = stone
    while True:
        b.colour[at] = 3 - colour
        for step in b.steps:
            near = at + step
            if b.colour[near] == colour:
                b.liberties[b.chain[near]] -= remove_bit(b, b.chain[near], at)
        at = b.next[at]
        if at == stone:
            return


@inner
def undo(b):
    """Take back the last stone that `play` put on the board, exactly."""
    b.plies -= 1
    log = b.log[b.plies]
    point, colour, head = log[STONE], log[COLOUR], log[HEAD]
    for entry in range(4):
        if log[CAPTURED + entry] == 0:
            break
        restore(b, log[CAPTURED + entry], colour)
    for step in b.steps:
        near = point + step
        if b.colour[near] == 3 - colour:
            chain = b.chain[near]
            b.liberties[chain] += add_bit(b, chain, point)
    joined = 0
    while joined < 3 and log[JOINED + joined]:
        joined += 1
    for entry in range(joined - 1, -1, -1):
        chain = log[JOINED + entry]
        join(b, head, chain)
        rename(b, chain, chain)
    if head != point:
        join(b, head, point)
    b.stones[head], b.liberties[head] = log[STONES], log[LIBERTIES]
    for word in range(b.words):
        b.sets[head, word] = b.log_sets[b.plies, word]
    b.next[point], b.chain[point] = log[NEXT], log[CHAIN]
    b.colour[point] = EMPTY
    b.ko, b.ko_colour = log[KO], log[KO_COLOUR]


@inner
def mark_stale(b, chain):
    """Note that moves at the liberties of the chain lead to something else than before, for either colour."""
    for word in range(b.words):
        b.stale[BLACK, word] |= b.sets[chain, word]
        b.stale[WHITE, word] |= b.sets[chain, word]


@inner
def mark_stale_point(b, point):
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    b.stale[BLACK, word] |= mask
    b.stale[WHITE, word] |= mask


@inner
def move(b, point, colour):
    """One turn of a game: `play` at the legal `point` (0: pass) for good, with its age and what it makes stale."""
    b.turn += 1
    if point == 0:
        b.ko = 0
        return
    play(b, point, colour)
    b.plies = 0
    b.played[point] = b.turn
    # A move's outcome depends on the four neighbours and on the liberties of their chains, so that it can only change
    # beside the new stone, where stones were captured, and at the liberties of the chains that either touched.
    mark_stale(b, b.chain[point])
    for step in b.steps:
        near = point + step
        if b.colour[near] == EMPTY:
            mark_stale_point(b, near)
        elif b.colour[near] == 3 - colour:
            mark_stale(b, b.chain[near])
    log = b.log[0]
    for entry in range(4):
        stone = log[CAPTURED + entry]
        if stone == 0:
            return
        at = stone
        while True:
            mark_stale_point(b, at)
            for step in b.steps:
                if b.colour[at + step] == colour:
                    mark_stale(b, b.chain[at + step])
            at = b.next[at]
            if at == stone:
                break


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


@compiled
def play_through(b, turns):
    """Play turns (int64 [n, 2]: colour, point or 0) for good, up to the first illegal one: its number, or n."""
    for number in range(turns.shape[0]):
        colour, point = turns[number, 0], turns[number, 1]
        if point and not is_legal(b, point, colour):
            return number
        move(b, point, colour)
    return turns.shape[0]


@compiled
def legal_points(b, colour, points):
    """Set `points` (bool [size, size]) to where `colour` may play."""
    for row in range(b.size):
        for column in range(b.size):
            points[row, column] = is_legal(b, (row + 1) * b.stride + column, colour)
