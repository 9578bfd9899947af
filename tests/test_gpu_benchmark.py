"""The benchmark for a GPU, tried on the CPU: its parts, its data, and what becomes of a part that fails."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from program import REPOSITORY

from cnnlab.data.sources.cifar10 import cifar10


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def bench(gpu, tmp_path):
    given = argparse.Namespace(device="cpu", quick=True, data=tmp_path / "none", json=tmp_path / "gpu.json")
    return gpu.Bench(given, tmp_path / "work")


def test_part_that_fails_is_reported_and_the_others_run(gpu, bench, capsys):
    def broken(bench):
        raise RuntimeError("no memory")

    def ended(bench):
        sys.exit("a program failed")

    failed = gpu.run_parts(bench, [broken, ended, gpu.alphago])
    assert failed == ["broken: RuntimeError: no memory", "ended: SystemExit: a program failed"]
    gpu.report(bench, failed)
    found = json.loads(bench.given.json.read_text())
    assert found["failed"] == failed
    (what, value, unit, note), (last, *_) = found["rows"]
    assert (what, unit, note) == ("AlphaGo, k = 192, forward pass", "ms", "paper: 4.8 ms")
    assert value > 0
    assert last == "this benchmark"
    assert "| AlphaGo, k = 192, forward pass |" in capsys.readouterr().out


def test_late_parts_are_left_out(gpu, bench, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", -1.0)
    assert gpu.run_parts(bench, [gpu.alphago]) == ["alphago: left out after -1 s"]


def test_noise_is_in_the_files_of_cifar10(gpu, tmp_path):
    """As the program's own reader finds it."""
    pixels, labels = gpu.write_cifar(tmp_path, 50)
    splits = cifar10(str(tmp_path))
    images = torch.stack([splits.train.tensor(index, 3) for index in range(50)])
    assert torch.equal(images, pixels)
    assert splits.train.labels.tolist() == labels.tolist()
    assert len(splits.test) == 10


def test_gpu_is_needed_unless_the_cpu_is_named(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="There is no GPU here"):
        gpu.main()


@pytest.mark.slow  # every part, with a dozen runs and three further processes: minutes
def test_every_part_runs_on_the_cpu(tmp_path: Path):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--device", "cpu", "--quick"]
    done = subprocess.run([*command, "--json", "gpu.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == []
    assert {"quickstart: training", "CIFAR-10, ResNet-18", "ddp on one device"} <= {row[0] for row in found["rows"]}
