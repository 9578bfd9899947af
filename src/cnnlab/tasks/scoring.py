"""Iterate over a part of the data for scoring, and evaluate tasks that report only their metrics."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cnnlab.data.datamodule import DataModule
from cnnlab.reports.pages import html_page, html_section, html_tiles
from cnnlab.system.files import write_json, write_text
from cnnlab.training.module import TaskModule


def scoring_batches(module: TaskModule, data: DataModule, part: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Move `module` to the GPU, if there is one, in eval mode, and yield the inputs and targets of `part` there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode(False):  # or its parameters could not be differentiated afterwards
        module.to(device).eval()
        module.network.to(memory_format=torch.channels_last)
    for inputs, targets in tqdm(data.eval_dataloader(part), "Scoring", unit="batch", disable=None):
        yield inputs.to(device), targets.to(device)


@dataclass(frozen=True)
class MetricScores:
    """The metrics of a module on one part of the data, and `n`, the number of examples."""

    metrics: dict[str, Any]

    def summary(self) -> str:
        scores = [f"{name} {value:.4f}" for name, value in self.metrics.items() if name != "n"]
        return "   ".join([*scores, f"n {self.metrics['n']}"])

    def write(self, folder: Path, title: str) -> None:
        """Write metrics.json and report.html."""
        write_json(folder / "metrics.json", self.metrics)
        tiles = html_tiles([(name, value, "") for name, value in self.metrics.items()])
        write_text(folder / "report.html", html_page(title, html_section("", tiles)))


@torch.inference_mode()
def score_metrics(module: TaskModule, data: DataModule, part: Any) -> MetricScores:
    """Compute the module's validation metrics on `part`."""
    metrics: dict[str, Any] = {}
    for inputs, targets in scoring_batches(module, data, part):
        metrics = metrics or {name: metric.to(inputs.device) for name, metric in module.build_metrics().items()}
        outputs = module(inputs)
        for metric in metrics.values():
            metric.update(outputs, targets)
    return MetricScores({name: float(metric.compute()) for name, metric in metrics.items()} | {"n": len(part)})
