"""A place for sweeps, and jobs that end as a test wants without training."""

import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from cnnlab.system.files import write_json


@pytest.fixture
def here(monkeypatch, tmp_path, kept_logging) -> Path:
    """An empty working directory, and an environment in which no other program has started this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in ("RANK", "SLURM_PROCID", "SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def tasks(monkeypatch) -> dict[str, list]:
    """Instead of training, each job notes its folder and config, and ends as `ends` says for its seed (or finishes)."""
    noted: dict = {"folders": [], "cfgs": [], "ends": {}}

    def task(cfg, rerun, failures) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        noted["folders"].append(folder)
        noted["cfgs"].append(cfg)
        finished = {"status": "finished", "best": {"val/acc": 0.5, "epoch": 1}, "wall_seconds": 100.0}
        end = noted["ends"].get(cfg.seed, finished)
        if isinstance(end, BaseException):
            raise end
        write_json(folder / "run.json", end)

    monkeypatch.setattr("cnnlab.cli.train.run_job", task)
    return noted
