"""Fixed placement of handicap stones (GTP 2 specification, section 4.1.1)."""

from cnnlab.go.positions import Point


def most_handicap(size: int) -> int:
    """Return the largest fixed handicap on a board: 9 or 4 stones, or 0 if the board is too small."""
    if size < 7:
        return 0
    return 4 if size % 2 == 0 or size == 7 else 9


def fixed_handicap(stones: int, size: int) -> list[Point]:
    """Return the points for 2 to `most_handicap(size)` handicap stones."""
    near = 3 if size > 11 else 2
    far, middle = size - 1 - near, size // 2
    corners = [(far, near), (near, far), (near, near), (far, far)]
    sides = [(middle, near), (middle, far), (far, middle), (near, middle)]
    points = (corners + sides)[: stones if stones < 5 else stones // 2 * 2]
    return [*points, (middle, middle)] if stones >= 5 and stones % 2 else points
