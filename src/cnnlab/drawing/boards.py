"""Draw a Go board: the stones, the last move, and the probability that a network gives to each move."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cnnlab.drawing.sheets import MARGIN, TEXT, TITLE
from cnnlab.system.fonts import draw_text, font

LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
WOOD, LINE, HEAT, PLAYED = (226, 187, 120), (70, 50, 20), (196, 30, 58), (20, 90, 200)
SMOOTH = 2
"""Factor by which pictures are drawn larger and then reduced: PIL draws circles without antialiasing."""
TOP = 5
"""Number of moves that are labelled with their probability."""


def board_picture(
    rows: Sequence[str],
    probabilities: np.ndarray,
    title: str,
    last: tuple[int, int] | None = None,
    played: tuple[int, int] | None = None,
    cell: int = 30,
) -> Image.Image:
    """Draw a position with a red square on every empty point, larger for more probable moves, and the top five in %.

    rows: strings of X, O and ., top line first. probabilities: float [size, size]. last: (row, column) of the last
    move, whose stone gets a ring. played: (row, column) of the move that was played next, which gets a blue frame.
    cell: pixels between two lines.
    """
    size = len(rows)
    large = _board(rows, probabilities, last, played, cell * SMOOTH)
    board = large.resize((large.width // SMOOTH, large.height // SMOOTH), Image.Resampling.LANCZOS)
    best = _best(probabilities)
    moves = [f"{_name(point, size)} {probabilities[point]:.1%}" for point in best]
    if played is not None and played not in best:
        moves.append(f"played {_name(played, size)} {probabilities[played]:.1%}")
    page = Image.new("RGB", (board.width + 2 * MARGIN, board.height + 2 * MARGIN + TITLE + TEXT + 14), "white")
    pen = ImageDraw.Draw(page)
    draw_text(pen, (MARGIN, MARGIN), title, TITLE, "black")
    draw_text(pen, (MARGIN, MARGIN + TITLE + 4), "   ".join(moves), TEXT, "black")
    page.paste(board, (MARGIN, MARGIN + TITLE + TEXT + 14))
    return page


def _board(
    rows: Sequence[str],
    probabilities: np.ndarray,
    last: tuple[int, int] | None,
    played: tuple[int, int] | None,
    cell: int,
) -> Image.Image:
    size = len(rows)
    page = Image.new("RGB", ((size + 1) * cell, (size + 1) * cell), WOOD)
    pen = ImageDraw.Draw(page)
    _grid(pen, size, cell)
    empty = [(row, column) for row, column in np.ndindex(size, size) if rows[row][column] == "."]
    for point in empty:
        _square(pen, point, 0.45 * min(1.0, float(probabilities[point])) ** 0.5, cell, fill=HEAT)
    for row, column in np.ndindex(size, size):
        if (stone := rows[row][column]) != ".":
            _circle(pen, (row, column), 0.47, cell, fill="black" if stone == "X" else "white", outline="black")
    if last is not None:
        ring = "white" if rows[last[0]][last[1]] == "X" else "black"
        _circle(pen, last, 0.22, cell, outline=ring, width=round(0.07 * cell))
    for point in set(_best(probabilities)) & set(empty):
        percent = 100 * probabilities[point]
        label = f"{percent:.0f}" if percent >= 1 else "<1"
        _text(pen, point, label, 0.5, cell, fill="white", stroke_width=cell // 15, stroke_fill=HEAT)
    if played is not None:
        _square(pen, played, 0.47, cell, outline=PLAYED, width=round(0.08 * cell))
    return page


def _grid(pen: ImageDraw.ImageDraw, size: int, cell: int) -> None:
    """Draw the lines, the star points, and the coordinates on all four sides."""
    for line in range(1, size + 1):
        pen.line((cell, line * cell, size * cell, line * cell), fill=LINE, width=SMOOTH)
        pen.line((line * cell, cell, line * cell, size * cell), fill=LINE, width=SMOOTH)
    for point in _star_points(size):
        _circle(pen, point, 0.1, cell, fill=LINE)
    for line in range(size):
        for rim in (-0.65, size - 0.35):
            _text(pen, (rim, line), LETTERS[line], 0.36, cell, fill=LINE)
            _text(pen, (line, rim), str(size - line), 0.36, cell, fill=LINE)


def _best(probabilities: np.ndarray) -> list[tuple[int, int]]:
    """Return the TOP most probable points, most probable first."""
    order = np.argsort(-probabilities, axis=None, kind="stable")[:TOP]
    return [divmod(int(index), len(probabilities)) for index in order]


def _circle(pen: ImageDraw.ImageDraw, point: tuple[float, float], radius: float, cell: int, **style: Any) -> None:
    pen.ellipse(_box(point, radius, cell), **style)


def _square(pen: ImageDraw.ImageDraw, point: tuple[float, float], half: float, cell: int, **style: Any) -> None:
    if half * cell >= 1:
        pen.rectangle(_box(point, half, cell), **style)


def _text(
    pen: ImageDraw.ImageDraw, point: tuple[float, float], text: str, size: float, cell: int, **style: Any
) -> None:
    row, column = point
    pen.text(((column + 1) * cell, (row + 1) * cell), text, font=font(size * cell), anchor="mm", **style)


def _box(point: tuple[float, float], half: float, cell: int) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom), in pixels, of the square around a point of the board."""
    row, column = point
    x, y, reach = (column + 1) * cell, (row + 1) * cell, half * cell
    return x - reach, y - reach, x + reach, y + reach


def _star_points(size: int) -> list[tuple[int, int]]:
    edge = 3 if size >= 13 else 2
    lines = sorted({edge, size // 2, size - 1 - edge} if size % 2 and size >= 9 else {edge, size - 1 - edge})
    return [(row, column) for row in lines for column in lines] if size >= 7 else []


def _name(point: tuple[int, int], size: int) -> str:
    return f"{LETTERS[point[1]]}{size - point[0]}"
