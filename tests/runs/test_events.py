"""What TensorBoard shows of several runs: in their event files, and in the answers of the HParams tab's own backend."""

import json
import shutil
from pathlib import Path

import pytest
from in_process import DIGITS, train_in_process
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cnnlab.errors import DivergedError
from cnnlab.runs.events import END, START, RunEvents, charts, group_of, session

OPTIONS = [option for option in DIGITS if option != "logger=none"]
STEPS = 3
"""Of an epoch."""
COMMON = (
    f"trainer.limit_train_batches={STEPS}",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "logger=[tensorboard,csv]",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "speed.benchmark=false",
)
RUNS = (("zero", 0), ("orthogonal", 0), ("orthogonal", 1))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two settings, one of them with two seeds, and a run that diverges."""
    folder = tmp_path_factory.mktemp("sweep")
    for init, seed in RUNS:
        extra = (f"init={init}", "regularization=[l2,dropout]", "optimizer.lr=0.002", f"seed={seed}")
        train_in_process(folder / f"{init}-seed-{seed}", *OPTIONS, *COMMON, *extra)
    extra = ("init=orthogonal", "regularization=none", "optimizer.lr=1e30", "seed=0")
    with pytest.raises(DivergedError):
        train_in_process(folder / "diverges", *OPTIONS, *COMMON, *extra)
    return folder


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def events(sweep) -> EventAccumulator:
    return read(sweep / "orthogonal-seed-1")


def records(events: EventAccumulator) -> dict[str, HParamsPluginData]:
    contents = events.PluginTagToContent(metadata.PLUGIN_NAME)
    return {tag: HParamsPluginData.FromString(content) for tag, content in contents.items()}


def test_one_record_of_the_start_and_one_of_the_end(events, sweep):
    found = records(events)
    assert set(found) == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    end = found[metadata.SESSION_END_INFO_TAG].session_end_info
    assert end.status == api_pb2.STATUS_SUCCESS
    start = found[metadata.SESSION_START_INFO_TAG].session_start_info
    assert 0 <= end.end_time_secs - start.start_time_secs < 600
    failed = records(read(sweep / "diverges"))[metadata.SESSION_END_INFO_TAG].session_end_info
    assert failed.status == api_pb2.STATUS_FAILURE


def test_settings_are_readable_and_of_their_type(events):
    hparams = records(events)[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}
    assert values["init"] == "orthogonal"
    assert values["regularization"] == "[l2,dropout]"
    assert values["optimizer.lr"] == 0.002
    assert values["speed.benchmark"] is False
    assert (values["model"], values["data"], values["optimizer"]) == ("lenet5", "digits", "adamw")
    assert not any("seed" in key for key in values)
    assert not any("$" in str(value) or "_target_" in str(value) for value in values.values())


def test_tags(events):
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "best/val/acc", "test/acc"} <= tags
    assert {f"epoch/{part}/{name}" for part in ("train", "val") for name in ("loss", "acc")} <= tags
    assert not {"hp_metric", "epoch", "train/acc_epoch"} & tags


def test_copies_by_epoch_are_the_values_at_the_end_of_each(events):
    for tag in ("val/acc", "val/loss", "val/f1"):
        by_step, by_epoch = events.Scalars(tag), events.Scalars(f"epoch/{tag}")
        assert [entry.step for entry in by_step] == [STEPS - 1, 2 * STEPS - 1]
        assert [entry.step for entry in by_epoch] == [0, 1]
        assert [entry.value for entry in by_epoch] == [entry.value for entry in by_step]


@pytest.mark.parametrize("tag", ["loss", "acc"])
def test_training_metrics_by_epoch_are_the_means_of_their_steps(events, tag):
    steps = [entry.value for entry in events.Scalars(f"train/{tag}")]
    means = [sum(steps[first : first + STEPS]) / STEPS for first in (0, STEPS)]
    assert len(steps) == 2 * STEPS
    assert [entry.value for entry in events.Scalars(f"epoch/train/{tag}")] == pytest.approx(means, rel=1e-5)


def test_training_and_validation_share_a_chart(events):
    tensor = events.Tensors(custom_scalars.CONFIG_SUMMARY_TAG)[0].tensor_proto
    layout = Layout.FromString(tensor.string_val[0])
    (category,) = layout.category
    found = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert found == {
        "accuracy": ["epoch/train/acc$", "epoch/val/acc$"],
        "loss": ["epoch/train/loss$", "epoch/val/loss$"],
    }


@pytest.mark.parametrize(
    ("metric", "names"), [("val/acc", ["accuracy", "loss"]), ("val/mse", ["mse", "loss"]), ("val/loss", ["loss"])]
)
def test_charts_are_of_the_metric_of_the_run_and_of_the_loss(metric, names):
    (category,) = charts(metric).values()
    assert list(category) == names
    tags = {"accuracy": "acc"}
    for name, (kind, found) in category.items():
        tag = tags.get(name, name)
        assert (kind, found) == ("Multiline", [f"epoch/train/{tag}$", f"epoch/val/{tag}$"])


# --- The HParams tab ---


@pytest.fixture(scope="module")
def tab(sweep):
    """(the experiment, the session groups) as the tab gets them."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(sweep))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(sweep))
    backend = backend_context.Context(TBContext(data_provider=provider, logdir=str(sweep)))
    asks = context.RequestContext()
    experiment = get_experiment.Handler(asks, backend, "", api_pb2.GetExperimentRequest()).run()
    every = list(api_pb2.Status.values())
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=every, start_index=0, slice_size=100, aggregation_type=api_pb2.AGGREGATION_AVG
    )
    return experiment, list_session_groups.Handler(asks, backend, "", request).run().session_groups


def test_tab_has_a_column_for_each_setting(tab, sweep):
    experiment, _ = tab
    names = {info.name for info in experiment.hparam_infos}
    stored = [
        json.loads((path / "run.json").read_text())["settings"]
        for path in sweep.iterdir()
        if (path / "run.json").is_file()
    ]
    assert len(stored) == len(RUNS) + 1
    assert all(names == set(settings) for settings in stored)
    types = {info.name: info.type for info in experiment.hparam_infos}
    assert types["speed.benchmark"] == api_pb2.DATA_TYPE_BOOL
    assert types["optimizer.lr"] == api_pb2.DATA_TYPE_FLOAT64
    assert types["init"] == api_pb2.DATA_TYPE_STRING


def test_tab_offers_the_metrics(tab):
    experiment, _ = tab
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"best/val/acc", "val/acc", "test/acc", "epoch/train/acc"} <= metrics
    assert "hp_metric" not in metrics


def test_repeats_are_one_row_with_the_mean_and_the_true_status(tab, sweep):
    _, groups = tab
    rows = {}
    for group in groups:
        values = {key: value.string_value for key, value in group.hparams.items()}
        rows[values["init"], values["regularization"]] = group
    assert {key: len(group.sessions) for key, group in rows.items()} == {
        ("zero", "[l2,dropout]"): 1,
        ("orthogonal", "[l2,dropout]"): 2,
        ("orthogonal", "none"): 1,
    }
    status = {key: {session.status for session in group.sessions} for key, group in rows.items()}
    assert status["zero", "[l2,dropout]"] == {api_pb2.STATUS_SUCCESS}
    assert status["orthogonal", "none"] == {api_pb2.STATUS_FAILURE}
    shown = {value.name.tag: value.value for value in rows["orthogonal", "[l2,dropout]"].metric_values}
    best = [json.loads((sweep / f"orthogonal-seed-{s}" / "run.json").read_text())["best"]["val/acc"] for s in (0, 1)]
    assert shown["best/val/acc"] == pytest.approx(sum(best) / 2)


# --- Sessions ---


def test_resumed_run_replaces_both_records(tmp_path):
    logger = RunEvents(str(tmp_path))
    with pytest.raises(RuntimeError), session([logger], {"model": "m", "trainer.max_epochs": 1}, "val/acc"):
        raise RuntimeError
    assert records(read(tmp_path))[metadata.SESSION_END_INFO_TAG].session_end_info.status == api_pb2.STATUS_FAILURE
    with session([logger], {"model": "m", "trainer.max_epochs": 9}, "val/acc"):
        running = records(read(tmp_path))
    found = records(read(tmp_path))
    assert metadata.SESSION_END_INFO_TAG not in running
    assert found[metadata.SESSION_END_INFO_TAG].session_end_info.status == api_pb2.STATUS_SUCCESS
    start = found[metadata.SESSION_START_INFO_TAG].session_start_info
    assert start.hparams["trainer.max_epochs"].number_value == 9


def test_records_are_the_first_and_the_last_file(sweep):
    files = sorted(path.name for path in (sweep / "zero-seed-0").glob("events.*"))
    assert (files[0], files[-1]) == (START, END)


def test_interrupted_session_did_not_succeed(tmp_path):
    with pytest.raises(KeyboardInterrupt), session([RunEvents(str(tmp_path))], {"model": "m"}, "val/acc"):
        raise KeyboardInterrupt
    assert records(read(tmp_path))[metadata.SESSION_END_INFO_TAG].session_end_info.status == api_pb2.STATUS_FAILURE


def test_group_is_that_of_the_settings_in_any_order():
    first, second = {"model": "a", "lr": 0.1}, {"lr": 0.1, "model": "a"}
    assert group_of(first) == group_of(second)
    assert group_of(first) != group_of(first | {"lr": 0.2})


def test_folder_may_be_moved(sweep, tmp_path):
    shutil.copytree(sweep / "zero-seed-0", tmp_path / "elsewhere")
    assert set(records(read(tmp_path / "elsewhere"))) == set(records(read(sweep / "zero-seed-0")))
