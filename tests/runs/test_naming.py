"""Names of runs: readable, safe in every path; folders: no two runs share one."""

import re
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnnlab.errors import InputError
from cnnlab.runs.naming import claim, claim_exactly, run_name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=vgg16", "init=orthogonal", "optimizer.lr=0.1"], "vgg16-orthogonal-lr-0.1"),
        (["init=orthogonal", "model=vgg16"], "vgg16-orthogonal"),
        (["freeze=features"], "mobilenet_v2-features"),
        (["seed=3"], "mobilenet_v2-seed-3"),
        (["data.split_seed=1"], "mobilenet_v2-split_seed-1"),
        (["augmentation=[flip,noise]"], "mobilenet_v2-flip+noise"),
        (["+trainer.precision=16"], "mobilenet_v2-precision-16"),
        (["model.weights='my photos/best run.pth'"], "mobilenet_v2-weights-best-run"),
        (["~scheduler"], "mobilenet_v2"),
        (["data=digits", "data.root=/a/b", "paths.root=x", "experiment=quickstart", "logger=csv"], "mobilenet_v2"),
    ],
)
def test_name_is_made_of_what_was_chosen(overrides, name):
    assert run_name(overrides, model="mobilenet_v2") == name


def test_nothing_chosen_has_a_name():
    assert run_name([]) == "default"


keys = st.sampled_from(["model", "seed", "init", "+optimizer.lr", "model.weights", "augmentation", "data.classes"])
overrides = st.lists(st.builds("{}={}".format, keys, st.text()), max_size=6)


@given(overrides)
@example(["model.weights=" + "图" * 120])
@example(["model.weights=../..", "model=.", "init=-"])
def test_name_holds_only_what_is_safe_in_a_path(given_overrides):
    copy = list(given_overrides)
    name = run_name(given_overrides, "lenet5")
    assert re.fullmatch(r"[\w.+-]+", name)
    assert name not in (".", "..")
    assert len(name.encode()) <= 200  # of the 255 bytes that file systems allow, which a number may follow
    assert given_overrides == copy
    assert run_name(copy, "lenet5") == name


def test_long_names_are_cut_and_stay_distinct():
    long = [f"optimizer.option_number_{number}=0.{number}" for number in range(10)]
    names = {run_name([*long, f"seed={seed}"]) for seed in range(20)}
    assert len(names) == 20
    assert all(len(name) <= 100 and name.startswith("option_number_0-0.0-option") for name in names)


def test_threads_that_claim_one_folder_get_folders_of_their_own(tmp_path):
    ready, folders = threading.Barrier(8), []

    def work() -> None:
        ready.wait()
        folders.append(claim(tmp_path / "new" / "run"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [tmp_path / "new" / name for name in ("run", *(f"run-{number}" for number in range(2, 9)))]
    assert sorted(folders) == expected == sorted((tmp_path / "new").iterdir())


def test_named_folder_that_holds_a_run_is_refused(tmp_path):
    folder = claim_exactly(tmp_path / "a" / "run")
    assert folder == tmp_path / "a" / "run"
    assert folder.is_dir()
    (folder / "notes.txt").touch()
    assert claim_exactly(folder) == folder  # what is no run does not matter
    (folder / "run.json").write_text("{}")
    with pytest.raises(InputError, match=f"holds a run already.*resume={folder}"):
        claim_exactly(folder)
