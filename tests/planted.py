"""Run folders as training leaves them, with figures that a test chose."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def plant(folder: Path, overrides: Sequence[str], seed: int, accuracies: Sequence[float], **record: Any) -> Path:
    """A run of so many epochs with these validation accuracies; `record` overwrites entries of run.json."""
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
    lines = ["step,best/val/acc,epoch,train/acc,val/acc,val/loss"]
    for epoch, accuracy in enumerate(accuracies):
        lines.append(f"{10 * epoch + 4},,{epoch},{accuracy + 0.01!r},,")
        best = max(accuracies[: epoch + 1])
        lines.append(f"{10 * epoch + 9},{best!r},{epoch},{accuracy + 0.03!r},{accuracy!r},{1 - accuracy!r}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    best = max(accuracies)
    written = {
        "status": "finished",
        "seed": seed,
        "split_hash": "0123456789abcdef",
        "wall_seconds": 10.0 + seed,
        "images_per_second": 100.0,
        "best": {"val/acc": best, "epoch": list(accuracies).index(best)},
        "last": {"val/acc": accuracies[-1], "epoch": len(accuracies) - 1},
    }
    (folder / "run.json").write_text(json.dumps(written | record))
    return folder
