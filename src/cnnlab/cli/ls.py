"""`cnnlab ls`: list runs with their metric, epochs, time and status."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cnnlab.config.options import help_of, parse_options
from cnnlab.errors import InputError, nearest
from cnnlab.runs.results import RunResult, find_results, read_curves, smaller_is_better
from cnnlab.runs.settings import ABSENT, Value

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
COLUMNS = ("name", "task", "metric", "epochs", "time", "status")
SORTS = ("started", *COLUMNS)


@dataclass
class Options:
    """List the runs in and below a folder (outputs/ if none is given).

    Example:
    cnnlab ls
    cnnlab ls outputs/flowers sort=metric
    cnnlab ls where="model=mobilenet_v2 and best/val/acc>0.9"

    where: conditions joined by " and ", each a key, one of = != < <= > >=, and a value. Keys are status, task, seed,
    epochs, time in seconds, a metric such as best/val/acc or test/acc, or a config key such as model or optimizer.lr.
    sort: started, name, task, metric (best first), epochs, time or status.
    """

    where: str | None = None
    sort: str = "started"


@dataclass(frozen=True)
class Row:
    """One run in the list. best: value of its own metric in its best epoch; None if it has none."""

    run: RunResult
    name: str
    epochs: int
    seconds: float
    best: float | None

    def value(self, key: str) -> Value:
        """Return what a condition compares: a column, a metric, or the value of a config key."""
        own: dict[str, Value] = {
            "name": self.name,
            "task": self.run.record.get("task", ABSENT),
            "status": self.run.status,
            "seed": self.run.record.get("seed", ABSENT),
            "epochs": self.epochs,
            "time": self.seconds,
        }
        if key in own:
            return own[key]
        return self.run.numbers[key] if key in self.run.numbers else self.run.value(key)

    @property
    def cells(self) -> tuple[str, ...]:
        metric = "" if self.best is None else f"{self.run.metric.removeprefix('val/')} {self.best:.4g}"
        time = str(timedelta(seconds=round(self.seconds))) if self.seconds else ""
        task = str(self.run.record.get("task", ""))
        return self.name, task, metric, str(self.epochs or ""), time, self.run.trouble or self.run.status


def help_text(arguments: Sequence[str]) -> str:
    return help_of(Options, "ls").replace("cnnlab ls key=value ...", "cnnlab ls [FOLDER] key=value ...")


def main(arguments: Sequence[str]) -> None:
    folders = [argument for argument in arguments if "=" not in argument or Path(argument).is_dir()]
    if len(folders) > 1:
        raise InputError(f"cnnlab ls lists one folder, not {len(folders)}: {', '.join(folders)}.")
    cfg = parse_options([argument for argument in arguments if argument not in folders], Options, "ls")
    if cfg.sort not in SORTS:
        raise InputError(f"sort={cfg.sort}: {nearest([cfg.sort], SORTS)}")
    folder = Path(folders[0] if folders else "outputs")
    rows = [row_of(run, folder) for run in find_results([folder])]
    if cfg.where is not None:
        rows = filtered(rows, cfg.where)
    print(table(in_order(rows, cfg.sort)))


def row_of(run: RunResult, folder: Path) -> Row:
    """Return the row of a run below `folder`; a run that goes on, or was stopped, has the epochs that it has logged."""
    curves = run.curves
    if not curves:
        try:
            curves = read_curves(run.folder / "metrics.csv", {})
        except ValueError:
            curves = {}
    trained = [curve for name, curve in curves.items() if name.startswith(("train/", "val/"))]  # test comes after them
    epochs = 1 + max((max(curve) for curve in trained), default=-1)
    best = run.numbers.get(f"best/{run.metric}") if run.numbers else None
    name = run.folder.relative_to(folder).as_posix() if run.folder != folder else folder.name
    return Row(run, name, epochs, float(run.record.get("wall_seconds", 0.0)), best)


def filtered(rows: Sequence[Row], where: str) -> list[Row]:
    """Return the rows that meet every condition; raise InputError for one that no run can meet or that is none."""
    kept = list(rows)
    for condition in where.split(" and "):
        found = re.fullmatch(r"\s*(.+?)\s*(<=|>=|!=|<|>|=)\s*(.*?)\s*", condition)
        if not found:
            raise InputError(f"where: {condition!r} is not a condition. Write key=value, key>value and the like.")
        key, sign, wanted = found.groups()
        if all(row.value(key) == ABSENT for row in rows):
            known = sorted({"status", "task", "seed", "epochs", "time", *(k for row in rows for k in known_keys(row))})
            raise InputError(f"where: no run has {key}. {nearest([key], known)}".rstrip())
        kept = [row for row in kept if meets(row.value(key), sign, wanted)]
    return kept


def known_keys(row: Row) -> list[str]:
    return [*row.run.numbers, *row.run.record.get("settings", {})]


def meets(value: Value, sign: str, wanted: str) -> bool:
    """Return whether a value meets a condition: as numbers if both are, else as text, which has no order."""
    try:
        return OPERATORS[sign](float(value), float(wanted))
    except ValueError:
        return sign in ("=", "!=") and OPERATORS[sign](str(value).lower(), wanted.lower())


def in_order(rows: Sequence[Row], sort: str) -> list[Row]:
    """Return the rows sorted by a column; by metric, the best first and runs without one last."""

    def key(row: Row) -> Any:
        if sort == "started":
            return str(row.run.record.get("started", "~")), row.name
        if sort != "metric":
            return row.value(sort), row.name
        if row.best is None:
            return "~", 0.0
        sign = 1 if smaller_is_better(row.run.metric, row.run.modes) else -1
        return row.run.metric, sign * row.best

    return sorted(rows, key=key)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table for the terminal, with a count by status below it."""
    if not rows:
        return "No run meets the conditions."
    cells = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join([*lines, f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}"])
