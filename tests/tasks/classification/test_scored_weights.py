"""The test metrics of a run are those of the weights that it saved."""

import pytest
import torch
from in_process import digits_with, train_in_process

from cnnlab.api import evaluate, load_run

KINDS = {
    "none": ("regularization=none",),
    "average": ("regularization=[ema]", "regularization.ema.decay=0.99"),
    "slow_average": ("regularization=[ema]", "regularization.ema.decay=0.99999"),
    "surgery": ("regularization=[dropout,batch_norm]",),
    "proximal": ("regularization=[l1,max_norm]", "regularization.l1.mode=proximal"),
    "stopped": ("regularization=[early_stopping]", "metric=loss"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_test_metrics_are_those_of_the_saved_weights(kind, tmp_path):
    folder = tmp_path / "run"
    record = train_in_process(folder, *digits_with("trainer.max_epochs=1", "data.train_fraction=0.3", *KINDS[kind]))
    found = evaluate(folder, part="test").metrics
    assert record["test"]["test/acc"] == pytest.approx(found["acc"], abs=1e-7)
    assert record["test"]["test/loss"] == pytest.approx(found["loss"], rel=1e-5)
    saved = torch.load(folder / "best_weights.pth", weights_only=True)
    loaded = load_run(folder).network.network.state_dict()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
