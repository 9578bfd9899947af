"""Write metrics.csv in the run folder: one row for each step at which something was logged."""

import csv
import io
import re
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from cnnlab.runs.saving import ThrottledLogger
from cnnlab.system.files import write_text

STEP = re.compile("[0-9]{1,18}")


class MetricsCsv(ThrottledLogger):
    """A CSV logger that keeps a resumed run's earlier rows, up to where it continues; Lightning's deletes them."""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        self._continued = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the run's config is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = 0 if step is None else step
        if not self._continued:
            self._rows = {number: row for number, row in self._read().items() if number < step}
            self._continued = True
        self._rows.setdefault(step, {"step": step}).update(metrics)

    @rank_zero_only
    def write(self) -> None:
        if not self._rows:
            return
        columns = ["step", *sorted({key for row in self._rows.values() for key in row} - {"step"})]
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        write_text(self.path, table.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()

    def _read(self) -> dict[int, dict[str, Any]]:
        """Return step -> row of the existing file, without truncated or damaged rows."""
        if not self.path.is_file():
            return {}
        rows = {}
        with suppress(csv.Error), self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                if None not in row and STEP.fullmatch(row.get("step") or ""):
                    rows[int(row["step"])] = {key: value for key, value in row.items() if value}
        return rows
