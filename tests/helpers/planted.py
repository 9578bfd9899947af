"""Run folders as training leaves them, with figures that a test chose."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MODES = {"acc": "max", "loss": "min"}


def plant(
    folder: Path,
    overrides: Sequence[str],
    seed: int,
    values: Sequence[float],
    metric: str = "acc",
    modes: Mapping[str, str] = MODES,
    **record: Any,
) -> Path:
    """Write a run of so many epochs with these values of val/<metric> and val/loss = 1 - val/<metric>.

    Training is better than validation by 0.01 and 0.03 in the two steps of each epoch. `record` overwrites entries of
    run.json.
    """
    folder.mkdir(parents=True)
    chosen = dict(override.split("=", 1) for override in overrides)
    names = [name for name in chosen.get("regularization", "none").strip("[]").split(",") if name != "none"]
    config = {
        "seed": seed,
        "init": {"_target_": "cnnlab.models.initialization.initialize", "name": chosen.get("init", "default")},
        "regularization": {name: {"_target_": f"cnnlab.{name}"} for name in names},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": float(chosen.get("optimizer.lr", 0.001))},
        "paths": {"output_dir": str(folder)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([*overrides, f"seed={seed}"]))
    better, sign = (min, -1) if modes[metric] == "min" else (max, 1)
    lines = [f"step,best/val/{metric},epoch,train/{metric},val/{metric},val/loss"]
    for epoch, value in enumerate(values):
        lines.append(f"{10 * epoch + 4},,{epoch},{value + sign * 0.01!r},,")
        best = better(values[: epoch + 1])
        lines.append(f"{10 * epoch + 9},{best!r},{epoch},{value + sign * 0.03!r},{value!r},{1 - value!r}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    best = better(values)
    written = {
        "status": "finished",
        "seed": seed,
        "metric": f"val/{metric}",
        "modes": dict(modes),
        "split_hash": "0123456789abcdef",
        "wall_seconds": 10.0 + seed,
        "images_per_second": 100.0,
        "best": {f"val/{metric}": best, "epoch": list(values).index(best)},
        "last": {f"val/{metric}": values[-1], "epoch": len(values) - 1},
    }
    (folder / "run.json").write_text(json.dumps(written | record))
    return folder
