"""`cnnlab ls` lists the runs that one asks for, in the order that one asks for."""

import pytest
from planted import plant

from cnnlab.cli.ls import main
from cnnlab.errors import InputError


@pytest.fixture
def runs(tmp_path):
    """Two finished runs, one that was stopped after one epoch, and one whose smallest error decides."""
    folder = tmp_path / "runs"
    started = [f"2026-01-0{day}T00:00:00" for day in range(1, 5)]
    plant(folder / "b", ["init=zero"], 0, [0.25, 0.5, 0.75], task="classification", started=started[1])
    plant(folder / "a", ["init=normal"], 1, [0.9, 0.8], task="classification", started=started[2])
    plant(folder / "sub" / "c", ["init=normal"], 2, [0.4], status="interrupted", started=started[0])
    mae = {"metric": "mae", "modes": {"mae": "min"}}
    plant(folder / "d", ["optimizer.lr=0.01"], 3, [0.3, 0.125], **mae, task="regression", started=started[3])
    return folder


def listed(capsys, *arguments) -> list[str]:
    """The names that `cnnlab ls` prints, in order."""
    main(list(map(str, arguments)))
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[0] for line in lines[1:-1]]


def test_every_run_is_listed_with_its_metric_epochs_time_and_status(runs, capsys):
    main([str(runs)])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "task", "metric", "epochs", "time", "status"],
        ["sub/c", "1", "0:00:12", "interrupted"],
        ["b", "classification", "acc", "0.75", "3", "0:00:10", "finished"],
        ["a", "classification", "acc", "0.9", "2", "0:00:11", "finished"],
        ["d", "regression", "mae", "0.125", "2", "0:00:13", "finished"],
        ["4", "runs"],
    ]


@pytest.mark.parametrize(
    ("sort", "names"),
    [("name", "abd"), ("metric", "abd"), ("epochs", "adb"), ("time", "bad")],
)
def test_order(runs, capsys, sort, names):
    assert listed(capsys, runs, f"sort={sort}", "where=status=finished") == list(names)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("init=normal", {"a", "sub/c"}),
        ("init!=normal", {"b", "d"}),
        ("best/val/acc>0.8", {"a"}),
        ("best/val/acc >= 0.75 and seed<1", {"b"}),
        ("optimizer.lr=0.010", {"d"}),
        ("status=Interrupted", {"sub/c"}),
        ("epochs<=2 and status=finished", {"a", "d"}),
        ("seed>7", set()),
    ],
)
def test_conditions(runs, capsys, where, names):
    assert set(listed(capsys, runs, f"where={where}")) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["where=best/val/ac>0.8"], "no run has best/val/ac. Did you mean best/val/acc"),
        (["where=init"], "'init' is not a condition"),
        (["sort=metrc"], "sort=metrc: Did you mean metric"),
        (["sorted=name"], "Unknown key sorted of ls"),
        (["elsewhere"], "lists one folder, not 2"),
    ],
)
def test_what_cannot_be_is_named(runs, arguments, message):
    with pytest.raises(InputError, match=message):
        main([str(runs), *arguments])


def test_folder_without_runs_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="The folder outputs does not exist"):
        main([])
