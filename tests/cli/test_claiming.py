"""Two runs never share a folder, whichever key names it."""

import json

import pytest
from in_process import command_line, digits_with

from cnnlab.cli.claiming import with_output_dir
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


def test_folder_is_named_once():
    with pytest.raises(InputError, match="both name the run folder"):
        with_output_dir(["hydra.run.dir=a", "paths.output_dir=b"])
    with pytest.raises(InputError, match=r"hydra\.job\.chdir is not possible"):
        with_output_dir(["hydra.job.chdir=true"])


def test_run_that_cannot_work_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    assert command_line(monkeypatch, *TINY, "model.image_size=28") == 2
    assert "LeNet5" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").iterdir())


def test_folder_that_was_there_keeps_what_it_holds(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert command_line(monkeypatch, *TINY, "model.image_size=28", "paths.output_dir=mine") == 2
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != "train.log"] == ["notes.txt"]
