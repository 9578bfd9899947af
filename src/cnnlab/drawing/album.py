"""Write pictures to files in one folder, and show the same pictures in TensorBoard."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cnnlab.drawing.sheets import grid, png
from cnnlab.system.files import write_bytes, write_json

SUFFIX = ".pictures"
"""Suffix of the event files that an album writes: it replaces only its own."""


class Album:
    """A folder of PNG and JSON files, written atomically, and an event file with the main pictures for TensorBoard.

    A new album in the same folder replaces the pictures of the previous one. Use as a context manager.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        """Paths of the main files, in the order in which they were added."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        self.events = SummaryWriter(str(folder), filename_suffix=SUFFIX)
        """The writer of the event file, for scalars and embeddings too."""

    def __enter__(self) -> "Album":
        return self

    def __exit__(self, *error: object) -> None:
        self.events.close()

    def add(self, name: str, picture: Image.Image, tag: str | None = None, step: int = 0) -> None:
        """Write `<name>.png`, and log it to TensorBoard under `tag` (default: the name)."""
        self.keep(name, picture)
        self.paths.append(self.folder / f"{name}.png")
        self.events.add_image(tag or name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def film(self, name: str, frames: Sequence[Image.Image], columns: int = 4) -> None:
        """Write `<name>.gif`, and `<name>.png` with up to eight evenly spaced frames."""
        buffer = io.BytesIO()
        first, *others = frames
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=500, loop=0)
        write_bytes(self.folder / f"{name}.gif", buffer.getvalue())
        self.paths.append(self.folder / f"{name}.gif")
        shown = sorted({round(number * (len(frames) - 1) / 7) for number in range(8)})
        self.add(name, grid([frames[number] for number in shown], columns=min(columns, len(shown)), gap=6))

    def keep(self, name: str, picture: Image.Image) -> None:
        """Write `<name>.png` only: not a main file, and not in TensorBoard."""
        write_bytes(self.folder / f"{name}.png", png(picture))

    def numbers(self, name: str, value: Any) -> None:
        """Write the numbers behind a picture to `<name>.json`."""
        write_json(self.folder / f"{name}.json", value)
        self.paths.append(self.folder / f"{name}.json")
