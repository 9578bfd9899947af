"""A second implementation of the rules and planes: plain Python on dictionaries, slow, following the definitions word
by word (flood fill instead of chains, copied boards instead of undo, recursion instead of fixed points)."""

import numpy as np

ENDLESS = 120
"""Plies from which on a chase is taken to repeat itself; no other one of thousands of games has 100."""
OTHER = {"B": "W", "W": "B"}


class Reference:
    def __init__(self, size=19, setup=()):
        self.size = size
        self.points = [(row, column) for row in range(size) for column in range(size)]
        self.stones = {point: colour for colour, point in setup}
        self.turn = 0
        self.played = {}
        self.ko = None  # (colour, point) that must not be played

    def copy(self):
        new = Reference.__new__(Reference)
        new.__dict__.update(self.__dict__)
        new.stones, new.played = dict(self.stones), dict(self.played)
        return new

    def neighbours(self, point):
        row, column = point
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        return [(r, c) for r, c in near if 0 <= r < self.size and 0 <= c < self.size]

    def diagonals(self, point):
        row, column = point
        near = [(row + r, column + c) for r in (-1, 1) for c in (-1, 1)]
        return [(r, c) for r, c in near if 0 <= r < self.size and 0 <= c < self.size]

    def chain(self, point):
        """The stones of the chain at `point`, and its liberties."""
        colour, found, todo, liberties = self.stones[point], {point}, [point], set()
        while todo:
            for near in self.neighbours(todo.pop()):
                if near not in self.stones:
                    liberties.add(near)
                elif self.stones[near] == colour and near not in found:
                    found.add(near)
                    todo.append(near)
        return found, liberties

    def after(self, colour, point):
        """The board after a move, ko and suicide not asked about; and the stones it captured."""
        new = self.copy()
        new.stones[point] = colour
        captured = set()
        for near in self.neighbours(point):
            if new.stones.get(near) == OTHER[colour]:
                chain, liberties = new.chain(near)
                if not liberties:
                    captured |= chain
        for stone in captured:
            del new.stones[stone]
        new.turn += 1
        new.played[point] = new.turn
        own, liberties = new.chain(point)
        new.ko = None
        if len(captured) == 1 and len(own) == 1 and len(liberties) == 1:
            new.ko = (OTHER[colour], next(iter(captured)))
        return new, captured

    def legal(self, colour, point):
        if point in self.stones or self.ko == (colour, point):
            return False
        new, _ = self.after(colour, point)
        return bool(new.chain(point)[1])

    def play(self, colour, point):
        if point is None:
            self.turn += 1
            self.ko = None
        else:
            self.__dict__.update(self.after(colour, point)[0].__dict__)

    # Ladders

    def answers(self, point):
        colour = self.stones[point]
        chain, liberties = self.chain(point)
        moves = set(liberties)
        for stone in chain:
            for near in self.neighbours(stone):
                if self.stones.get(near) == OTHER[colour]:
                    theirs = self.chain(near)[1]
                    if len(theirs) == 1:
                        moves |= theirs
        return [move for move in moves if self.legal(colour, move)]

    def captures(self, move, point, plies=0):
        """Whether `move`, at one of two liberties of the chain at `point`, captures it."""
        hunter = OTHER[self.stones[point]]
        if not self.legal(hunter, move) or plies >= ENDLESS:
            return False
        new, _ = self.after(hunter, move)
        if len(new.chain(point)[1]) >= 2:
            return False
        return not any(new.escapes(answer, point, plies + 1) for answer in new.answers(point))

    def escapes(self, answer, point, plies=0):
        new, _ = self.after(self.stones[point], answer)
        liberties = new.chain(point)[1]
        if len(liberties) >= 3:
            return True
        return len(liberties) == 2 and not any(new.captures(move, point, plies + 1) for move in liberties)

    # Eyes

    def true_eye(self, colour, point, recursive=True, stack=()):
        if point in self.stones or any(self.stones.get(near) != colour for near in self.neighbours(point)):
            return False
        bad = 0
        for diagonal in self.diagonals(point):
            if self.stones.get(diagonal) == OTHER[colour]:
                bad += 1
            elif recursive and diagonal not in self.stones and diagonal not in stack:
                bad += not self.true_eye(colour, diagonal, recursive, (*stack, point))
        return bad <= (1 if len(self.neighbours(point)) == 4 else 0)

    def planes(self, colour, capture_encoding="0to7", eye="recursive"):
        planes = np.zeros((48, self.size, self.size), np.uint8)
        planes[3] = 1
        for point in self.points:
            if point in self.stones:
                planes[(0 if self.stones[point] == colour else 1, *point)] = 1
                age = self.turn - self.played[point] if point in self.played else 7
                planes[(4 + min(age, 7), *point)] = 1
                planes[(12 + min(len(self.chain(point)[1]), 8) - 1, *point)] = 1
                continue
            planes[(2, *point)] = 1
            if not self.legal(colour, point):
                continue
            new, captured = self.after(colour, point)
            own, liberties = new.chain(point)
            if capture_encoding == "0to7":
                planes[(20 + min(len(captured), 7), *point)] = 1
            elif captured:
                planes[(20 + min(len(captured), 8) - 1, *point)] = 1
            if len(liberties) == 1:
                planes[(28 + min(len(own), 8) - 1, *point)] = 1
            planes[(36 + min(len(liberties), 8) - 1, *point)] = 1
            planes[(46, *point)] = not self.true_eye(colour, point, eye == "recursive")
        seen = set()
        for point, stone in self.stones.items():
            if point in seen:
                continue
            chain, liberties = self.chain(point)
            seen |= chain
            if stone != colour and len(liberties) == 2:
                for move in liberties:
                    if self.captures(move, point):
                        planes[(44, *move)] = 1
            elif stone == colour and len(liberties) == 1:
                for answer in self.answers(point):
                    if self.escapes(answer, point):
                        planes[(45, *answer)] = 1
        return planes


def reference_planes(moves, size=19, setup=(), only=0, **options):
    """What game_planes returns, from the `only`-th move on."""
    board, planes, labels = Reference(size, setup), [], []
    for number, (colour, point) in enumerate(moves):
        if point is not None and number >= only:
            assert board.legal(colour, point)
            planes.append(board.planes(colour, **options))
            labels.append(point[0] * size + point[1])
        board.play(colour, point)
    return np.array(planes).reshape(-1, 48, size, size), np.array(labels, np.int64)
