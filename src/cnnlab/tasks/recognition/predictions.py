"""The text that a reader finds in a picture: as a row, and below the picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnlab.drawing.sheets import captioned
from cnnlab.errors import InputError


@dataclass
class PredictOptions:
    """Keys of `cnnlab predict` for recognition.

    beam: number of beginnings of a text that are followed at once; 1 takes the most probable character of each column.
    lexicon: file with the only texts that are possible, one in a row; null: any text.
    """

    beam: int = 1
    lexicon: str | None = None

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise InputError(f"beam={self.beam}: use at least 1.")
        if self.lexicon is not None and self.beam == 1:
            self.beam = 10


@dataclass(frozen=True)
class Text:
    """A text, and how probable each of its characters is where it is most certain."""

    text: str
    scores: tuple[float, ...]

    @property
    def confidence(self) -> float:
        """The probability of the least certain character; 1 for an empty text."""
        return float(np.min(self.scores)) if self.scores else 1.0

    def row(self) -> dict[str, str]:
        return {"text": self.text, "confidence": f"{self.confidence:.6f}"}

    @property
    def caption(self) -> str:
        return f"{self.text or '(nothing)'}\n{self.confidence:.0%}"

    def draw(self, image: Image.Image) -> Image.Image:
        return captioned([image], [self.caption], columns=1, side=480)
