"""Overrides, the values that they sweep, and the arguments of verbs."""

import contextlib
import functools

from fuzzing import SCALARS, fuzzed, plain_values
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.api import typed_like
from cnnlab.cli import cache, predict
from cnnlab.config import check, compose, quote_path
from cnnlab.config.options import parse_options
from cnnlab.config.overrides import every_combination, every_value
from cnnlab.errors import CnnlabError
from cnnlab.runs.naming import job_names, run_name
from cnnlab.runs.settings import typed

KEYS = [
    *("seed", "model", "data", "augmentation", "regularization", "optimizer.lr", "data.root", "run", "+x", "~init"),
    *("++optimizer.betas", "model.network", "trainer.max_epochs", "callbacks", "trusted_packages", "hydra/launcher"),
]
WORDS = [
    *("lenet5", "digits", "[flip,noise]", "{a: 1}", "range(1,5)", "choice(1,2)", "interval(0,1)", "tag(x,1)", "null"),
    *("shuffle(1,2,3)", "glob(*)", "sort(3,1)", "range(1,9,0.5)", "int(3)", "'a b'", "${seed}", "\\", "(", "]", "a,b"),
    *("range(1,1000000000)", "range(0,1,1e-9)", "range(1,5,0)", "1,2,3", "'", '"', "=", " ", "ü", "\0"),
]
VALUES = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("".join),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(",".join),
    st.text(max_size=12),
)
OVERRIDES = st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES), st.text(max_size=12))


@given(st.lists(OVERRIDES, max_size=4))
@fuzzed
def test_values_of_a_sweep(overrides):
    quoted = [quote_path(override, sweeping=True) for override in overrides]
    with contextlib.suppress(CnnlabError):
        jobs = every_combination(quoted)
        if len(jobs) < 50:
            names = job_names(jobs)
            assert len({name.lower() for name in names}) == len(jobs)
            assert all("/" not in name and "=" not in name for name in names)
    with contextlib.suppress(CnnlabError):
        every_value(quoted)


@given(st.lists(OVERRIDES, max_size=4))
@fuzzed
def test_names_and_settings(overrides):
    name = run_name(overrides)
    assert 0 < len(name.encode()) <= 100
    assert not set(name) & set("/=,: ")
    assert isinstance(typed(overrides), dict)


@functools.cache
def composed() -> object:
    return compose(["model=lenet5", "data=digits"])


PLACES = ["seed", "model", "model.network", "data.classes", "data.dataset._target_", "optimizer", "optimizer.lr"]
PLACES += ["augmentation.flip", "trusted_packages", "paths", "scheduler._target_", "freeze.phases", "loss.x"]


@given(st.lists(st.tuples(st.sampled_from(PLACES), plain_values(["_target_", "name", "p"])), max_size=3))
@fuzzed
def test_config_of_any_values(changes):
    cfg = composed().copy()
    OmegaConf.set_struct(cfg, False)
    for place, value in changes:
        with contextlib.suppress(OmegaConfBaseException):
            OmegaConf.update(cfg, place, value, force_add=True)
    with contextlib.suppress(CnnlabError):
        check(cfg)


@given(st.lists(OVERRIDES, max_size=1))
@functools.partial(fuzzed, share=0.1, seconds=10)  # Hydra composes for 0.1 s, and several times to find a mistake
def test_overrides_of_a_run(overrides):
    with contextlib.suppress(CnnlabError):
        check(compose(["model=lenet5", "data=digits", *map(quote_path, overrides)]))


ARGUMENTS = st.builds(
    "{}={}".format,
    st.sampled_from(["run", "images", "top_k", "trusted_packages", "unused_days", "all", "key", "x"]),
    st.one_of(VALUES, SCALARS.map(str)),
)


@given(st.lists(st.one_of(ARGUMENTS, st.text(max_size=8)), max_size=4))
@fuzzed
def test_arguments_of_verbs(arguments):
    for schema in (predict.Options, cache.Options):
        with contextlib.suppress(CnnlabError):
            assert isinstance(parse_options(arguments, schema, "verb"), schema)


@given(VALUES, st.sampled_from([None, 1, 0.5, "x", [], {}, True]))
@fuzzed
def test_values_that_replace_those_of_a_run(text, old):
    with contextlib.suppress(CnnlabError):
        typed_like("data.classes", text, old)
