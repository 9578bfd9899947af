"""What limits a run is told from planted speeds, and every override that is advised exists."""

import dataclasses
import re

import pytest

from cnnlab.config import check, compose
from cnnlab.reports.bottleneck import Setup, diagnose, on_filling, rate

PLAIN = Setup(
    unit="images",
    batch_size=32,
    workers=2,
    cores=2,
    threads=2,
    gpu=False,
    bf16=True,
    precision="32-true",
    deterministic=False,
    channels_last=True,
)


def advised(text: str) -> list[str]:
    """The overrides in a paragraph."""
    return re.findall(r"[a-z_.]+=\w+", text)


def said(loader: float, network: float, epoch: float = 60, **changes: object) -> str:
    return diagnose(loader, network, min(loader, network), epoch, dataclasses.replace(PLAIN, **changes))


@pytest.mark.parametrize(
    ("loader", "network", "limit"),
    [
        (1000, 30, "The network is the bottleneck"),
        (30, 1000, "The loader is the bottleneck"),
        (100, 110, "about equally fast"),
    ],
)
def test_slower_one_limits(loader, network, limit):
    text = said(loader, network)
    assert limit in text
    assert f"{loader:,} images/s" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["speed=fast"]),
        ({"bf16": False}, []),
        ({"precision": "bf16-mixed"}, []),
        ({"deterministic": True}, ["speed=default"]),
        ({"channels_last": False}, ["speed=fast", "speed.channels_last=true"]),
        ({"pretrained": True}, ["speed=fast", "freeze=features", "freeze=last_block"]),
        ({"pretrained": True, "freezes": True}, ["speed=fast"]),
        ({"recomputes": True}, ["freeze.cache=auto", "speed=fast"]),
        ({"threads": 1}, ["speed=fast", "speed.num_threads=null"]),
    ],
)
def test_network_that_limits_is_made_faster_by_what_is_off(changes, expected):
    assert advised(said(1000, 30, **changes)) == expected


def test_steps_that_are_short_need_other_changes():
    assert advised(said(100_000, 20_000)) == ["speed.num_threads=1", "data.batch_size=128"]
    assert advised(said(100_000, 200_000, batch_size=512, kept=True)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"workers": 0}, ["data.num_workers=2"]),
        ({"workers": 0, "epoch": 1}, []),
        ({"decodes": True, "records_off": True}, ["data.record_cache=auto"]),
        ({"recomputes": True}, ["freeze.cache=auto"]),
        ({"recomputes": True, "obstacle": "MixUp mixes images anew in every batch"}, []),
    ],
)
def test_loader_that_limits_is_made_faster_by_what_is_off(changes, expected):
    assert advised(said(30, 1000, **changes)) == expected


def test_reason_that_features_are_not_kept_is_told():
    text = said(1000, 30, recomputes=True, obstacle="MixUp mixes images anew in every batch")
    assert "which is not possible now: MixUp mixes" in text


def test_decoder_that_is_missing_is_named():
    assert "pip install simplejpeg" in said(30, 1000, decodes=True, simplejpeg=False)
    assert "simplejpeg" not in said(30, 1000, simplejpeg=False)


def test_filling_is_limited_by_the_slower_part():
    kept = dataclasses.replace(PLAIN, kept=True, views=4)
    slow_network = on_filling("3 min", 1000, loader=0.1, stages=2.0, setup=kept)
    slow_loader = on_filling("3 min", 1000, loader=0.5, stages=0.1, setup=dataclasses.replace(kept, workers=0))
    assert "the frozen stages are the bottleneck" in slow_network
    assert advised(slow_network) == ["speed=fast", "freeze.cache_views=1"]
    assert "the loader is the bottleneck" in slow_loader
    assert advised(slow_loader) == ["data.num_workers=2", "freeze.cache_views=1"]
    rates = f"{PLAIN.batch_size / 0.5:,.0f} {PLAIN.unit}/s from the loader and {PLAIN.batch_size / 0.1:,.0f} through"
    assert rates in slow_loader
    bare = on_filling("3 min", 1000, loader=0.1, stages=2.0, setup=dataclasses.replace(kept, runtime=False))
    assert "pip install 'cnnlab[onnxruntime]'" in bare


def test_every_override_that_is_advised_exists():
    everything = dataclasses.replace(
        PLAIN,
        workers=0,
        threads=1,
        channels_last=False,
        pretrained=True,
        recomputes=True,
        decodes=True,
        records_off=True,
    )
    small = dataclasses.replace(PLAIN, kept=True, views=4)
    texts = [
        diagnose(30, 30, 20, 60, everything),
        diagnose(30, 30, 20, 60, dataclasses.replace(everything, deterministic=True)),
        diagnose(9e4, 9e4, 9e4, 60, PLAIN),
        diagnose(9e4, 9e4, 9e4, 60, small),
        on_filling("1 s", 9, 1, 2, small),
    ]
    overrides = {override for text in texts for override in advised(text)}
    assert len(overrides) >= 11
    while overrides:  # as many at once as have different keys: a config takes long to compose
        together = {override.split("=")[0]: override for override in sorted(overrides)}
        check(compose(list(together.values())))
        overrides -= set(together.values())


def test_speeds_below_ten_have_two_digits():
    assert [rate(value) for value in (0.3125, 7.25, 12.6, 1234.5)] == ["0.31", "7.2", "13", "1,234"]
    assert "the network alone processes 0.31, both together reach 0.31" in said(10, 0.3125)
