"""Where machine code is kept: in the user's own cache folder, renewed with the code, and nowhere if none can be."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

from malicious import Malicious

import cnnlab.go
from cnnlab.go import compiling

MODULE = """
from cnnlab.go.compiling import compiled

@compiled
def double(number):
    return 2 * number

print(double(21), type(double._cache).__name__)
"""


def run(folder, **environment):
    """What a module with one compiled function prints, when the user's home is `folder`/home."""
    (folder / "project").mkdir(exist_ok=True)
    (folder / "project" / "module.py").write_text(MODULE)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    path = str(Path(compiling.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "module.py"],
        cwd=folder / "project",
        env={**variables, "PYTHONPATH": path, "HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_code_is_kept_in_the_users_cache_folder_or_where_the_environment_says(tmp_path):
    assert run(tmp_path) == ["42", "FunctionCache"]
    (kept,) = (tmp_path / "home" / ".cache" / "cnnlab" / "numba").rglob("*.nbc")
    stamp = kept.stat().st_mtime_ns
    run(tmp_path)
    assert kept.stat().st_mtime_ns == stamp  # read, not made again
    run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert list((tmp_path / "cache" / "cnnlab" / "numba").rglob("*.nbc"))
    assert not list(tmp_path.glob("project/**/*.nb?"))
    assert not list(Path(cnnlab.go.__file__).parent.glob("__pycache__/*.nb?"))


def test_prepared_code_in_a_folder_from_elsewhere_is_not_opened(tmp_path):
    """Numba unpickles what it keeps: a project folder must not bring it along."""
    project = tmp_path / "project"
    prepared = project / ".cache" / "numba"
    run(tmp_path, NUMBA_CACHE_DIR=str(prepared))
    assert list(prepared.rglob("*.nbc"))
    marker = tmp_path / "was_run"
    for path in prepared.rglob("*.nb?"):
        path.write_bytes(pickle.dumps(Malicious(marker)))
    (project / ".numba_config.yaml").write_text("cache_dir: .cache/numba\n")
    assert run(tmp_path) == ["42", "FunctionCache"]
    assert not marker.exists()
    run(tmp_path, NUMBA_CACHE_DIR=str(prepared))  # the files are as malicious as they claim
    assert marker.exists()


def test_without_any_place_to_write_functions_are_compiled_all_the_same(tmp_path):
    nowhere = {"NUMBA_CACHE_DIR": "/dev/null/x", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    assert run(tmp_path, **nowhere) == ["42", "NullCache"]


def test_the_folder_changes_with_any_file_of_compiled_functions_and_with_no_other(tmp_path, monkeypatch):
    for source in Path(compiling.__file__).parent.glob("*.py"):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    before = compiling.cache_folder()
    for name in ("chains.py", "rules.py", "ladders.py", "point_features.py", "gtp.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\n")
        assert (compiling.cache_folder() != before) == (name != "gtp.py")
        (tmp_path / name).write_text(text)
    assert compiling.cache_folder() == before
