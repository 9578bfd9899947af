"""`cnnlab diff` shows what differs between two runs, and nothing else."""

import pytest
from planted import plant

from cnnlab.cli.diff import main
from cnnlab.errors import DataError, InputError


@pytest.fixture
def pair(tmp_path):
    first = plant(tmp_path / "first", ["init=zero"], 0, [0.25, 0.5])
    second = plant(tmp_path / "second", ["init=normal", "optimizer.lr=0.01"], 0, [0.25, 0.75])
    return [str(first), str(second)]


def shown(capsys, *arguments) -> dict[str, list[str]]:
    main(list(arguments))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_settings_and_results_that_differ(pair, capsys):
    table = shown(capsys, *pair)
    assert table["init.name"] == ["zero", "normal"]
    assert table["optimizer.lr"] == ["0.001", "0.01"]
    assert table["best/val/acc"] == ["0.5", "0.75", "+0.25"]
    assert table["last/val/loss"] == ["0.5", "0.25", "-0.25"]
    assert not {"seed", "split", "status", "wall_seconds", "paths.output_dir", "init._target_"} & set(table)


def test_everything_on_demand(pair, capsys):
    table = shown(capsys, *pair, "all=true")
    assert table["seed"] == ["0", "0"]
    assert table["status"] == ["finished", "finished"]


def test_run_does_not_differ_from_itself(pair, capsys):
    main([pair[0], pair[0]])
    assert capsys.readouterr().out == "The runs do not differ.\n"


def test_what_is_no_run_is_named(pair, tmp_path):
    with pytest.raises(InputError, match="needs two run folders; 1 given"):
        main(pair[:1])
    with pytest.raises(InputError, match=r"no run\.json"):
        main([pair[0], str(tmp_path)])
    (tmp_path / "first" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json cannot be read"):
        main(pair)
