"""Real data small enough for tests: drawn pictures, scikit-learn's digits, and one run that several tests look at."""

import logging
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

# The networks of tests are tiny: a second thread costs more than it gives, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What Numba compiles stays beside the code, not in the cache folder of whoever runs the tests.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import numpy as np
import pytest
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    return SHARED


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


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two class folders, circle and square, with 20 drawn pictures each."""
    for label, shape in enumerate(("circle", "square")):
        for number in range(20):
            draw_picture(tmp_path / "pictures" / shape / f"{number:02d}.png", shape, 100 * label + number)
    return tmp_path / "pictures"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address fails as without a connection; gives the addresses that were asked for."""
    asked: list[str] = []

    def fail(request: urllib.request.Request | str, *arguments: object, **options: object) -> None:
        asked.append(request if isinstance(request, str) else request.full_url)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    return asked


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """Hydra replaces the root logger's handlers; give them back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def run_program(
    *arguments: str, cwd: Path, program: str = "train.py", timeout: float = 300
) -> subprocess.CompletedProcess:
    """`python train.py ARGUMENTS` (or `python -m cnnlab ARGUMENTS` with program="cnnlab") as a user types it.

    It can import the modules of tests.
    """
    command = ["-m", "cnnlab"] if program == "cnnlab" else [str(REPOSITORY / program)]
    modules = os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONWARNINGS": "default", "PYTHONPATH": modules}
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished three-epoch run of LeNet-5 on digits with every default callback."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    done = run_program("experiment=quickstart", "trainer.max_epochs=3", f"paths.output_dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder
