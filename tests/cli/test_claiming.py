"""Two runs never share a folder, whichever key names it."""

import json

import pytest
from in_process import command_line, digits_with

from cnnlab.cli.claiming import claimed_overrides
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
    ("overrides", "message"),
    [
        (["hydra.run.dir=a", "paths.output_dir=b"], "both name the run folder"),
        (["hydra={run:{dir:a}}", "paths.output_dir=b"], "both name the run folder"),
        (["hydra.job.chdir=true"], "hydra.job.chdir is not possible"),
        (["hydra.job={chdir:true}"], "hydra.job.chdir is not possible"),
        (["hydra.sweep.dir=a"], "hydra.sweep.dir and hydra.sweep.subdir cannot be set"),
        (["hydra={sweep:{subdir:a}}"], "hydra.sweep.dir and hydra.sweep.subdir cannot be set"),
        (["hydra.output_subdir=a"], "hydra.output_subdir cannot be set: config.yaml"),
        (["++hydra.runtime.output_dir=a"], "hydra.runtime cannot be set: name the run folder with paths.output_dir"),
        (["hydra.mode=MULTIRUN"], "hydra.mode cannot be set: -m starts a sweep"),
        (["+hydra.rnu.dir=a"], "Unknown key hydra.rnu. Did you mean run"),
        (["hydra.rnu.dir=a"], "unknown key hydra.rnu.dir. Did you mean hydra.run.dir"),
        (["hydra/launcher=jblib"], "unknown option jblib of hydra/launcher. Did you mean joblib"),
        (["hydra.searchpath=[nowhere]"], "hydra.searchpath: folder nowhere not found"),
        (["hydra.run.dir=${oc.env:CNNLAB_NOWHERE}/a"], "hydra.run.dir does not resolve: "),
        (["--config-name", "other"], "--config-name is not possible"),
        (["--config-path", "other"], "--config-path is not possible"),
        (["--cfg", "job", "seeed=1"], "unknown key seeed. Did you mean seed"),
        (["--help", "modell=lenet5"], "unknown key modell. Did you mean model"),
        (["-m", "--cfg", "job", "seed=1,2"], "--cfg and --info show one config: leave out -m"),
    ],
    ids=" ".join,
)
def test_setting_of_hydra_that_no_run_has_is_refused(overrides, message, monkeypatch, tmp_path, capsys):
    assert message in refusal(monkeypatch, capsys, *overrides)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "folder"),
    [
        ("hydra.run.dir=a/b", "a/b"),
        ("+hydra.run.dir=a", "a"),
        ("hydra.run={dir:a}", "a"),
        ("hydra={run:{dir:a}}", "a"),
        ("paths={output_dir:a}", "a"),
        ("hydra.run.dir=a/${seed}", "a/0"),
        ("hydra.run.dir=a/${hydra.job.name}", "a/train"),
        ("hydra.run.dir=${oc.env:CNNLAB_HERE}/a", "here/a"),
        ("hydra.run.dir=null", "outputs/digits/lenet5"),
        ("~hydra.run.dir", "outputs/digits/lenet5"),
    ],
)
def test_folder_has_the_name_that_was_given_in_any_spelling(override, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CNNLAB_HERE", "here")
    given = claimed_overrides(["model=lenet5", "data=digits", override], None)
    assert value_of(given[-1]) == str(tmp_path / folder)
    assert (tmp_path / folder).is_dir()
    (tmp_path / folder / "run.json").write_text("{}")
    if folder.startswith("outputs"):
        again = claimed_overrides(["model=lenet5", "data=digits", override], None)
        assert value_of(again[-1]) == str(tmp_path / f"{folder}-2")
    else:
        with pytest.raises(InputError, match="already holds a run"):
            claimed_overrides(["model=lenet5", "data=digits", override], None)


def test_folder_that_a_file_names_is_taken_once(tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nhydra: {run: {dir: a}}\n")
    words = (["model=lenet5", "data=digits", "experiment=mine"], str(tmp_path / "own"))
    assert value_of(claimed_overrides(*words)[-1]) == str(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run"):
        claimed_overrides(*words)


def test_stored_folder_means_the_same_when_the_run_is_resumed(monkeypatch, tmp_path):
    assert command_line(monkeypatch, *TINY, "hydra.run.dir=a/${hydra.job.name}") == 0
    assert "paths.output_dir=a/train" in (tmp_path / "a" / "train" / "overrides.yaml").read_text().replace("'", "")
    assert command_line(monkeypatch, "resume=a/train") == 0


def test_folder_of_an_earlier_run_of_this_process_is_not_taken_again(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "paths.output_dir=a") == 0
    assert "already holds a run" in refusal(monkeypatch, capsys, *TINY, f"hydra.run.dir={tmp_path / 'a'}")
    assert "cannot change when a run is resumed" in refusal(monkeypatch, capsys, "resume=a", "paths.output_dir=b")


def test_run_that_cannot_work_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "model.image_size=28") == 2
    assert "LeNet5" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").iterdir())


def test_folder_that_was_there_keeps_what_it_holds(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert command_line(monkeypatch, *TINY, "model.image_size=28", "paths.output_dir=mine") == 2
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != "train.log"] == ["notes.txt"]
