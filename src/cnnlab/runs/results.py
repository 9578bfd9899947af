"""Read the results of runs from their folders: status, settings, curves and numbers."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnlab.errors import DataError, InputError
from cnnlab.runs.settings import Value, typed, value_of
from cnnlab.system.files import read_json, read_yaml

Curve = dict[int, float]
"""Epoch (from 0) -> value."""
BOUNDS = {
    **dict.fromkeys(("acc", "acc_top5", "f1", "balanced_acc"), (0.0, 1.0)),
    **dict.fromkeys(("map", "map_50", "map_75", "mar_100"), (0.0, 1.0)),
    **dict.fromkeys(("mask_map", "mask_map_50", "mask_map_75", "mask_mar_100"), (0.0, 1.0)),
    **dict.fromkeys(("mse", "mae", "wall_seconds", "images_per_second"), (0.0, math.inf)),
    "r2": (-math.inf, 1.0),
    "epochs_to_best": (1.0, math.inf),
}
"""Name of a metric -> its smallest and largest possible value; other metrics have no bounds."""


@dataclass(frozen=True)
class RunResult:
    """The results of a finished run, or the `trouble` that keeps an unfinished or unreadable one out of every table."""

    folder: Path
    trouble: str = ""
    status: str = ""
    seed: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, Value] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that chose the run's best epoch, such as val/acc."""
        return str(self.record["metric"])

    @property
    def modes(self) -> dict[str, str]:
        """Name of each metric of the run's task -> "max" or "min"."""
        return {name: str(mode) for name, mode in _section(self.record, "modes")}

    @property
    def fold(self) -> int | None:
        """Number of the fold that the run was validated on; None without folds."""
        fold = dict(_section(self.record, "folds")).get("fold")
        return fold if isinstance(fold, int) else None

    @property
    def repeat(self) -> int:
        """What distinguishes the repeats of a setting: the fold, or the seed without folds."""
        return self.seed if self.fold is None else self.fold

    @property
    def split(self) -> str:
        """Hash of the split into training and validation images; with folds, of the division into all of them."""
        if self.fold is not None:
            return str(dict(_section(self.record, "folds")).get("hash"))
        return str(self.record.get("split_hash", "unknown"))

    def value(self, key: str) -> Value:
        """Return the readable value of a config key, whether it was typed or not."""
        return value_of(key, self.config, self.record.get("settings", {}), self.typed.get(key))


def find_results(folders: Sequence[Path]) -> list[RunResult]:
    """Return the runs in and below `folders`, sorted by path, and the jobs of their sweeps that have not started.

    Raises InputError if a folder does not exist, or none has runs.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"The folder {folder} does not exist.")
    found = {path.parent.absolute(): path.parent for folder in folders for path in sorted(folder.rglob("run.json"))}
    if not found:
        where = ", ".join(map(str, folders))
        empty = not any(any(folder.iterdir()) for folder in folders)
        reason = "is empty" if empty else "contains no cnnlab run (a folder with a run.json)"
        raise InputError(f"{where} {reason}. Name the folder of a sweep, or of several runs.")
    planned = [job for folder in folders for path in sorted(folder.rglob("sweep.json")) for job in planned_jobs(path)]
    waiting = [folder for folder in planned if folder.absolute() not in found]
    runs = [read_result(folder) for folder in found.values()]
    return [*runs, *(RunResult(folder, "not started", "pending") for folder in dict.fromkeys(waiting))]


def planned_jobs(path: Path) -> list[Path]:
    """Return the folders of the jobs in a sweep.json, or [] if it cannot be read."""
    try:
        return [path.parent / job["name"] for job in read_json(path)["jobs"]]
    except (DataError, KeyError, TypeError):
        return []


def read_result(folder: Path) -> RunResult:
    """Read one run; `trouble` of the result says what cannot be read."""
    try:
        record = read_json(folder / "run.json")
    except DataError:
        return RunResult(folder, "run.json cannot be read", "unreadable")
    if not isinstance(record, dict) or not isinstance(record.get("status"), str) or not record["status"]:
        return RunResult(folder, "run.json is not from cnnlab: it has no status", "unreadable")
    status = record["status"]
    config, overrides = _yaml(folder / "config.yaml", dict), _yaml(folder / "overrides.yaml", list)
    seed = record.get("seed", config.get("seed"))
    known: dict[str, Any] = {"status": status, "record": record, "config": config}
    known["typed"] = typed([override for override in overrides if isinstance(override, str)])
    if status != "finished":
        return RunResult(folder, _ending(record), **known)
    if not isinstance(seed, int):
        return RunResult(folder, "its seed is not recorded", **known)
    if not isinstance(record.get("metric"), str):
        return RunResult(folder, "it does not record its metric: an earlier version of cnnlab trained it", **known)
    try:
        curves = read_curves(folder / "metrics.csv", dict(_section(record, "last")))
    except ValueError as error:
        return RunResult(folder, f"metrics.csv {error}", **known)
    return RunResult(folder, seed=seed, curves=curves, numbers=_numbers(record, curves), **known)


def read_curves(path: Path, last: dict[str, Any]) -> dict[str, Curve]:
    """Return metric -> value by epoch from metrics.csv; a metric logged several times in an epoch is averaged.

    last: the metrics of the last epoch in run.json, which reveal a truncated file. Returns {} without the file;
    raises ValueError if it is truncated or not a table of metrics.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError("cannot be read") from error
    table = csv.DictReader(io.StringIO(text))
    try:
        columns, rows = table.fieldnames or (), list(table)
    except csv.Error as error:
        raise ValueError(f"is damaged at line {table.line_num}") from error
    if not {"step", "epoch"} <= set(columns):
        raise ValueError("has no columns step and epoch")
    logged: dict[str, dict[int, list[float]]] = {}
    for line, row in enumerate(rows, 2):
        damaged = None in row or None in row.values()
        try:
            values = {key: float(value) for key, value in row.items() if value} if not damaged else {}
        except ValueError:
            damaged = True
        if damaged or not math.isfinite(values.get("epoch", math.nan)):
            raise ValueError(f"is cut off or damaged at line {line}")
        for key in values.keys() - {"step", "epoch"}:
            logged.setdefault(key, {}).setdefault(int(values["epoch"]), []).append(values[key])
    curves = {key: {epoch: sum(v) / len(v) for epoch, v in sorted(of.items())} for key, of in logged.items()}
    ends = max((max(curve) for curve in curves.values()), default=-1)
    if isinstance(last.get("epoch"), int) and ends < last["epoch"]:
        raise ValueError(f"is cut off: it ends in epoch {ends}, the run in epoch {last['epoch']}")
    if not text.endswith("\n") and any(
        isinstance(last.get(key), float) and not math.isclose(curve[ends], last[key], rel_tol=1e-5)
        for key, curve in curves.items()
        if key.startswith("val/") and ends in curve
    ):
        raise ValueError(f"is cut off or damaged at line {table.line_num}")
    return curves


def smaller_is_better(metric: str, modes: Mapping[str, str]) -> bool:
    """Return whether a smaller value of a metric is better: val/mae, best/val/loss, gap/acc, wall_seconds.

    modes: metric of the runs' task -> "max" or "min"; other metrics are "max", except losses and costs.
    """
    if metric.startswith("gap/") or metric in ("epochs_to_best", "wall_seconds"):
        return True
    name = metric.rsplit("/", 1)[-1].removesuffix("_epoch")
    return modes.get(name, "min" if name == "loss" else "max") == "min"


def bounds_of(metric: str) -> tuple[float, float]:
    """Return the smallest and largest possible value of a metric: (0, 1) for best/val/acc, (-1, 1) for gap/acc."""
    low, high = BOUNDS.get(metric.rsplit("/", 1)[-1], (-math.inf, math.inf))
    return (low - high, high - low) if metric.startswith("gap/") else (low, high)


def _numbers(record: dict[str, Any], curves: dict[str, Curve]) -> dict[str, float]:
    """Return the finite numbers that runs are compared by: best/ and last/ of each validation metric, test/, and more.

    gap/<metric> is how much better training was than validation in the last epoch; epochs_to_best is the number of
    epochs up to and including the best one.
    """
    monitor, modes = record["metric"], dict(_section(record, "modes"))
    numbers: dict[str, Any] = {f"last/{key}": value for key, value in _section(record, "last") if "/" in key}
    best_of_run = dict(_section(record, "best"))
    numbers |= {f"best/{key}": value for key, value in best_of_run.items() if "/" in key}
    if isinstance(best_of_run.get("epoch"), int):
        numbers["epochs_to_best"] = best_of_run["epoch"] + 1
    for key, curve in curves.items():
        if key.startswith("val/") and (curve := {e: v for e, v in curve.items() if math.isfinite(v)}):
            best = (min if smaller_is_better(key, modes) else max)(curve.values())
            numbers |= {f"best/{key}": best, f"last/{key}": list(curves[key].values())[-1]}
            if key == monitor:
                numbers["epochs_to_best"] = next(epoch for epoch, value in curve.items() if value == best) + 1
    name = monitor.removeprefix("val/")
    training = curves.get(f"train/{name}_epoch") or curves.get(f"train/{name}")
    if training and monitor in curves:
        gap = list(training.values())[-1] - list(curves[monitor].values())[-1]
        numbers[f"gap/{name}"] = -gap if smaller_is_better(monitor, modes) else gap
    numbers |= dict(_section(record, "test"))
    numbers |= {key: record.get(key) for key in ("wall_seconds", "images_per_second")}
    return {
        key: float(value) for key, value in numbers.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _section(record: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    section = record.get(name)
    return list(section.items()) if isinstance(section, dict) else []


def _ending(record: dict[str, Any]) -> str:
    """Return why a run is not finished: its status, with the first line of its error."""
    first_line = str(record.get("error", "")).split("\n")[0]
    words = {"running": "still running, or killed", "pending": "not started"}
    if record["status"] in words:
        return words[record["status"]]
    return f"{record['status']}: {first_line}" if first_line else record["status"]


def _yaml(path: Path, kind: type) -> Any:
    """Return the contents of a YAML file, or an empty `kind` if it cannot be read or holds another type."""
    try:
        loaded = read_yaml(path)
    except DataError:
        return kind()
    return loaded if isinstance(loaded, kind) else kind()
