"""Real data small enough for tests: drawn pictures, scikit-learn's digits, and one run that several tests look at."""

import gc
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

# The networks of tests are tiny: a second thread costs more than it gives, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What Numba compiles stays beside the code, not in the cache folder of whoever runs the tests.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "numba"))

import absl.logging
import pytest
from in_process import EVERY_EPOCH, KeptLogging, command_line
from program import SHARED, draw_picture

# Hydra closes the handlers of other libraries, and absl's would close the file that pytest keeps stderr in.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_collection_finish() -> None:
    """Spare the collector the imported modules, and most of its rounds: composing configs makes small objects only."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    return SHARED


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
    with KeptLogging():
        yield


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished three-epoch run of LeNet-5 on digits with every default callback."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    with pytest.MonkeyPatch.context() as patch, KeptLogging():
        patch.chdir(folder.parent)
        assert (
            command_line(
                patch,
                "experiment=quickstart",
                "trainer.max_epochs=3",
                "callbacks.progress=null",
                *EVERY_EPOCH,
                f"paths.output_dir={folder}",
            )
            == 0
        )
    return folder
