"""Compute AlphaGo's 48 feature planes of a position (Silver et al. 2016, Extended Data Table 2, in the table's order).

Where the paper leaves the semantics open, this follows RocAlphaGo, as most replications do.

| planes | at | meaning |
| --- | --- | --- |
| 0-2 | all points | stone of the player to move, stone of the opponent, empty |
| 3 | all points | 1 |
| 4-11 | stones | turns since the stone was played: 0, 1, ..., 7 or more (set-up stones: the oldest) |
| 12-19 | stones | liberties of the chain: 1, 2, ..., 8 or more |
| 20-27 | legal moves | captured opponent stones: 0, 1, ..., 7 or more ("0to7"); 1, 2, ..., 8 or more ("1to8") |
| 28-35 | legal moves that leave their own chain one liberty | stones of that chain: 1, 2, ..., 8 or more |
| 36-43 | legal moves | liberties of the own chain after the move: 1, 2, ..., 8 or more |
| 44, 45 | legal moves | ladder capture, ladder escape (see cnnlab.go.ladders) |
| 46 | legal moves | sensible: does not fill a true eye of the player to move |
| 47 | all points | 0 |
"""

import numpy as np

from cnnlab.go.chains import EDGE, EMPTY, lowest, ones
from cnnlab.go.compiling import compiled, inner
from cnnlab.go.ladders import mark_ladders
from cnnlab.go.rules import is_legal, move


@inner
def look_ahead(b, point, colour):
    """Compute the outcome of a stone of `colour` at the empty `point`, ignoring ko.

    Sets `after` to the liberties of its chain (0: suicide), `captures` to the number of captured stones, and `own` to
    the number of stones of its chain.
    """
    empty = captures = 0
    own = 1
    joined = False
    for index in range(4):
        near = point + b.steps[index]
        kind = b.colour[near]
        if kind == EMPTY:
            empty += 1
        elif kind == colour or kind == 3 - colour:
            chain = b.chain[near]
            again = False
            for before in range(index):
                beside = point + b.steps[before]
                again |= b.colour[beside] == kind and b.chain[beside] == chain
            if again:
                continue
            if kind == colour:
                own += b.stones[chain]
                joined = True
            elif b.liberties[chain] == 1:
                captures += b.stones[chain]
    b.captures[colour, point] = captures
    b.own[colour, point] = own
    if joined or captures:
        b.after[colour, point] = united(b, point, colour, captures > 0)
    else:
        b.after[colour, point] = empty


@inner
def united(b, point, colour, captures):
    """Return the liberties of the chain that a stone at `point` forms with the adjacent chains of `colour`."""
    reach = b.scratch
    for word in range(b.words):
        reach[word] = 0
    for step in b.steps:
        near = point + step
        if b.colour[near] == EMPTY:
            reach_point(b, near)
        elif b.colour[near] == colour:
            chain = b.chain[near]
            for word in range(b.words):
                reach[word] |= b.sets[chain, word]
    if captures:
        for step in b.steps:
            near = point + step
            if b.colour[near] == 3 - colour and b.liberties[b.chain[near]] == 1:
                reach_captured(b, near, point, colour)
    bit = point - b.stride
    reach[bit >> 6] &= ~(np.uint64(1) << np.uint64(bit & 63))
    count = 0
    for word in range(b.words):
        count += ones(reach[word])
    return count


@inner
def reach_point(b, point):
    bit = point - b.stride
    b.scratch[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)


@inner
def reach_captured(b, stone, point, colour):
    """Add the points of a chain captured by `point` that are adjacent to `point` or to a chain that it joins."""
    at = stone
    while True:
        for step in b.steps:
            beside = at + step
            if beside == point:
                reach_point(b, at)
            elif b.colour[beside] == colour:
                for link in b.steps:
                    near = point + link
                    if b.colour[near] == colour and b.chain[near] == b.chain[beside]:
                        reach_point(b, at)
        at = b.next[at]
        if at == stone:
            return


@inner
def refresh(b, colour):
    """Recompute the outcome of moves at the points that are stale for `colour`."""
    for word in range(b.words):
        left = b.stale[colour, word]
        b.stale[colour, word] = 0
        while left:
            point = 64 * word + lowest(left) + b.stride
            left &= left - np.uint64(1)
            if b.colour[point] == EMPTY:
                look_ahead(b, point, colour)


@inner
def find_eyes(b, colour, recursive, eye):
    """Set `eye` to 1 at the true eyes of `colour`, else to 0.

    An eye is an empty point whose four neighbours are stones of its colour or edge, with at most one bad diagonal point
    in the centre and none at the edge. A diagonal point is bad if it is an opponent stone or, if `recursive`, empty but
    not a true eye itself. RocAlphaGo evaluates this recursively and counts points already under evaluation as good.
    The result is the largest set of points consistent with the rule, found here by removing points until it holds.
    """
    found = 0
    for point in range(b.stride, b.stride * (b.size + 1)):
        eye[point] = 0
        if b.colour[point] == EMPTY:
            closed = True
            for step in b.steps:
                kind = b.colour[point + step]
                closed &= kind in (colour, EDGE)
            if closed:
                eye[point] = 1
                found += 1
    changed = found > 0
    while changed:
        changed = False
        for point in range(b.stride, b.stride * (b.size + 1)):
            if eye[point] and not holds(b, point, colour, recursive, eye):
                eye[point] = 0
                changed = True


@inner
def holds(b, point, colour, recursive, eye):
    """Return whether an eye's diagonal points make it a true eye, given the remaining eyes."""
    bad = 0
    inside = True
    for vertical in (-b.stride, b.stride):
        for horizontal in (-1, 1):
            inside &= b.colour[point + vertical] != EDGE and b.colour[point + horizontal] != EDGE
            diagonal = point + vertical + horizontal
            kind = b.colour[diagonal]
            if kind == 3 - colour or (recursive and kind == EMPTY and not eye[diagonal]):
                bad += 1
    return bad <= (1 if inside else 0)


@inner
def write_planes(b, colour, planes, first_capture, recursive_eyes, eye):
    """Fill `planes` (uint8 [features, size, size], all 0) for `colour` to move.

    first_capture: number of captured stones that plane 20 stands for, 0 or 1. eye: uint8 buffer, one flag for a point.
    """
    features = planes.shape[0]
    planes[3] = 1
    if features > 20:
        refresh(b, colour)
        find_eyes(b, colour, recursive_eyes, eye)
    for row in range(b.size):
        for column in range(b.size):
            point = (row + 1) * b.stride + column
            kind = b.colour[point]
            if kind != EMPTY:
                planes[0 if kind == colour else 1, row, column] = 1
                if features > 4:
                    planes[4 + min(b.turn - b.played[point], 7), row, column] = 1
                if features > 12:
                    planes[11 + min(b.liberties[b.chain[point]], 8), row, column] = 1
                continue
            planes[2, row, column] = 1
            after = b.after[colour, point]
            if features <= 20 or after == 0 or (point == b.ko and colour == b.ko_colour):
                continue
            captures = b.captures[colour, point] - first_capture
            if captures >= 0:
                planes[20 + min(captures, 7), row, column] = 1
            if after == 1:
                planes[27 + min(b.own[colour, point], 8), row, column] = 1
            planes[35 + min(after, 8), row, column] = 1
            planes[46, row, column] = 1 - eye[point]
    if features > 20:
        mark_ladders(b, colour, planes)


@compiled
def replay(b, moves, numbers, planes, labels, first_capture, recursive_eyes):
    """Play `moves` and write the planes before the moves with the ascending `numbers`, and the points of these moves.

    b: the position before the first move. moves: int64 [n, 2] of (colour, point), point 0 for a pass.
    Returns -1, or the number of the first illegal move; nothing is written from that move on.
    """
    eye = np.zeros(b.colour.shape[0], np.uint8)
    at = 0
    for number in range(moves.shape[0]):
        if at == numbers.shape[0]:
            break
        colour, point = moves[number, 0], moves[number, 1]
        if point and not is_legal(b, point, colour):
            return number
        if number == numbers[at]:
            write_planes(b, colour, planes[at], first_capture, recursive_eyes, eye)
            labels[at] = (point // b.stride - 1) * b.size + point % b.stride
            at += 1
        move(b, point, colour)
    return -1


@compiled
def planes_of(b, colour, planes, first_capture, recursive_eyes):
    """Write the planes of a single position, see `write_planes`."""
    write_planes(b, colour, planes, first_capture, recursive_eyes, np.zeros(b.colour.shape[0], np.uint8))
