"""Without the packages of the extra `go`, everything that needs them says how to install them."""

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules[sys.argv.pop(1)] = None; from cnnlab.cli.main import main; main()"
"""The program where a package, the first argument, cannot be imported."""


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("numba", ["train", "data=go", "model=alphago_policy", "data.root=games", "paths.output_dir=run"]),
        ("sgfmill", ["play", "run=outputs/none"]),
    ],
)
def test_missing_package_is_told_with_the_command_that_installs_it(tmp_path, package, arguments):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "pip install 'cnnlab[go]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
