"""Without the packages of the extra `go`, everything that needs them says how to install them."""

import sys
from pathlib import Path

import pytest
from in_process import fork

from cnnlab.cli.main import main

CASES = {
    "numba": ["train", "data=go", "model=alphago_policy", "data.root=games", "paths.output_dir=run"],
    "sgfmill": ["play", "run=outputs/none"],
}


def without(package: str, arguments: list[str], said: Path) -> None:
    """The program where a package cannot be imported, as nothing that needs it has been; for a process of its own."""
    for name in [name for name in sys.modules if name.startswith(("cnnlab.go", "cnnlab.tasks.moves", package))]:
        del sys.modules[name]
    sys.modules[package] = None
    sys.argv = ["cnnlab", *arguments]
    with said.open("w") as sys.stderr:
        main()


@pytest.mark.parametrize("package", CASES)
def test_missing_package_is_told_with_the_command_that_installs_it(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fork(without, package, CASES[package], tmp_path / "said.txt") == 2
    said = (tmp_path / "said.txt").read_text()
    assert "pip install 'cnnlab[go]'" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
