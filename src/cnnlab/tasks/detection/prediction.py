"""Options of `cnnlab predict` for detection."""

from dataclasses import dataclass

from cnnlab.errors import InputError


@dataclass
class PredictOptions:
    """Keys of `cnnlab predict` for detection.

    min_score: lowest score of a detection that is written and drawn.
    tile: side in pixels of the tiles that pictures are cut into; null: pictures as a whole.
    overlap: share of a tile that the next one covers too.
    """

    min_score: float = 0.5
    tile: int | None = None
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score={self.min_score}: use a number from 0 to 1.")
