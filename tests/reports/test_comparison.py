"""Comparisons of run folders whose figures were planted: what varies, what the tables say, what is refused."""

import csv
import io
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from planted import plant

from cnnlab.errors import InputError
from cnnlab.reports import comparison_report
from cnnlab.reports.comparison import study
from cnnlab.reports.comparison_figures import band, heat_map_figure, pictures
from cnnlab.reports.comparison_report import METHOD, as_text, runs_table, settings_table, write_comparison
from cnnlab.reports.comparison_sections import sections
from cnnlab.runs.results import bounds_of, find_results, read_curves

B = 0.06
"""What init=orthogonal adds to the metric of every planted sweep."""


def sweep(folder: Path, inits=("zero", "orthogonal", "normal"), seeds=range(4), noise=0.004, extra=()) -> Path:
    """One run for each init and seed, three epochs, the second the best: 0.8 + b [init = orthogonal] + noise."""
    rng = np.random.default_rng(5)
    for init, seed in itertools.product(inits, seeds):
        best = 0.8 + B * (init == "orthogonal") + rng.normal(0, noise)
        plant(folder / f"{init}-{seed}", [f"init={init}", "optimizer.lr=0.01", *extra], seed, [0.5, best, best - 0.02])
    return folder


def grid(folder: Path, seeds=range(3)) -> Path:
    rng = np.random.default_rng(6)
    for init, kind, seed in itertools.product(("zero", "orthogonal"), ("none", "[l2]", "[l2,dropout]"), seeds):
        best = 0.7 + 0.1 * (init == "orthogonal") + 0.02 * (kind == "[l2]") + rng.normal(0, 0.003)
        plant(folder / f"{init}-{kind}-{seed}", [f"init={init}", f"regularization={kind}"], seed, [0.4, best])
    return folder


def compare(folder: Path, **options):
    return study(find_results([folder]), **options)


@pytest.fixture
def no_pictures(monkeypatch):
    """Files without the pictures, which take most of the time of a comparison."""
    monkeypatch.setattr(comparison_report, "pictures", lambda given: {})


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def text_of(folder: Path, **options) -> str:
    return as_text(sections(compare(folder, **options)))


def test_planted_effect_is_recovered_and_the_null_effect_called_null(tmp_path):
    text = text_of(sweep(tmp_path / "s"))
    found = re.search(
        r"init=orthogonal is better than init=zero by ([\d.]+) \(95 % interval ([\d.]+) to ([\d.]+), 4 seeds", text
    )
    effect, low, high = map(float, found.groups())
    assert low <= B <= high
    assert effect == pytest.approx(B, abs=0.01)
    assert re.search(r"cannot tell init=(zero|normal) from init=(zero|normal): ", text)
    assert "It is better than every other setting." in text


@pytest.mark.usefixtures("no_pictures")
def test_table_is_what_the_runs_say(tmp_path):
    folder = sweep(tmp_path / "s")
    it = compare(folder)
    write_comparison(folder, "T", it, sections(it))
    rows = {row["init"]: row for row in table(folder / "comparison.csv")}
    assert next(iter(rows)) == "orthogonal"
    assert list(rows["zero"])[:6] == [
        *("init", "n"),
        *(f"best/val/acc_{what}" for what in ("mean", "std", "ci95_low", "ci95_high")),
    ]
    best = [json.loads((folder / f"zero-{seed}" / "run.json").read_text())["best"]["val/acc"] for seed in range(4)]
    row = {key: float(value) for key, value in rows["zero"].items() if key != "init" and value}
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(best), scipy.stats.sem(best))
    assert row["n"] == 4
    assert row["best/val/acc_mean"] == pytest.approx(np.mean(best))
    assert row["best/val/acc_std"] == pytest.approx(np.std(best, ddof=1))
    assert (row["best/val/acc_ci95_low"], row["best/val/acc_ci95_high"]) == pytest.approx((low, high))
    assert row["last/val/acc_mean"] == pytest.approx(np.mean(best) - 0.02)
    assert row["best/val/loss_mean"] == pytest.approx(1 - np.mean(best))
    assert row["gap/acc_mean"] == pytest.approx(0.02)  # the mean of acc + 0.01 and acc + 0.03, minus acc
    assert row["epochs_to_best_mean"] == 2
    assert row["wall_seconds_mean"] == pytest.approx(11.5)
    assert row["images_per_second_std"] == 0


def test_varying_keys_are_found_and_readable(tmp_path):
    it = compare(grid(tmp_path / "s"))
    assert it.factors == ("init", "regularization")
    assert {setting.values for setting in it.settings} == set(
        itertools.product(("zero", "orthogonal"), ("none", "[l2]", "[l2,dropout]"))
    )
    assert compare(sweep(tmp_path / "t")).fixed == {"optimizer.lr": 0.01}


def test_a_value_that_was_not_typed_is_read_from_the_config(tmp_path):
    plant(tmp_path / "a", [], 0, [0.5])
    plant(tmp_path / "b", ["init=zero", "regularization=[l2]"], 0, [0.6])
    it = compare(tmp_path)
    assert it.factors == ("init", "regularization")
    assert {setting.values for setting in it.settings} == {("default", "none"), ("zero", "[l2]")}


def test_names_leave_out_what_a_run_does_not_have(tmp_path):
    plant(tmp_path / "a", ["regularization=none"], 0, [0.5])
    plant(tmp_path / "b", ["regularization=[l2]", "regularization.l2.lambd=0.01"], 0, [0.6])
    it = compare(tmp_path)
    names = {it.name(setting.values) for setting in it.settings}
    assert names == {"regularization=none", "regularization=[l2] regularization.l2.lambd=0.01"}


def test_a_name_always_says_something(tmp_path):
    """Also of a run that has none of the keys that were typed for others."""
    plant(tmp_path / "a", [], 0, [0.5])
    plant(tmp_path / "b", ["+model.width=2"], 0, [0.6])
    it = compare(tmp_path)
    assert {it.name(setting.values) for setting in it.settings} == {"model.width=-", "model.width=2"}


def test_a_default_that_was_changed_between_runs_is_a_factor(tmp_path):
    for number, seed in itertools.product(range(2), range(2)):
        run = plant(tmp_path / f"{number}-{seed}", ["init=zero"], seed, [0.5 + number / 10])
        if number:
            config = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(config.replace("lr: 0.001", "lr: 0.1"))
    it = compare(tmp_path)
    assert it.factors == ("optimizer.lr",)
    assert [(setting.values, len(setting.runs)) for setting in it.settings] == [((0.1,), 2), ((0.001,), 2)]


def test_two_factors_have_effects_and_an_interaction(tmp_path):
    text = text_of(grid(tmp_path / "s"))
    assert "Factor init" in text
    assert "Factor regularization" in text
    assert re.search(r"orthogonal +3 +0\.\d{4} ± 0\.\d{4} \(.*\) +\+0\.0[45]\d\d", text)
    assert "cannot tell that there is any" in text
    assert "The best setting against the others" in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_seed_tells_nothing(tmp_path, seeds):
    text = text_of(sweep(tmp_path / "s", seeds=seeds))
    assert ("cannot tell with n=1" in text) == (len(seeds) == 1)
    assert "is better than init" not in text or len(seeds) == 2


def test_factors_that_vary_together_are_named(tmp_path):
    for seed, (init, lr) in itertools.product(range(2), (("zero", 0.1), ("normal", 0.01))):
        plant(tmp_path / f"{init}-{seed}", [f"init={init}", f"optimizer.lr={lr}"], seed, [0.5 + lr + seed / 100])
    assert "init and optimizer.lr vary together" in text_of(tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_runs_that_did_not_finish_are_listed_and_left_out(tmp_path):
    folder = sweep(tmp_path / "s")
    plant(folder / "failed-one", ["init=zero"], 7, [0.1], status="failed", error="The loss is nan at step 3\nmore")
    plant(folder / "killed", ["init=zero"], 8, [0.1], status="running")
    plant(folder / "stopped", ["init=zero"], 9, [0.1], status="interrupted")
    cut = plant(folder / "cut", ["init=zero"], 10, [0.1, 0.2])
    (cut / "metrics.csv").write_text((cut / "metrics.csv").read_text()[:-9])
    plant(folder / "foreign", [], 11, [0.1])
    (folder / "foreign" / "run.json").write_text('{"name": "other"}')
    old = plant(folder / "old", [], 11, [0.1]) / "run.json"
    old.write_text(json.dumps({key: value for key, value in json.loads(old.read_text()).items() if key != "metric"}))
    plant(folder / "broken", [], 11, [0.1])
    (folder / "broken" / "run.json").write_text('{"status": "fini')
    it = compare(folder)
    assert {setting.values[0]: len(setting.runs) for setting in it.settings} == dict.fromkeys(
        ("zero", "orthogonal", "normal"), 4
    )
    text = as_text(sections(it))
    for line in (
        "failed-one: failed: The loss is nan at step 3",
        "killed: still running, or killed",
        "stopped: interrupted",
        "cut: metrics.csv is cut off or damaged at line 5",
        "foreign: run.json is not from cnnlab: it has no status",
        "old: it does not record its metric: an earlier version of cnnlab trained it",
        "broken: run.json cannot be read",
    ):
        assert line in text
    assert "more" not in text.split("step 3")[1].split("\n")[0]
    write_comparison(folder, "T", it, sections(it))
    listed = {row["run"]: row for row in table(folder / "comparison_runs.csv")}
    assert listed["failed-one"]["status"] == "failed"
    assert len(listed) == 19
    assert "failed-one" in (folder / "comparison.md").read_text()
    assert "failed-one" in (folder / "comparison.html").read_text()


def test_jobs_of_a_sweep_that_have_not_begun_are_listed(tmp_path):
    folder = sweep(tmp_path / "s")
    plant(folder / "again", ["init=zero"], 9, [0.1], status="pending")
    jobs = [{"name": name} for name in ("zero-0", "again", "later")]
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    text = text_of(folder).split("Not in the tables")[1]
    assert [line.strip() for line in text.strip().splitlines()] == ["again: not started", "later: not started"]
    (folder / "sweep.json").write_text('{"jobs": [')
    assert len(find_results([folder])) == 13


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("step,epoch,val/acc\n1,0,0.5\n2,1,0.", "line 3"),
        ("step,epoch,val/acc\n1,0,0.5\n", "it ends in epoch 0, the run in epoch 1"),
        ("step,epoch,val/acc\n1,0\n", "line 2"),
        ("step,epoch,val/acc\n1,0,a\n", "line 2"),
        ("step,epoch,val/acc\n1,0,1,2\n", "line 2"),
        ("x,y\n1,2\n", "no columns step and epoch"),
        ("", "no columns"),
    ],
)
def test_half_written_metrics_are_noticed(tmp_path, text, trouble):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=trouble):
        read_curves(tmp_path / "metrics.csv", {"val/acc": 0.75, "epoch": 1})


def test_a_last_line_without_an_end_may_be_whole(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,val/acc\n1,0,0.5\n2,1,0.75")
    last = {"val/acc": 0.75, "epoch": 1}
    assert read_curves(tmp_path / "metrics.csv", last) == {"val/acc": {0: 0.5, 1: 0.75}}
    assert read_curves(tmp_path / "metrics.csv", {}) == {"val/acc": {0: 0.5, 1: 0.75}}


def test_run_without_csv_is_read_from_its_record(tmp_path):
    for seed in range(2):
        run = plant(tmp_path / str(seed), [], seed, [0.5, 0.75, 0.25])
        (run / "metrics.csv").unlink()
    (setting,) = compare(tmp_path).settings
    assert setting.summary("best/val/acc").mean == 0.75
    assert setting.summary("last/val/acc").mean == 0.25
    assert setting.summary("epochs_to_best").mean == 2
    assert "gap/acc" not in setting.runs[0].numbers
    assert "Learning curves" not in pictures(compare(tmp_path))


def test_record_with_empty_entries_is_read(tmp_path):
    plant(
        tmp_path / "a", [], 0, [0.5], best=None, last={"val/loss": None, "epoch": 0}, images_per_second=None, test=None
    )
    run = tmp_path / "a" / "metrics.csv"
    run.write_text(run.read_text().rstrip("\n"))
    (setting,) = compare(tmp_path).settings
    assert setting.summary("best/val/acc").mean == 0.5
    assert "images_per_second" not in setting.runs[0].numbers


def test_runs_of_several_splits_share_no_table(tmp_path):
    folder = sweep(tmp_path / "s")
    plant(folder / "other", ["init=zero"], 9, [0.5], split_hash="feedfacefeedface")
    with pytest.raises(InputError, match=r"2 data splits.*0123456789abcdef \(12 runs\), feedfacefeedface \(1 run\)"):
        compare(folder)
    assert len(compare(folder, split="0123").runs) == 12
    with pytest.raises(InputError, match="split=9: no finished run"):
        compare(folder, split="9")


def folds(folder: Path, seeds=(0,), of=5, inits=("zero", "orthogonal")) -> dict[str, np.ndarray]:
    """Runs of two settings on folds that differ in difficulty; returns the metric by init, folds x seeds."""
    rng = np.random.default_rng(7)
    hardness = rng.normal(0, 0.05, of)
    planted = {init: 0.7 + 0.02 * (init == "orthogonal") + hardness[:, None] for init in inits}
    planted = {init: values + rng.normal(0, 0.002, (of, len(seeds))) for init, values in planted.items()}
    for init, values in planted.items():
        for (fold, place), value in np.ndenumerate(values):
            plant(
                folder / f"{init}-{fold}-{place}",
                [f"init={init}", f"data.folds={of}", f"data.fold={fold}"],
                seeds[place],
                [0.4, float(value)],
                split_hash=f"fold {fold}",
                folds={"fold": fold, "of": of, "hash": "of all folds"},
            )
    return planted


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_folds_are_paired_and_seeds_within_a_fold_averaged(tmp_path, seeds):
    """Folds differ far more than settings, so that only pairing finds the effect; scipy computes the same."""
    planted = {init: values.mean(axis=1) for init, values in folds(tmp_path / "s", seeds).items()}
    it = compare(tmp_path / "s")
    best = it.settings[0].summary("best/val/acc")
    expected = scipy.stats.t.interval(0.95, 4, planted["orthogonal"].mean(), scipy.stats.sem(planted["orthogonal"]))
    assert (best.n, best.mean, best.low, best.high) == pytest.approx((5, planted["orthogonal"].mean(), *expected))
    gap = scipy.stats.ttest_rel(planted["orthogonal"], planted["zero"])
    low, high = gap.confidence_interval()
    text = as_text(sections(it))
    assert f"95 % interval {low:.4f} to {high:.4f}, 5 folds" in text
    assert it.factors == ("init",)
    assert "seed" not in text
    head, rows = runs_table(it)
    assert {(row[head.index("fold")], row[head.index("seed")]) for row in rows} == set(
        itertools.product(range(5), seeds)
    )


def test_a_fold_that_was_run_twice_is_refused(tmp_path):
    folds(tmp_path / "s", (0, 0))
    with pytest.raises(InputError, match=r"init=\w+ seed=0 data\.fold=0, and equal seeds are not repeats"):
        compare(tmp_path / "s")


def test_equal_seeds_of_one_setting_are_refused(tmp_path):
    folder = sweep(tmp_path / "s")
    plant(folder / "again", ["init=zero", "optimizer.lr=0.01"], 0, [0.5])
    with pytest.raises(InputError, match=r"Two runs have init=zero seed=0.*again.*zero-0"):
        compare(folder)


def test_a_metric_that_no_run_has_is_refused_with_the_nearest(tmp_path):
    folder = sweep(tmp_path / "s")
    with pytest.raises(InputError, match=r"metric=val/acc: no run has it\. Did you mean .*best/val/acc"):
        compare(folder, metric="val/acc")
    smallest = compare(folder, metric="best/val/loss")
    assert smallest.settings[0].values == ("orthogonal",)
    assert "init=orthogonal is better than init=zero by 0.0" in as_text(sections(smallest))


def test_a_metric_that_some_runs_lack_is_counted_where_it_is(tmp_path):
    folder = sweep(tmp_path / "s")
    for seed in (0, 1):
        record = json.loads((folder / f"zero-{seed}" / "run.json").read_text())
        (folder / f"zero-{seed}" / "run.json").write_text(json.dumps(record | {"test": {"test/acc": 0.7}}))
    text = text_of(folder, metric="test/acc")
    assert "Best: init=zero, 0.7000 ± 0.0000" in text
    assert "Without test/acc, so not counted: zero-2, zero-3" in text


# --- Other metrics ---

ERRORS = {"mse": "min", "mae": "min", "r2": "max", "loss": "min"}
"""The metrics of a regression."""


def regression(folder: Path, seeds=range(3), kinds=("none", "[l2]")) -> Path:
    """Two factors with a squared error of 0.4, which init=orthogonal halves, in the second of three epochs."""
    rng = np.random.default_rng(7)
    for init, kind, seed in itertools.product(("zero", "orthogonal"), kinds, seeds):
        best = (0.2 if init == "orthogonal" else 0.4) + rng.normal(0, 0.003)
        values = [0.9, best, best + 0.1]
        overrides = [f"init={init}", f"regularization={kind}"]
        plant(folder / f"{init}-{kind}-{seed}", overrides, seed, values, metric="mse", modes=ERRORS)
    return folder


def test_of_an_error_the_smallest_is_best(tmp_path):
    it = compare(regression(tmp_path / "s", kinds=["none"]))
    assert (it.metric, it.monitor, it.smaller_is_better) == ("best/val/mse", "val/mse", True)
    assert it.factors == ("init",)
    assert [setting.values for setting in it.settings] == [("orthogonal",), ("zero",)]
    assert [setting.summary(it.metric).mean for setting in it.settings] == pytest.approx([0.2, 0.4], abs=0.01)
    assert it.settings[0].summary("epochs_to_best").mean == 2
    text = as_text(sections(it))
    assert "by best/val/mse (smaller is better)" in text
    effect = float(re.search(r"init=orthogonal is better than init=zero by ([\d.]+) \(", text).group(1))
    assert effect == pytest.approx(0.2, abs=0.01)
    assert "It is better than every other setting." in text


def test_gap_is_how_much_better_training_was_whichever_way_is_better(tmp_path):
    """Planted: in the last epoch, better by 0.02 on average."""
    plant(tmp_path / "acc" / "a", [], 0, [0.5, 0.6])
    plant(tmp_path / "mse" / "a", [], 0, [0.5, 0.4], metric="mse", modes=ERRORS)
    for name in ("acc", "mse"):
        (setting,) = compare(tmp_path / name).settings
        assert setting.summary(f"gap/{name}").mean == pytest.approx(0.02)
        by_gap = compare(tmp_path / name, metric=f"gap/{name}")
        assert by_gap.smaller_is_better


def test_metrics_of_the_runs_come_first_in_the_table(tmp_path):
    it = compare(regression(tmp_path / "s", seeds=[0], kinds=["none"]))
    assert it.metrics[:4] == ["best/val/mse", "last/val/mse", "gap/mse", "epochs_to_best"]


def test_heat_map_is_bright_where_it_is_better(tmp_path):
    errors = compare(regression(tmp_path / "mse"))
    scores = compare(grid(tmp_path / "acc"))
    for it in (errors, scores):
        (picture,) = heat_map_figure(it).axes[0].images
        cells = np.asarray(picture.get_array())
        best, worst = (cells.min(), cells.max()) if it is errors else (cells.max(), cells.min())
        bright, dark = (picture.to_rgba(np.array([value]))[0, :3].mean() for value in (best, worst))
        assert bright > dark


def test_short_name_stands_for_the_best_of_validation(tmp_path):
    folder = sweep(tmp_path / "s", inits=["zero", "orthogonal"], seeds=[0, 1])
    for short, full in (("acc", "best/val/acc"), ("loss", "best/val/loss")):
        it = compare(folder, metric=short)
        assert (it.metric, it.smaller_is_better) == (full, short == "loss")
        assert it.settings[0].values == ("orthogonal",)
    with pytest.raises(InputError, match=r"metric=f1: no run has it\. Available: best/val/acc, "):
        compare(folder, metric="f1")
    runs = plant(tmp_path / "t" / "a", [], 0, [0.2, 0.3], metric="f1", modes={"f1": "max", "loss": "min"}).parent
    assert compare(runs, metric="f1").metric == compare(runs).metric == "best/val/f1"


def test_runs_of_several_metrics_are_compared_by_the_one_that_is_named(tmp_path):
    modes = {"acc": "max", "f1": "max", "loss": "min"}
    for seed in (0, 1):
        plant(tmp_path / f"zero-{seed}", ["init=zero"], seed, [0.5, 0.6 + seed / 100], modes=modes)
    plant(tmp_path / "orthogonal-0", ["init=orthogonal"], 0, [0.4, 0.7], metric="f1", modes=modes)
    with pytest.raises(InputError, match=r"different metrics: val/f1 \(1 run\), val/acc \(2 runs\).*metric=NAME"):
        compare(tmp_path)
    it = compare(tmp_path, metric="loss")
    assert (it.metric, it.monitor) == ("best/val/loss", "val/acc")
    assert [setting.values for setting in it.settings] == [("orthogonal",), ("zero",)]
    assert it.settings[0].summary(it.metric).mean == pytest.approx(0.3)


# --- Bounds of metrics ---


def test_no_interval_leaves_the_range_of_its_metric(tmp_path):
    """Student's interval of 0.99 and 1.00 reaches to 1.0585, and that of their difference to 0.8 beyond 1."""
    for seed, (first, second) in enumerate(((0.99, 0.05), (1.0, 0.4))):
        for kind in ("none", "[l2]"):
            plant(tmp_path / f"a{kind}{seed}", ["init=zero", f"regularization={kind}"], seed, [first])
            plant(tmp_path / f"b{kind}{seed}", ["init=normal", f"regularization={kind}"], seed, [second])
    it = compare(tmp_path)
    low, high = scipy.stats.t.interval(0.95, 1, 0.995, 0.005)
    assert low > 0.9
    assert high > 1.05
    found = it.settings[0].summary("best/val/acc")
    assert (found.low, found.high) == (pytest.approx(low), 1.0)
    assert (found.mean, found.std) == (pytest.approx(0.995), pytest.approx(0.01 / 2**0.5))
    text = as_text(sections(it))
    means = [(float(a), float(b)) for a, b in re.findall(r" ± [\d.]+ \((-?[\d.]+) to (-?[\d.]+)\)", text)]
    differences = [(float(a), float(b)) for a, b in re.findall(r"95 % interval (-?[\d.]+) to (-?[\d.]+),", text)]
    assert len(means) >= 9  # the best, four settings, two levels of two factors
    assert all(0 <= low < high <= 1 for low, high in means)
    assert max(high for _, high in differences) == 1
    assert all(-2 <= low <= high <= 2 for low, high in differences)
    head, rows = settings_table(it)
    for column, name in enumerate(head):
        if "val/acc_ci95" in name:
            assert all(0 <= row[column] <= 1 for row in rows), name
    assert all(mean.high <= 1 and mean.low >= 0 for factor in (0, 1) for mean in it.marginal_means(factor).values())
    assert any("Scores lie between 0 and 1, and so do their intervals" in line for line in METHOD)


@pytest.mark.parametrize(
    ("metric", "bounds"),
    [
        ("best/val/acc", (0, 1)),
        ("last/val/acc_top5", (0, 1)),
        ("test/f1", (0, 1)),
        ("best/val/balanced_acc", (0, 1)),
        ("gap/acc", (-1, 1)),
        ("best/val/mse", (0, math.inf)),
        ("gap/mse", (-math.inf, math.inf)),
        ("best/val/r2", (-math.inf, 1)),
        ("wall_seconds", (0, math.inf)),
        ("epochs_to_best", (1, math.inf)),
        ("best/val/loss", (-math.inf, math.inf)),
        ("test/map_50", (0, 1)),
        ("best/val/mine", (-math.inf, math.inf)),
    ],
)
def test_bounds_of_a_figure(metric, bounds):
    assert bounds_of(metric) == bounds


def test_only_scores_have_an_interval(tmp_path):
    """Of speeds of 100 and 400 images/s Student's interval would reach from -1656 to 2156."""
    for name, seed, accuracy, speed in (("a", 0, 0.9, 100.0), ("b", 1, 0.98, 400.0)):
        plant(tmp_path / name, [f"seed={seed}"], seed, [accuracy], images_per_second=speed)
    it = compare(tmp_path)
    text = as_text(sections(it))
    assert "250.0 ± 212.1" not in text  # on the terminal, speeds are means only
    assert "Two seeds are few" in text
    head, rows = settings_table(it)
    of = dict(zip(head, rows[0], strict=True))
    assert (of["best/val/acc_ci95_low"], of["best/val/acc_ci95_high"]) == pytest.approx(
        (0.94 - 12.7062 * 0.04, 1.0), abs=1e-4
    )
    assert (of["images_per_second_mean"], of["images_per_second_ci95_low"]) == (250.0, None)
    assert of["images_per_second_std"] == pytest.approx(212.132, abs=1e-3)
    assert of["epochs_to_best_ci95_high"] is None


def test_nothing_finished(tmp_path):
    plant(tmp_path / "a", [], 0, [0.1], status="failed", error="no memory")
    plant(tmp_path / "b", [], 1, [0.1], status="running")
    with pytest.raises(InputError, match=r"No run has finished \(1 failed, 1 running; a: failed: no memory\)"):
        compare(tmp_path)


def test_folders_without_runs(tmp_path):
    with pytest.raises(InputError, match=r"The folder .* does not exist"):
        find_results([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is empty"):
        find_results([tmp_path / "empty"])
    (tmp_path / "lightning_logs" / "version_0").mkdir(parents=True)
    (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="contains no cnnlab run"):
        find_results([tmp_path / "lightning_logs"])


def test_a_run_named_twice_is_one_run(tmp_path):
    folder = sweep(tmp_path / "s")
    assert len(find_results([folder, folder / "zero-0"])) == 12


def test_pictures_of_one_and_of_two_factors(tmp_path):
    assert set(pictures(compare(sweep(tmp_path / "s")))) == {"Learning curves", "Dots"}
    drawn = pictures(compare(grid(tmp_path / "t")))
    assert set(drawn) == {"Learning curves", "Dots", "Effects", "Heat map"}
    for data in drawn.values():
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_band_is_lowest_mean_and_highest_seed(tmp_path):
    plant(tmp_path / "a", [], 0, [0.1, 0.4])
    plant(tmp_path / "b", [], 1, [0.3, 0.2, 0.5])
    (setting,) = compare(tmp_path).settings
    epochs, low, mean, high = band(setting, "val/acc")
    assert (epochs, low, high) == ([1, 2, 3], [0.1, 0.2, 0.5], [0.3, 0.4, 0.5])
    assert mean == pytest.approx([0.2, 0.3, 0.5])


def test_page_is_self_contained_and_escapes_what_was_typed(tmp_path):
    script = "<script>alert(1)</script>"
    for number, seed in itertools.product(range(2), range(2)):
        plant(tmp_path / f"{number}{seed}", [f"init='{script}|{number}'"], seed, [0.5 + number / 9 + seed / 99])
    it = compare(tmp_path)
    write_comparison(tmp_path, f"T {script}", it, sections(it))
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|0" in page
    references = re.findall(r"""(?:src|href|url)[=(]["']?([^"'> )]+)""", page)
    assert len(references) == 2
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    markdown = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    for name in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (tmp_path / name).is_file()


def test_many_settings_of_one_seed_are_a_short_report(tmp_path):
    for number in range(20):
        plant(tmp_path / f"{number:02d}", [f"optimizer.lr={0.001 * (number + 1)}"], 0, [0.5 + number / 100])
    text = text_of(tmp_path)
    assert "... and 8 more in comparison.md" in text
    assert text.count("cannot tell") == 1
    assert "Best: optimizer.lr=0.02, 0.6900" in text
