"""The prediction of a classifier for an image."""

from dataclasses import dataclass

from PIL import Image

from cnnlab.drawing.sheets import captioned


@dataclass(frozen=True)
class Ranking:
    """The most probable classes of an image with their probabilities, most probable first."""

    classes: list[tuple[str, float]]

    def row(self) -> dict[str, str]:
        cells: dict[str, str] = {}
        for rank, (name, probability) in enumerate(self.classes, start=1):
            cells |= {f"class_{rank}": name, f"probability_{rank}": f"{probability:.6f}"}
        return cells

    @property
    def caption(self) -> str:
        """The two most probable classes, one per line."""
        return "\n".join(f"{name} {value:.1%}" for name, value in self.classes[:2])

    def draw(self, image: Image.Image) -> Image.Image:
        return captioned([image], [self.caption], side=320)
