"""What run folders and sweeps hold: every file is read, or refused in our own words."""

import contextlib
import json

import pytest
import yaml
from fuzzing import changed, damaged, fuzzed, plain_values
from hypothesis import example, given
from hypothesis import strategies as st
from planted import plant

from cnnlab.api import apply_changes
from cnnlab.errors import CnnlabError, InputError
from cnnlab.reports.comparison import study
from cnnlab.reports.comparison_report import as_text
from cnnlab.reports.comparison_sections import sections
from cnnlab.runs.folder import read_config, read_overrides, read_record
from cnnlab.runs.metrics_csv import MetricsCsv
from cnnlab.runs.results import find_results, read_result
from cnnlab.runs.sweep import Sweep
from cnnlab.sweeping.console import announce, describe
from cnnlab.system.processes import is_alive

RECORD = {
    "status": "finished",
    "seed": 0,
    "task": "classification",
    "metric": "val/acc",
    "modes": {"acc": "max", "loss": "min"},
    "split_hash": "0123456789abcdef",
    "settings": {"init": "zero", "optimizer.lr": 0.1},
    "process": {"host": "x", "pid": 1, "began": 2},
    "resumed": ["2026-01-01"],
    "error": "x",
    "exit_code": 3,
    "wall_seconds": 10.0,
    "images_per_second": 100.0,
    "best": {"val/acc": 0.6, "epoch": 1},
    "last": {"val/acc": 0.6, "epoch": 1},
    "test": {"test/acc": 0.5},
}
SWEEP = {
    "overrides": ["seed=0,1"],
    "varies": {"seed": ["0", "1"]},
    "fixed": ["model=lenet5"],
    "launcher": "basic",
    "metric": "val/acc",
    "mode": "max",
    "total": 2,
    "at_once": 1,
    "process": {"host": "x", "pid": 1, "began": 2},
}
JOB = {"number": 0, "name": "seed-0", "overrides": ["seed=0"], "status": "pending"}
CONFIG = {
    "seed": 0,
    "task": {
        "name": "classification",
        "implementation": {"_target_": "cnnlab.tasks.classification.Classification"},
        "metric": "acc",
        "metrics": {"acc": "max", "loss": "min"},
    },
    "metric": "acc",
    "metric_mode": "max",
    "model": {"name": "lenet5", "network": {"_target_": "x"}, "weights": None, "in_channels": 1, "image_size": 32},
    "data": {"name": "digits", "dataset": {"_target_": "x", "root": "data/x"}, "root": "data/x", "batch_size": 8},
    "augmentation": {"flip": {"_target_": "x"}},
    "paths": {"root": "outputs", "data_dir": "data", "cache_dir": ".cache", "output_dir": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of three runs, the third of which is rewritten."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        plant(folder / f"zero-{seed}", ["init=zero"], seed, [0.5, 0.6])
    return folder


def as_json(values):
    return values.map(lambda value: json.dumps(value).encode())


def as_yaml(values):
    return values.map(lambda value: yaml.safe_dump(value).encode())


@given(st.one_of(as_json(changed(RECORD)), as_json(plain_values(list(RECORD))), damaged(json.dumps(RECORD).encode())))
@example(contents=b'{"status": ""}')
@fuzzed
def test_record(folder, contents):
    path = folder / "zero-2"
    (path / "run.json").write_bytes(contents)
    try:
        record = read_record(path)
        is_alive(record.get("process"))
        assert isinstance(record.get("wall_seconds", 0.0) + 1.0, float)
    except CnnlabError:
        pass
    result = read_result(path)
    assert result.trouble or result.status == "finished"


@given(st.one_of(as_json(changed(RECORD)), damaged(json.dumps(RECORD).encode())))
@fuzzed
def test_runs_that_are_compared(folder, contents):
    (folder / "zero-2" / "run.json").write_bytes(contents)
    with contextlib.suppress(InputError):
        assert as_text(sections(study(find_results([folder]), None, None)))


TABLE = b"step,best/val/acc,epoch,train/acc,val/acc,val/loss\n4,,0,0.51,,\n9,0.5,0,0.53,0.5,0.5\n14,,1,0.61,,\n"
CELLS = st.sampled_from(["1", "nan", "inf", "-inf", "1e400", "x", "", '"', "9" * 400, "\0", "9" * 200_000])
ROWS = st.lists(st.lists(CELLS, max_size=7).map(",".join), max_size=4).map("\n".join).map(str.encode)


@given(st.one_of(damaged(TABLE), ROWS.map(lambda rows: TABLE + rows)))
@fuzzed
def test_metrics(folder, contents):
    path = folder / "zero-1"
    (path / "metrics.csv").write_bytes(contents)
    result = read_result(path)
    assert result.trouble or result.status == "finished"
    logger = MetricsCsv(str(path))
    logger.log_metrics({"val/acc": 0.5, "epoch": 2}, 24)
    logger.save()
    assert b"24" in (path / "metrics.csv").read_bytes().splitlines()[-1]


@given(
    st.one_of(as_yaml(changed(CONFIG)), as_yaml(plain_values(list(CONFIG))), damaged(yaml.safe_dump(CONFIG).encode()))
)
@fuzzed
def test_config(tmp_path, contents):
    (tmp_path / "config.yaml").write_bytes(contents)
    with contextlib.suppress(CnnlabError):
        apply_changes(read_config(tmp_path), {"paths.data_dir": "elsewhere"})
    with contextlib.suppress(CnnlabError):
        apply_changes(read_config(tmp_path), {"data.root": "elsewhere", "data.batch_size": "4"})


@given(st.one_of(as_yaml(plain_values()), damaged(b"- model=lenet5\n- data=digits\n- seed=3\n- augmentation=[flip]\n")))
@fuzzed
def test_overrides(tmp_path, contents):
    (tmp_path / "overrides.yaml").write_bytes(contents)
    with contextlib.suppress(CnnlabError):
        assert all(isinstance(override, str) for override in read_overrides(tmp_path))


def test_billions_in_a_few_lines_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="it uses YAML aliases"):
        read_config(tmp_path)


@given(changed(SWEEP), st.lists(changed(JOB), max_size=2), damaged(json.dumps(SWEEP | {"jobs": [JOB]}).encode()))
@example(sweep=SWEEP, jobs=[JOB | {"name": "9" * 300}], other=b"")
@fuzzed
def test_sweep(tmp_path, sweep, jobs, other):
    for contents in (json.dumps({"jobs": jobs} | sweep).encode(), other):
        (tmp_path / "sweep.json").write_bytes(contents)
        with contextlib.suppress(CnnlabError):
            read = Sweep.read(tmp_path)
            describe(read, searches=False)
            announce(read, read.with_status("failed", "finished"))
            read.require_rest()
        with contextlib.suppress(CnnlabError):
            find_results([tmp_path])
