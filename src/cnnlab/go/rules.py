"""The rules of Go: moves, captures, simple ko, suicide, and exact undo."""

import numpy as np

from cnnlab.go.chains import BLACK, EDGE, EMPTY, WHITE, absorb, add_bit, join, remove_bit, rename
from cnnlab.go.compiling import compiled, inner

# Columns of `log`. From JOINED on: the names of up to three chains that the new stone joined to the first one; from
# CAPTURED on: one stone of each of up to four captured chains.
STONE, COLOUR, HEAD, NEXT, CHAIN, STONES, LIBERTIES, KO, KO_COLOUR, JOINED, CAPTURED = (*range(10), 12)


@compiled
def play_through(b, turns):
    """Play turns (int64 [n, 2]: colour, point or 0 for a pass) permanently, up to the first illegal one.

    Returns the number of that turn, or n if all are legal.
    """
    for number in range(turns.shape[0]):
        colour, point = turns[number, 0], turns[number, 1]
        if point and not is_legal(b, point, colour):
            return number
        move(b, point, colour)
    return turns.shape[0]


@compiled
def legal_points(b, colour, points):
    """Set `points` (bool [size, size]) to True where `colour` may play, else to False."""
    for row in range(b.size):
        for column in range(b.size):
            points[row, column] = is_legal(b, (row + 1) * b.stride + column, colour)


@inner
def is_legal(b, point, colour):
    """Return whether `colour` may play at `point`: the point is empty, not forbidden by ko, and not suicide."""
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
def play(b, point, colour):
    """Place a stone of `colour` on the legal `point`, remove captured chains and set the ko; `undo` takes it back."""
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
def undo(b):
    """Take back the last stone that `play` placed, restoring the position exactly."""
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
def remove(b, stone, colour):
    """Remove the chain of `stone`; its points become liberties of the adjacent chains of `colour`."""
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
    """Put the captured chain of `stone` back on the board; its colour is the opponent of `colour`."""
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
def move(b, point, colour):
    """Play one turn of a game permanently: `play` at the legal `point` (0: pass), note its age, mark stale points."""
    b.turn += 1
    if point == 0:
        b.ko = 0
        return
    play(b, point, colour)
    b.plies = 0
    b.played[point] = b.turn
    # The outcome of a move depends on the point's four neighbours and the liberties of their chains. It can therefore
    # only change next to the new stone, where stones were captured, and at the liberties of chains adjacent to either.
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


@inner
def mark_stale(b, chain):
    """Mark the liberties of the chain as stale for both colours: moves there no longer have the stored outcome."""
    for word in range(b.words):
        b.stale[BLACK, word] |= b.sets[chain, word]
        b.stale[WHITE, word] |= b.sets[chain, word]


@inner
def mark_stale_point(b, point):
    bit = point - b.stride
    word, mask = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
    b.stale[BLACK, word] |= mask
    b.stale[WHITE, word] |= mask
