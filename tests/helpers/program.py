"""Where the repository and its data are, pictures drawn for tests, and the program as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"


def draw_picture(path: Path, shape: str, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A circle or a square of random place and colour on a random background, as a file of the path's format."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 100, 3).tolist()))
    left, top = rng.integers(2, 14, 2).tolist()
    box = (left, top, left + 20, top + 20)
    colour = tuple(rng.integers(150, 256, 3).tolist())
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def run_program(
    *arguments: str, cwd: Path, program: str = "train.py", timeout: float = 300
) -> subprocess.CompletedProcess:
    """`python train.py ARGUMENTS` (or `python -m cnnlab ARGUMENTS` with program="cnnlab") as a user types it.

    It can import the modules of tests.
    """
    command = ["-m", "cnnlab"] if program == "cnnlab" else [str(REPOSITORY / program)]
    modules = os.pathsep.join([str(REPOSITORY / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONWARNINGS": "default", "PYTHONPATH": modules}
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
