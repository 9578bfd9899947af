"""The trained detector that tests look at."""

import pytest
from boxes import RUN
from in_process import train_in_process


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("detection") / "run"
    train_in_process(folder, *RUN)
    return folder
