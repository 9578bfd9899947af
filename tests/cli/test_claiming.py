"""Two runs never share a folder, whichever key names it."""

import json

import pytest
from in_process import command_line, digits_with

from cnnlab.cli.claiming import claimed_overrides, with_literal_folder
from cnnlab.config.overrides import value_of
from cnnlab.errors import InputError

TINY = digits_with("trainer.max_epochs=1", "trainer.limit_train_batches=2")


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch, kept_logging):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", ["hydra.run.dir", "++hydra.run.dir", "paths.output_dir"])
def test_second_run_of_a_named_folder_is_refused(key, monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, f"{key}=my run") == 0
    first = (tmp_path / "my run" / "run.json").read_text()
    assert json.loads(first)["status"] == "finished"
    assert command_line(monkeypatch, *TINY, f"{key}=my run", "seed=1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "my run" / "run.json").read_text() == first


def test_settings_are_checked_whichever_key_names_the_folder(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "hydra.run.dir=a", "optimizer.lrr=1", "seed=x") == 2
    error = capsys.readouterr().err
    assert "Did you mean optimizer.lr" in error
    assert "seed='x' is not int" in error
    assert list(tmp_path.iterdir()) == []


def refusal(monkeypatch, capsys, *overrides: str) -> str:
    """The one message that refuses a run before it has a folder."""
    assert command_line(monkeypatch, *overrides) == 2
    said = capsys.readouterr()
    assert said.err.startswith("Error: ")
    assert "Traceback" not in said.err
    assert "Set the environment variable HYDRA_FULL_ERROR" not in said.err + said.out
    return said.err


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            [
                *("hydra={job:{chdir:true},sweep:{subdir:a}}", "hydra.output_subdir=a", "++hydra.runtime.output_dir=a"),
                *("hydra.mode=MULTIRUN", "+hydra.rnu.dir=a", "hydra.job_logging.root.level=LOUD"),
            ],
            [
                *("hydra.job.chdir is not possible", "hydra.sweep.dir and hydra.sweep.subdir cannot be set"),
                *("hydra.output_subdir cannot be set: config.yaml", "hydra.runtime cannot be set"),
                *("hydra.mode cannot be set: -m starts", "Unknown key hydra.rnu. Did you mean run"),
                "hydra.job_logging.root.level=LOUD is not a level of logging",
            ],
        ),
        (["hydra/launcher=jblib", "~hydra.run"], ["unknown option jblib", "settings of Hydra cannot be deleted"]),
        (["hydra.rnu.dir=a", "hydra.run.dir=null"], ["Did you mean hydra.run.dir", "dir=null: it cannot be null"]),
        (["hydra.job.num=x", "+hydra.sweep.subdir=a"], ["could not be converted to Integer", "leave out the +"]),
        (["hydra={run:{dir:a}}", "paths.output_dir=b"], ["both name the run folder"]),
        (["hydra.searchpath=[nowhere]"], ["hydra.searchpath=[nowhere]: a folder was not found"]),
        (["hydra.run.dir=${oc.env:CNNLAB_NOWHERE}/a"], ["hydra.run.dir does not resolve: "]),
        (["--config-name", "other"], ["--config-name is not possible"]),
        (["--config-path", "other"], ["--config-path is not possible"]),
        (["--help", "modell=lenet5"], ["unknown key modell. Did you mean model"]),
        (["--cfg", "job", "hydra.run.dir=a", "hydra.job.chdir=true"], ["hydra.job.chdir is not possible"]),
        (["--cfg", "job", "seed=x", "hydra.run.dir=a"], ["seed='x' is not int"]),
        (["--cfg", "job", "--package", "optimiser"], ["no such part. Did you mean optimizer"]),
        (["-m", "--cfg", "job", "seed=1,2"], ["--cfg and --info show one config: leave out -m"]),
        (["--resolve"], ["--package and --resolve say how to show a config"]),
        (["--shell-completion"], ["--shell-completion needs install=SHELL"]),
    ],
)
def test_setting_of_hydra_that_no_run_has_is_refused(overrides, messages, monkeypatch, tmp_path, capsys):
    said = refusal(monkeypatch, capsys, *overrides)
    assert [message for message in messages if message not in said] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "folder"),
    [
        ("+hydra.run.dir=a", "a"),
        ("hydra={run:{dir:a}}", "a"),
        ("paths={output_dir:a}", "a"),
        ("hydra.run.dir=a/${seed}/${hydra.job.name}", "a/0/train"),
        ("hydra.run.dir=${oc.env:CNNLAB_HERE}/a", "here/a"),
    ],
)
def test_folder_has_the_name_that_was_given_in_any_spelling(override, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CNNLAB_HERE", "here")
    _, given = with_literal_folder(["model=lenet5", override], None)
    assert given[-1] == f"paths.output_dir='{folder}'"


def test_folder_that_a_file_names_is_taken_once(tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nhydra: {run: {dir: a}}\n")
    words = (["model=lenet5", "data=digits", "experiment=mine"], str(tmp_path / "own"))
    assert value_of(claimed_overrides(*words)[-1]) == str(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run"):
        claimed_overrides(*words)


def test_run_folder_is_no_file(monkeypatch, tmp_path, capsys):
    (tmp_path / "a").write_text("notes")
    assert "a is a file. Name a folder" in refusal(monkeypatch, capsys, *TINY, "hydra.run.dir=a/b")


def test_folder_of_an_earlier_run_of_this_process_is_not_taken_again(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "hydra.run.dir=${hydra.job.name}") == 0
    assert "paths.output_dir='train'" in (tmp_path / "train" / "overrides.yaml").read_text()  # as resume= needs it
    capsys.readouterr()
    assert "already holds a run" in refusal(monkeypatch, capsys, *TINY, f"hydra.run.dir={tmp_path / 'train'}")
    assert "cannot change when a run is resumed" in refusal(monkeypatch, capsys, "resume=train", "paths.output_dir=b")
    assert command_line(monkeypatch, "resume=train") == 0


def test_run_that_cannot_work_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "model.image_size=28") == 2
    assert "LeNet5" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").iterdir())


def test_folder_that_was_there_keeps_what_it_holds(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert command_line(monkeypatch, *TINY, "model.image_size=28", "paths.output_dir=mine") == 2
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != "train.log"] == ["notes.txt"]
