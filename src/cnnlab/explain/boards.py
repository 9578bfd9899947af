"""A Go board as a picture: stones, the last move, and how probable a network thinks each move."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cnnlab.explain.sheets import MARGIN, TEXT, TITLE

LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
WOOD, LINE, HEAT, PLAYED = (226, 187, 120), (70, 50, 20), (196, 30, 58), (20, 90, 200)
SMOOTH = 2
"""Pictures are drawn so many times larger and reduced: PIL draws circles without smoothing."""
TOP = 5


def board_picture(
    rows: Sequence[str],
    probabilities: np.ndarray,
    title: str,
    last: tuple[int, int] | None = None,
    played: tuple[int, int] | None = None,
    cell: int = 30,
) -> Image.Image:
    """The position with a red square on every point, the larger the more probable, and the best five in per cent.

    rows: strings of X, O and ., top line first. probabilities: float [size, size]. last: the last move, a ring on its
    stone. played: the move that followed, a blue frame. cell: pixels between two lines.
    """
    size = len(rows)
    drawn = _board(rows, probabilities, last, played, cell * SMOOTH)
    board = drawn.resize((drawn.width // SMOOTH, drawn.height // SMOOTH), Image.Resampling.LANCZOS)
    best = [divmod(int(index), size) for index in np.argsort(-probabilities, axis=None, kind="stable")[:TOP]]
    moves = [f"{_name(point, size)} {probabilities[point]:.1%}" for point in best]
    if played is not None and played not in best:
        moves.append(f"played {_name(played, size)} {probabilities[played]:.1%}")
    lines = [title, "   ".join(moves)]
    page = Image.new("RGB", (board.width + 2 * MARGIN, board.height + 2 * MARGIN + TITLE + TEXT + 14), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), lines[0], fill="black", font_size=TITLE)
    draw.text((MARGIN, MARGIN + TITLE + 4), lines[1], fill="black", font_size=TEXT)
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
    side = (size + 1) * cell
    page = Image.new("RGB", (side, side), WOOD)
    draw = ImageDraw.Draw(page)
    for line in range(1, size + 1):
        draw.line((cell, line * cell, size * cell, line * cell), fill=LINE, width=SMOOTH)
        draw.line((line * cell, cell, line * cell, size * cell), fill=LINE, width=SMOOTH)
        letter, number = LETTERS[line - 1], str(size + 1 - line)
        for x, y, text in ((line, 0.35, letter), (line, size + 0.65, letter)):
            draw.text((x * cell, y * cell), text, fill=LINE, font_size=0.36 * cell, anchor="mm")
        for x, y, text in ((0.35, line, number), (size + 0.65, line, number)):
            draw.text((x * cell, y * cell), text, fill=LINE, font_size=0.36 * cell, anchor="mm")
    for row, column in _star_points(size):
        _circle(draw, row, column, 0.1, cell, fill=LINE)
    for (row, column), probability in np.ndenumerate(probabilities):
        if rows[row][column] == ".":
            half = 0.45 * min(1.0, float(probability)) ** 0.5 * cell
            x, y = (column + 1) * cell, (row + 1) * cell
            if half >= 1:
                draw.rectangle((x - half, y - half, x + half, y + half), fill=HEAT)
    for row, line in enumerate(rows):
        for column, kind in enumerate(line):
            if kind != ".":
                _circle(draw, row, column, 0.47, cell, fill="black" if kind == "X" else "white", outline="black")
    if last is not None:
        ring = "white" if rows[last[0]][last[1]] == "X" else "black"
        _circle(draw, *last, 0.22, cell, outline=ring, width=round(0.07 * cell))
    best = np.argsort(-probabilities, axis=None, kind="stable")[:TOP]
    for index in best.tolist():
        row, column = divmod(index, size)
        if rows[row][column] == ".":
            _label(draw, row, column, f"{100 * probabilities[row, column]:.0f}", cell)
    if played is not None:
        x, y, half = (played[1] + 1) * cell, (played[0] + 1) * cell, 0.47 * cell
        draw.rectangle((x - half, y - half, x + half, y + half), outline=PLAYED, width=round(0.08 * cell))
    return page


def _circle(draw: ImageDraw.ImageDraw, row: int, column: int, radius: float, cell: int, **style: object) -> None:
    x, y, r = (column + 1) * cell, (row + 1) * cell, radius * cell
    draw.ellipse((x - r, y - r, x + r, y + r), **style)  # type: ignore[arg-type]


def _label(draw: ImageDraw.ImageDraw, row: int, column: int, text: str, cell: int) -> None:
    place = ((column + 1) * cell, (row + 1) * cell)
    draw.text(place, text, fill="white", font_size=0.5 * cell, anchor="mm", stroke_width=cell // 15, stroke_fill=HEAT)


def _star_points(size: int) -> list[tuple[int, int]]:
    edge = 3 if size >= 13 else 2
    lines = sorted({edge, size // 2, size - 1 - edge} if size % 2 and size >= 9 else {edge, size - 1 - edge})
    return [(row, column) for row in lines for column in lines] if size >= 7 else []


def _name(point: tuple[int, int], size: int) -> str:
    return f"{LETTERS[point[1]]}{size - point[0]}"
