"""The private names of Hydra are still there and still mean what we take them for; and only one file knows any."""

import copy
import importlib
import itertools

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from program import REPOSITORY

from cnnlab.config import compose

SOURCE = REPOSITORY / "src"
COMPAT = SOURCE / "cnnlab" / "config" / "hydra_compat.py"
ADAPT = f"Hydra {hydra.__version__} has moved it: adapt {COMPAT.relative_to(REPOSITORY)}."


@pytest.fixture(scope="module")
def compat():
    try:
        return importlib.import_module("cnnlab.config.hydra_compat")
    except ImportError as error:
        pytest.fail(f"{error}. {ADAPT}")


def test_command_line_is_split_as_hydra_does(compat):
    found = compat.parse_command_line(
        ["-m", "model=lenet5", "--config-dir", "mine", "seed=1,2", "--cfg", "job", "hydra.verbose=true"]
    )
    for name in ("overrides", "multirun", "config_dir", "cfg", "help", "hydra_help", "info", "resolve"):
        assert hasattr(found, name), f"no {name}. {ADAPT}"
    assert found.overrides == ["model=lenet5", "seed=1,2", "hydra.verbose=true"]
    assert (found.multirun, found.config_dir, found.cfg, found.help) == (True, "mine", "job", False)


def test_plain_command_line_sweeps_nothing(compat):
    found = compat.parse_command_line(("seed=3",))
    assert (found.overrides, found.multirun, found.cfg, found.config_dir) == (["seed=3"], False, None, None)


def test_combinations_are_in_the_order_of_the_basic_sweeper(compat):
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=x", "c=choice(p,q,r)", "d=range(0,2)"])
    expected = [[f"a={a}", "b=x", f"c={c}", f"d={d}"] for a, c, d in itertools.product((1, 2), ("p", "q", "r"), (0, 1))]
    assert compat.split_arguments(parsed) == expected


def test_basic_sweeper_is_where_the_plan_looks_for_it(compat):
    module, _, name = compat.BASIC_SWEEPER.rpartition(".")
    sweeper = getattr(importlib.import_module(module), name, None)
    assert sweeper is not None, f"no {compat.BASIC_SWEEPER}. {ADAPT}"
    assert issubclass(sweeper, Sweeper)


def test_file_is_parsed_again_when_it_changes(compat, tmp_path, monkeypatch):
    group = tmp_path / "optimizer"
    group.mkdir()
    parsed: list[str] = []
    parse = compat._parse
    monkeypatch.setattr(compat, "_parse", lambda self, path: parsed.append(path) or parse(self, path))

    def rate(text: str) -> object:
        (group / "mine.yaml").write_text(text)
        return compose(["optimizer=mine"], str(tmp_path)).optimizer.lr

    assert [rate("lr: 1.0"), rate("lr: 1.0"), rate("lr: 20.0"), rate("lr: ${seed}")] == [1.0, 1.0, 20.0, 0]
    assert parsed.count("optimizer/mine") >= 3
    assert parsed.count("model/mobilenet_v2") <= 1, f"files that did not change are parsed again. {ADAPT}"


def test_what_is_done_with_a_config_does_not_reach_the_next(compat):
    first = compose(["model=lenet5"])
    expected = copy.deepcopy(first)
    first.optimizer.lr = 77.0
    first.model.name = "changed"
    assert compose(["model=lenet5"]) == expected


def test_no_other_file_uses_private_names_of_hydra():
    files = sorted(SOURCE.rglob("*.py"))
    assert COMPAT in files
    assert [str(path) for path in files if "hydra._internal" in path.read_text(encoding="utf-8")] == [str(COMPAT)]
