"""Speed, waiting and memory, as the record of a run has them."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from in_process import DIGITS, config, digits_with, train_in_process

from cnnlab.data.datamodule import default_workers
from cnnlab.errors import InputError
from cnnlab.training.callbacks import progress
from cnnlab.training.callbacks.progress import Progress, Throughput, peak_memory
from cnnlab.training.recipe import build_optimizer


def test_waiting_is_what_lies_between_the_callbacks_of_one_batch_and_the_next(monkeypatch):
    """Batches of 8 images on a clock of our own; 1 s of other callbacks and a validation of 100 s are no waiting."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.now)
    trainer, module = SimpleNamespace(world_size=2), SimpleNamespace(step_ended=0.0)
    batch = (None, torch.zeros(8))
    throughput = Throughput()
    assert throughput.speed is throughput.wait_share is None

    def at(seconds: float, hook, *arguments) -> None:
        clock.now = seconds
        hook(trainer, module, *arguments)

    at(10.0, throughput.on_train_epoch_start)
    at(12.0, throughput.on_train_batch_start, batch, 0)
    at(15.0, throughput.on_train_batch_end, None, batch, 0)
    module.step_ended = 16.0
    at(16.5, throughput.on_train_batch_start, batch, 1)
    at(20.0, throughput.on_train_batch_end, None, batch, 1)
    module.step_ended = 20.0
    at(120.0, throughput.on_validation_end)
    assert throughput.speed == pytest.approx(2 * 8 * 2 / 10)
    assert throughput.wait_share == pytest.approx((2.0 + 0.5) / 10)
    at(121.0, throughput.on_train_epoch_start)
    at(121.5, throughput.on_train_batch_start, batch, 0)
    assert throughput.waited == pytest.approx(3.0)


SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.limit_val_batches=2")
SHOWN = digits_with("callbacks=default", *SHORT)


def test_file_gets_one_line_an_epoch_and_no_bar(tmp_path, caplog, capsys):
    with caplog.at_level("INFO"):
        record = train_in_process(tmp_path / "run", *SHOWN)
    lines = [message for message in caplog.messages if message.startswith("Epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["Epoch 0", "Epoch 1"]
    last = record["last"]
    expected = {"loss": "train/loss_epoch", "acc": "train/acc_epoch", "val_loss": "val/loss", "val_acc": "val/acc"}
    assert all(f"{label} {last[key]:.3f}" in lines[1] for label, key in expected.items())
    assert re.search(rf"best {record['best']['val/acc']:.3f}, img/s \d+\.\d, \d+\.\d s$", lines[1])
    printed = "".join(capsys.readouterr())
    assert "it/s" not in printed
    assert "%|" not in printed


def test_terminal_gets_a_bar_and_no_lines(tmp_path, caplog, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with caplog.at_level("INFO"):
        train_in_process(tmp_path / "run", *SHOWN)
    assert not [message for message in caplog.messages if message.startswith("Epoch ")]
    printed = capsys.readouterr().out
    assert re.search(r"Epoch 1: 100%.* 3/3 .*loss=\d\.\d{3}.*val_acc=\d\.\d{3}, best=", printed)


def test_bar_is_refreshed_ten_times_a_second_and_after_the_last_batch(monkeypatch):
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.now)
    bar, refreshed = Progress(), []
    for batch in range(100):
        clock.now += 0.01
        if bar._due(batch == 99):
            refreshed.append(batch)
    assert 10 <= len(refreshed) <= 12
    assert refreshed[-1] == 99
    bar.disable()
    clock.now += 1
    assert not bar._due(True)


def test_peak_memory_is_the_kernels():
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert peak_memory(torch.device("cpu")) == pytest.approx(1024 * kilobytes, rel=0.05)


def test_record_and_log_tell_speed_waiting_and_memory(tmp_path, caplog):
    with caplog.at_level("INFO"):
        record = train_in_process(tmp_path / "run", *DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=5")
    assert record["images_per_second"] > 0
    assert 0 <= record["data_wait_share"] <= 1
    assert 0.1 < record["peak_memory_gib"] < 20
    assert "of the time waiting for data; peak memory" in caplog.text


@pytest.mark.parametrize(
    ("optimizer", "precision", "fused"),
    [
        ("adamw", "32-true", True),
        ("sgd", "bf16-mixed", True),
        ("rmsprop", "32-true", None),
        ("adamw", "16-mixed", None),
        ("adamw", "32-true clipped", True),
        ("adamw", "bf16-mixed clipped", None),
    ],
)
def test_optimizer_is_fused_where_it_can_be(tmp_path, optimizer, precision, fused):
    cfg = config(tmp_path / "run", *DIGITS, f"optimizer={optimizer}")
    precision, *clipped = precision.split()
    built = build_optimizer(cfg["optimizer"], precision, ("torch.",), bool(clipped))
    assert built.keywords.get("fused") is fused


def test_fused_optimizer_that_cannot_be_clipped_is_refused():
    node = {"_target_": "torch.optim.AdamW", "_partial_": True, "fused": True}
    with pytest.raises(
        InputError, match=r"fused=true does not work in precision bf16-mixed with trainer.gradient_clip"
    ):
        build_optimizer(node, "bf16-mixed", ("torch.",), clips=True)


def test_fused_steps_are_the_plain_ones(tmp_path):
    cfg = config(tmp_path / "run", *DIGITS, "optimizer=adamw")
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2)]
    steps = [
        build_optimizer(cfg["optimizer"], "32-true", ("torch.",))([weights[0]], lr=0.01),
        torch.optim.AdamW([weights[1]], lr=0.01, foreach=False, fused=False),
    ]
    for _ in range(20):
        for weight, optimizer in zip(weights, steps, strict=True):
            weight.grad = (weight.detach() - 0.3) ** 3
            optimizer.step()
    assert torch.allclose(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_workers_are_as_many_as_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr("cnnlab.data.datamodule.cores", lambda: 3)
    assert default_workers(10_000) == 3
    assert default_workers(100) == 0
    monkeypatch.setattr("cnnlab.data.datamodule.cores", lambda: 96)
    assert default_workers(10_000) == 8
