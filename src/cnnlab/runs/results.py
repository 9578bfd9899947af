"""What a run folder says of its run, read from its files alone: status, settings, curves and numbers."""

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
"""Epoch, counted from 0 -> value."""
BOUNDS = {
    **dict.fromkeys(("acc", "acc_top5", "f1", "balanced_acc"), (0.0, 1.0)),
    **dict.fromkeys(("mse", "mae", "wall_seconds", "images_per_second"), (0.0, math.inf)),
    "r2": (-math.inf, 1.0),
    "epochs_to_best": (1.0, math.inf),
}
"""Name of a figure -> the least and the greatest value that it can take; what is not here has no bounds."""


@dataclass(frozen=True)
class RunResult:
    """A run that finished, or the trouble that keeps it out of every table."""

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
        """The metric that decided the run's best epoch, such as val/acc."""
        return str(self.record.get("metric", "val/loss"))

    @property
    def modes(self) -> dict[str, str]:
        """Name of each metric of the run's task -> "max" or "min"."""
        return {name: str(mode) for name, mode in _section(self.record, "modes")}

    @property
    def split(self) -> str:
        """Which images were for training, which for validation."""
        return str(self.record.get("split_hash", "unknown"))

    def value(self, key: str) -> Value:
        """The readable value of a key, typed or not."""
        return value_of(key, self.config, self.record.get("settings", {}), self.typed.get(key))


def find_results(folders: Sequence[Path]) -> list[RunResult]:
    """The runs in and below `folders`, by path, and the jobs of sweeps there that have not begun.

    Raises InputError if there are none, or a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.")
    found = {path.parent.absolute(): path.parent for folder in folders for path in sorted(folder.rglob("run.json"))}
    if not found:
        where = ", ".join(map(str, folders))
        empty = not any(any(folder.iterdir()) for folder in folders)
        reason = "is empty" if empty else "holds no run of cnnlab (a folder with a run.json)"
        raise InputError(f"{where} {reason}. Name the folder of a sweep, or of several runs.")
    planned = [job for folder in folders for path in sorted(folder.rglob("sweep.json")) for job in planned_jobs(path)]
    waiting = [folder for folder in planned if folder.absolute() not in found]
    runs = [read_result(folder) for folder in found.values()]
    return [*runs, *(RunResult(folder, "not started", "pending") for folder in dict.fromkeys(waiting))]


def planned_jobs(path: Path) -> list[Path]:
    """The folders of the jobs that a sweep.json plans; none of one that cannot be read."""
    try:
        return [path.parent / job["name"] for job in read_json(path)["jobs"]]
    except (DataError, KeyError, TypeError):
        return []


def read_result(folder: Path) -> RunResult:
    """Read one run; what cannot be read is said in `trouble`."""
    try:
        record = read_json(folder / "run.json")
    except DataError:
        return RunResult(folder, "run.json cannot be read", "unreadable")
    if not isinstance(record, dict) or not isinstance(record.get("status"), str) or not record["status"]:
        return RunResult(folder, "run.json is of another program: it has no status", "unreadable")
    status = record["status"]
    config, overrides = _yaml(folder / "config.yaml", dict), _yaml(folder / "overrides.yaml", list)
    seed = record.get("seed", config.get("seed"))
    known: dict[str, Any] = {"status": status, "record": record, "config": config}
    known["typed"] = typed([override for override in overrides if isinstance(override, str)])
    if status != "finished":
        return RunResult(folder, _ending(record), **known)
    if not isinstance(seed, int):
        return RunResult(folder, "its seed is not recorded", **known)
    try:
        curves = read_curves(folder / "metrics.csv", dict(_section(record, "last")))
    except ValueError as error:
        return RunResult(folder, f"metrics.csv {error}", **known)
    return RunResult(folder, seed=seed, curves=curves, numbers=_numbers(record, curves), **known)


def read_curves(path: Path, last: dict[str, Any]) -> dict[str, Curve]:
    """Metric -> its value at the end of each epoch; of values logged at steps, their mean over the epoch's.

    last: what run.json has of the last epoch, by which a file is noticed that ends too soon. Empty where there is no
    file; raises ValueError if it is cut off or no table of metrics.
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
        cut = None in row or None in row.values()
        try:
            values = {key: float(value) for key, value in row.items() if value} if not cut else {}
        except ValueError:
            cut = True
        if cut or not math.isfinite(values.get("epoch", math.nan)):
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
    """Return whether less of a figure is better: val/mae, best/val/loss, gap/acc, wall_seconds.

    modes: of the metrics of the runs' task; what is not among them is better if it is larger, unless it is a cost.
    """
    if metric.startswith("gap/") or metric in ("epochs_to_best", "wall_seconds"):
        return True
    name = metric.rsplit("/", 1)[-1].removesuffix("_epoch")
    return modes.get(name, "min" if name == "loss" else "max") == "min"


def bounds_of(metric: str) -> tuple[float, float]:
    """Return the least and the greatest value of a figure: (0, 1) of best/val/acc, (-1, 1) of gap/acc."""
    low, high = BOUNDS.get(metric.rsplit("/", 1)[-1], (-math.inf, math.inf))
    return (low - high, high - low) if metric.startswith("gap/") else (low, high)


def _numbers(record: dict[str, Any], curves: dict[str, Curve]) -> dict[str, float]:
    """Return the finite figures by which runs are compared: best/ and last/ of each validation metric, test/, and more.

    gap/<metric> is how much better the last epoch's training was than its validation; epochs_to_best counts epochs up
    to the best one.
    """
    monitor, modes = str(record.get("metric", "val/loss")), dict(_section(record, "modes"))
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
    """How a run that is not finished stands."""
    first_line = str(record.get("error", "")).split("\n")[0]
    words = {"running": "still running, or killed", "pending": "not started"}
    if record["status"] in words:
        return words[record["status"]]
    return f"{record['status']}: {first_line}" if first_line else record["status"]


def _yaml(path: Path, kind: type) -> Any:
    try:
        loaded = read_yaml(path)
    except DataError:
        return kind()
    return loaded if isinstance(loaded, kind) else kind()
