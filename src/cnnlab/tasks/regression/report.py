"""Report the scores of a regression: errors, a table of predictions, and a plot of predictions against the truth."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from cnnlab.data.datamodule import DataModule
from cnnlab.data.images import LabelledImages
from cnnlab.reports.pages import figure_png, html_page, html_picture, html_section, html_tiles, write_csv
from cnnlab.system.files import write_bytes, write_json, write_text
from cnnlab.tasks.scoring import scoring_batches
from cnnlab.training.module import TaskModule


@dataclass(frozen=True)
class ScoredValues:
    """The values that a network predicts for `images`, float64 N, and the true ones."""

    images: LabelledImages
    predicted: np.ndarray
    truth: np.ndarray

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """n, mean squared error, mean absolute error, and R2, the share of explained variance (None for one image)."""
        mse = float(mean_squared_error(self.truth, self.predicted))
        return {
            "n": len(self.truth),
            "mse": mse,
            "loss": mse,
            "mae": float(mean_absolute_error(self.truth, self.predicted)),
            "r2": float(r2_score(self.truth, self.predicted)) if len(self.truth) > 1 else None,
        }

    def summary(self) -> str:
        return (
            "   ".join(
                f"{name} {self.metrics[name]:.4f}" for name in ("mse", "mae", "r2") if self.metrics[name] is not None
            )
            + f"   n {self.metrics['n']}"
        )

    def write(self, folder: Path, title: str) -> None:
        """Write metrics.json, predictions.csv, predictions.png and report.html."""
        write_json(folder / "metrics.json", self.metrics)
        rows = [
            [self.images.name(i), f"{true:.6g}", f"{found:.6g}"]
            for i, (true, found) in enumerate(zip(self.truth, self.predicted, strict=True))
        ]
        write_csv(folder / "predictions.csv", ["image", "true", "predicted"], rows)
        picture = figure_png(self._figure())
        write_bytes(folder / "predictions.png", picture)
        numbers = {name: value for name, value in self.metrics.items() if value is not None and name != "loss"}
        tiles = html_tiles([(name, value, "") for name, value in numbers.items()])
        page = html_page(title, html_section("", tiles), html_picture("Predictions", picture))
        write_text(folder / "report.html", page)

    def _figure(self) -> Figure:
        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.add_subplot()
        ends = [min(self.truth.min(), self.predicted.min()), max(self.truth.max(), self.predicted.max())]
        axes.plot(ends, ends, color="grey", linestyle=":")
        axes.plot(self.truth, self.predicted, "o", markersize=4, alpha=0.6)
        axes.set(xlabel="true value", ylabel="predicted value")
        axes.grid(alpha=0.3)
        return figure


@torch.inference_mode()
def score(module: TaskModule, data: DataModule, images: LabelledImages) -> ScoredValues:
    """Predict the values of `images` in one pass, on the GPU if there is one."""
    found = [module.predict(batch).cpu() for batch, _ in scoring_batches(module, data, images)]
    return ScoredValues(images, torch.cat(found).double().numpy(), np.asarray(images.labels, np.float64))
