"""Which engine is chosen, by a clock that only its steps move; and evaluations and predictions by engines."""

import csv
import logging
from pathlib import Path

import pytest
import torch

from cnnlab import api
from cnnlab.cli.predict import Options, predict
from cnnlab.errors import InputError
from cnnlab.models.engines import RUNTIMES, TORCH, EngineError
from cnnlab.training import engine_choice
from cnnlab.training.engine_choice import PREPARATION, SHARE, TRIED, choose_engine


class FakeTrial:
    """Engines that take so many seconds a step, and `preparation` seconds to build; infinite: they cannot be built."""

    def __init__(self, preparation: float = 1.0, **seconds: float) -> None:
        self.preparation = preparation
        self.seconds = {TORCH: 1.0, **dict.fromkeys(RUNTIMES, float("inf")), **seconds}
        self.network, self.inputs = torch.nn.Identity(), torch.zeros(TRIED, 3)
        self.reasons: dict[str, str] = {}
        self.built: list[str] = []
        self.now = 0.0

    def switch(self, name: str) -> None:
        if name not in self.built:
            if self.seconds[name] == float("inf"):
                self.reasons[name] = "it refuses the network: no"
                raise EngineError(self.reasons[name])
            self.now += self.preparation if name != TORCH else 0.0
            self.built.append(name)
        self.name = name

    def take(self) -> None:
        self.now += self.seconds[self.name]

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"onnxruntime": 0.4}, "onnxruntime"),
        ({"onnxruntime": 0.4, "openvino": 0.2}, "openvino"),
        ({"onnxruntime": 0.98, "openvino": 1.5}, TORCH),  # too little to leave torch for
    ],
)
def test_fastest_engine_is_chosen_and_remembered(tmp_path, said, seconds, expected):
    trial = FakeTrial(**seconds)
    assert choose_engine("auto", trial, 1000 * TRIED, tmp_path, clock=trial) == expected
    assert trial.name == expected
    assert said.messages[-1].startswith(f"Engine: {expected}")
    assert f"torch {TRIED / 1.0:.3g}/s" in said.messages[-1]
    again = FakeTrial(**seconds)
    assert choose_engine("auto", again, TRIED, tmp_path, clock=again) == expected
    assert again.built == [expected]
    assert "timed before" in said.messages[-1]
    for engine, speed in seconds.items():
        assert f"{engine} {TRIED / speed:.3g}/s" in said.messages[0]


def test_timing_takes_no_more_than_its_share(tmp_path, said):
    """Where torch is done before another engine could be built, nothing else is tried, and nothing is said."""
    steps = (PREPARATION + 3) / SHARE
    few = FakeTrial(onnxruntime=0.1)
    assert choose_engine("auto", few, int((steps - 1) * TRIED), tmp_path, clock=few) == TORCH
    assert (few.built, said.messages, list(tmp_path.iterdir())) == ([TORCH], [], [])
    enough = FakeTrial(onnxruntime=0.1)
    assert choose_engine("auto", enough, int((steps + 1) * TRIED), tmp_path, clock=enough) == "onnxruntime"


def test_engine_that_fails_leaves_torch(tmp_path, said):
    trial = FakeTrial()
    assert choose_engine("auto", trial, 1000 * TRIED, tmp_path, clock=trial) == TORCH
    assert said.messages[-1] == (
        "Engine: torch (onnxruntime: it refuses the network: no; openvino: it refuses the network: no)"
    )
    assert choose_engine("openvino", FakeTrial(), 1, tmp_path) == TORCH
    assert said.messages[-1] == "Engine: torch instead of openvino: it refuses the network: no."


def test_torch_alone_is_not_timed(tmp_path, monkeypatch, said):
    monkeypatch.setattr(engine_choice, "is_installed", lambda name: False)
    trial = FakeTrial()
    assert choose_engine("auto", trial, 10**6, tmp_path, clock=trial) == TORCH
    assert (trial.now, said.messages) == (0.0, [])


# --- Evaluations and predictions ---


def test_evaluation_by_an_engine_is_that_of_torch(quick_run, tmp_path, said):
    scores = {engine: api.evaluate(quick_run, engine=engine) for engine in (TORCH, "onnxruntime")}
    assert [line for line in said.messages if line.startswith("Engine: onnxruntime")]
    plain, other = scores.values()
    assert other.outputs == pytest.approx(plain.outputs, rel=1e-4, abs=1e-4)
    assert other.metrics["acc"] == plain.metrics["acc"]


def test_predictions_by_an_engine_are_those_of_torch(quick_run, pictures, tmp_path):
    shares = []
    for engine in (TORCH, "openvino"):
        options = Options(str(quick_run), str(pictures), str(tmp_path / engine), pictures="false", engine=engine)
        with (predict(options) / "predictions.csv").open(encoding="utf-8") as file:
            shares.append([float(row["probability_1"]) for row in csv.DictReader(file)])
    assert len(shares[0]) == 40
    assert shares[1] == pytest.approx(shares[0], abs=1e-4)
    named = api.predict(quick_run, pictures, engine="onnxruntime")
    assert [prediction.classes[0][1] for prediction in named.values()] == pytest.approx(shares[0], abs=1e-4)


def test_network_computes_itself_after_the_block(quick_run, tmp_path):
    """And where gradients are needed: its engine is for evaluation only."""
    loaded = api.load_run(quick_run)
    module, inputs = loaded.network, torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    with engine_choice.inference_engine(module, inputs, 4, "onnxruntime", tmp_path):
        assert module.engine is not None
        with torch.no_grad():
            found = module(inputs)
    assert module.engine is None
    torch.testing.assert_close(found, module(inputs).detach(), rtol=1e-4, atol=1e-4)


def test_engine_of_another_machine_is_replaced(quick_run, monkeypatch):
    """A run whose config names an engine that is not installed here is scored all the same."""
    loaded = api.load_run(quick_run)
    cfg = {"paths": {"cache_dir": "cache"}, "speed": {"engine": "openvino"}}
    assert api.engine_setting(loaded.task, cfg, None) == ("openvino", Path("cache"))
    monkeypatch.setattr(api, "is_installed", lambda name: False)
    assert api.engine_setting(loaded.task, cfg, None) == ("auto", Path("cache"))
    for damaged in ([], {"engine": ["torch"]}, None):
        assert api.engine_setting(loaded.task, cfg | {"speed": damaged}, None)[0] == "auto"
    with pytest.raises(InputError, match=r"speed\.engine=foo: use"):
        api.engine_setting(loaded.task, cfg, "foo")
