"""Names of runs: readable, safe in every path; folders: no two runs share one."""

import re
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnlab.errors import InputError
from cnnlab.runs.naming import claim, claim_exactly, job_names, run_name, trial_name


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


@settings(max_examples=30)
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


@pytest.mark.parametrize(
    ("jobs", "names"),
    [
        (["a=1 init=zero seed=0", "a=1 init=zero seed=1"], ["seed-0", "seed-1"]),
        (["data=digits seed=0", "data=mnist seed=0"], ["digits", "mnist"]),
        (["experiment=a", "experiment=b"], ["a", "b"]),
        (
            ["augmentation=[flip] x=1", "augmentation=[flip,noise] x=1", "augmentation=none x=1"],
            ["flip", "flip+noise", "none"],
        ),
        (
            ["model.weights=a/w.pth", "model.weights=b/w.pth", "model.weights=null"],
            ["weights-w", "weights-w-2", "weights-null"],
        ),
        (
            ["model.weights=a/w.pth", "model.weights=b/w.pth", "model.weights=w-2"],
            ["weights-w", "weights-w-2", "weights-w-2-2"],
        ),
        (["model.weights=a/W.pth", "model.weights=a/w.pth"], ["weights-W", "weights-w-2"]),
        (["+optimizer.eps=1", "+optimizer.eps=2"], ["eps-1", "eps-2"]),
    ],
)
def test_jobs_are_named_by_what_varies(jobs, names):
    assert job_names([job.split() for job in jobs]) == names


@settings(max_examples=30)
@given(st.lists(overrides, min_size=1, max_size=8, unique_by=tuple))
def test_no_two_jobs_have_one_name(jobs):
    names = job_names(jobs)
    assert len({name.lower() for name in names}) == len(jobs)
    assert all(re.fullmatch(r"[\w.+-]+", name) and name not in (".", "..") for name in names)


def test_trial_is_named_by_its_number_and_readable_values():
    assert trial_name(7, ["optimizer.lr=0.0012345678", "init=orthogonal"]) == "007-lr-0.001235-orthogonal"
    assert trial_name(12, ["data.batch_size=128"]) == "012-batch_size-128"


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
    with pytest.raises(InputError, match=f"already holds a run.*resume={folder}"):
        claim_exactly(folder)
