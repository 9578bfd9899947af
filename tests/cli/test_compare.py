"""`cnnlab compare` as it is typed."""

import subprocess
import sys

import pytest
from planted import plant

from cnnlab.cli.compare import main
from cnnlab.errors import DataError, InputError


@pytest.fixture
def sweep(tmp_path):
    for number, init in enumerate(("zero", "normal")):
        for seed in range(3):
            accuracies = [0.5, 0.6 + number / 5 + seed * seed / 100]
            plant(tmp_path / "my sweep" / f"{init}-{seed}", [f"init={init}"], seed, accuracies)
    return tmp_path / "my sweep"


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


FILES = {
    *(f"comparison.{kind}" for kind in ("csv", "md", "html")),
    *("comparison_runs.csv", "comparison_dots.png", "comparison_learning_curves.png"),
}


def test_writes_into_the_folder_and_may_be_repeated(sweep, capsys):
    main([str(sweep)])
    first = {name: (sweep / name).read_bytes() for name in FILES}
    main([str(sweep)])
    assert names(sweep) == FILES
    assert {name: (sweep / name).read_bytes() for name in FILES} == first
    assert "cannot tell init=normal from init=zero: exactly 0.2000 apart in each of 3 seeds" in capsys.readouterr().out


def test_several_folders_are_written_where_all_are_in(sweep):
    main([str(sweep / "zero-0"), str(sweep / "normal-0")])
    assert names(sweep) == FILES


def test_output_and_metric(sweep, tmp_path, capsys):
    main([str(sweep), "metric=last/val/loss", f"output={tmp_path / 'a=b'}"])
    assert names(tmp_path / "a=b") == FILES
    assert names(sweep) == set()
    assert "by last/val/loss (smaller is better)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a folder"),
        (["metric=best/val/acc"], "needs a folder"),
        (["nowhere"], "does not exist"),
        (["{}", "metrics=best/val/acc"], "Unknown key metrics of compare. Did you mean metric"),
        (["{}", "metric=best/val/ac"], "Did you mean best/val/acc"),
    ],
)
def test_wrong_arguments_are_one_clear_line(sweep, arguments, message):
    with pytest.raises(InputError, match=message):
        main([argument.format(sweep) for argument in arguments])


def test_output_that_cannot_be_written(sweep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="output=FOLDER"):
        main([str(sweep), f"output={tmp_path / 'file'}"])


def test_imports_nothing_heavy():
    script = "import sys, cnnlab.cli.compare; print({'torch', 'lightning', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
