"""The private names of Hydra are still there and still mean what we take them for; and only one file knows any."""

import contextlib
import copy
import importlib
import itertools

import hydra
import pytest
from hydra._internal import config_loader_impl, config_repository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from program import REPOSITORY

from cnnlab.config import compose
from cnnlab.errors import InputError

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


COMPOSED = [
    [],
    ["seed=3", "optimizer.lr=0.5", "+model.network.extra=[1,{a: 2}]", "~scheduler"],
    ["model=lenet5", "data=digits", "augmentation=[flip,noise]", "callbacks=none"],
    ["optimizer.lr=0.1", "optimizer=sgd", "optimizer.lr=0.2"],
    ["experiment=quickstart", "data.batch_size=8"],
    ["model={name: mine}"],
    ["+augmentation@second=flip", "init=orthogonal"],
    ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.run.dir=x"],
]


@pytest.fixture
def plain_hydra(compat):
    """Hydra as it comes, for what runs within."""

    @contextlib.contextmanager
    def unpatched():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config_loader_impl, "create_defaults_list", compat.create_defaults_list)
            patch.setattr(config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list", compat._merge)
            patch.setattr(config_repository.ConfigRepository, "load_config", compat._parse)
            yield

    return unpatched


@pytest.mark.parametrize("overrides", COMPOSED, ids=lambda overrides: " ".join(overrides) or "none")
def test_config_is_that_of_hydra_however_often_it_is_composed(plain_hydra, overrides):
    found = [OmegaConf.to_yaml(compose(overrides, with_hydra=True)) for _ in range(2)]
    with plain_hydra():
        expected = OmegaConf.to_yaml(compose(overrides, with_hydra=True))
    assert found == [expected, expected]


@pytest.mark.parametrize(
    "override", ["model=vgg17", "~model=vgg17", "+model=vgg16", "++model=vgg16", "model=3", "sed=1"]
)
def test_what_does_not_compose_is_refused_as_by_hydra(plain_hydra, override):
    def failure() -> str:
        with pytest.raises(InputError) as caught:
            compose([override])
        return str(caught.value)

    found = failure(), failure()
    with plain_hydra():
        assert found == (failure(), found[0])


def test_options_of_a_changed_file_are_those_it_has_now(tmp_path):
    (tmp_path / "optimizer").mkdir()

    def rate(text: str) -> object:
        (tmp_path / "optimizer" / "mine.yaml").write_text(text)
        return compose(["optimizer=mine"], str(tmp_path)).optimizer.lr

    assert [rate("lr: 1.0"), rate("lr: 20.0"), rate("lr: ${seed}")] == [1.0, 20.0, 0]
    (tmp_path / "optimizer" / "mine.yaml").unlink()
    with pytest.raises(InputError, match="unknown option mine of optimizer"):
        compose(["optimizer=mine"], str(tmp_path))


def test_what_is_done_with_a_config_does_not_reach_the_next():
    first = compose(["model=lenet5"])
    expected = copy.deepcopy(first)
    first.optimizer.lr = 77.0
    first.model.name = "changed"
    assert compose(["model=lenet5"]) == expected


def test_no_other_file_uses_private_names_of_hydra():
    files = sorted(SOURCE.rglob("*.py"))
    assert COMPAT in files
    assert [str(path) for path in files if "hydra._internal" in path.read_text(encoding="utf-8")] == [str(COMPAT)]
