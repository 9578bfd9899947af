"""Without the packages of the extra `go`, everything that needs them says how to install them."""

import json
import subprocess
import sys

import pytest

WITHOUT = """
import sys

from cnnlab.cli.main import main

for package, *arguments in CASES:
    sys.modules[package] = None
    sys.argv = ["cnnlab", *arguments]
    print("CASE", file=sys.stderr)
    try:
        main()
    except SystemExit as end:
        print("EXIT", end.code, file=sys.stderr)
    for name in [name for name in sys.modules if name.startswith(("cnnlab.go", "cnnlab.tasks.moves", package))]:
        del sys.modules[name]
"""
"""The program where packages cannot be imported, one after the other in a process that nobody else uses."""
CASES = {
    "numba": ["train", "data=go", "model=alphago_policy", "data.root=games", "paths.output_dir=run"],
    "sgfmill": ["play", "run=outputs/none"],
}


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, str]:
    """Package -> what the program writes without it, with its exit code."""
    folder = tmp_path_factory.mktemp("extra")
    cases = f"CASES = {json.dumps([[package, *arguments] for package, arguments in CASES.items()])}\n"
    command = [sys.executable, "-c", cases + WITHOUT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert not (folder / "run").exists()
    parts = done.stderr.split("CASE\n")[1:]
    assert len(parts) == len(CASES), done.stderr
    return dict(zip(CASES, parts, strict=True))


@pytest.mark.parametrize("package", CASES)
def test_missing_package_is_told_with_the_command_that_installs_it(said, package):
    assert "pip install 'cnnlab[go]'" in said[package]
    assert "Traceback" not in said[package]
    assert said[package].endswith("EXIT 2\n")
