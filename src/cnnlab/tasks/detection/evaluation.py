"""Score a detector on a part of its data."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cnnlab.errors import InputError
from cnnlab.seeds import derive
from cnnlab.tasks.detection.annotated import AnnotatedImages
from cnnlab.tasks.detection.data import DetectionDataModule
from cnnlab.tasks.detection.matching import ErrorKind, Matched, error_kinds, match
from cnnlab.tasks.detection.module import DetectionModule, scored_images, sizes_of
from cnnlab.tasks.detection.scores import Evaluation, Scored, evaluate


@dataclass
class EvaluateOptions:
    """Keys of `cnnlab evaluate` for detection.

    min_score: lowest score of the detections in the confusion matrix and in the pictures; average precision counts all.
    bootstrap: number of resamples of the images for the 95 % intervals.
    """

    min_score: float = 0.5
    bootstrap: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score={self.min_score}: use a number from 0 to 1.")
        if self.bootstrap < 20:
            raise InputError(f"bootstrap={self.bootstrap}: at least 20 resamples are needed.")


@dataclass(frozen=True)
class DetectionScores:
    """The detections of a network in `images`, with the truth."""

    images: AnnotatedImages
    scored: list[Scored]
    classes: list[str]
    with_masks: bool
    channels: int
    options: EvaluateOptions

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """COCO's evaluation of boxes, "", and of masks, "mask_"."""
        return evaluate(self.scored, len(self.classes), self.with_masks)

    @cached_property
    def matched(self) -> list[Matched]:
        """The images with their detections matched at an IoU of 0.5."""
        return [match(each) for each in self.scored]

    @cached_property
    def error_kinds(self) -> list[ErrorKind]:
        return error_kinds(self.matched, len(self.classes))

    @cached_property
    def objects(self) -> np.ndarray:
        """Number of objects of each class, without crowds."""
        labels = [each.truth.labels[~each.truth.crowd] for each in self.scored]
        return np.bincount(np.concatenate(labels), minlength=len(self.classes))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        values: dict[str, Any] = {"n": len(self.scored), "objects": int(self.objects.sum())}
        for prefix, evaluation in self.evaluations.items():
            intervals = evaluation.intervals(self.options.bootstrap, derive("bootstrap") % 2**32)
            for name, value in evaluation.summary.items():
                values[name] = value if value == value else None
                if name in intervals:
                    values[f"{name}_interval_95"] = list(intervals[name])
            per_class = values.setdefault("per_class", {name: {} for name in self.classes})
            for name, numbers in zip(self.classes, evaluation.per_class(), strict=True):
                per_class[name] |= {
                    f"{prefix}{key}": number if number == number else None for key, number in numbers.items()
                }
        for name, count in zip(self.classes, self.objects.tolist(), strict=True):
            values["per_class"][name]["n"] = count
        values["errors"] = {each.name: {"count": each.count, "cost_map_50": each.cost} for each in self.error_kinds}
        return values

    def summary(self) -> str:
        parts = []
        for prefix in self.evaluations:
            for name in ("map", "map_50"):
                low, high = self.metrics[f"{prefix}{name}_interval_95"]
                parts.append(
                    f"{prefix}{name} {self.metrics[prefix + name]:.4f} (95 % interval {low:.4f} to {high:.4f})"
                )
        return "   ".join([*parts, f"n {self.metrics['n']}"])

    def write(self, folder: Path, title: str) -> None:
        from cnnlab.tasks.detection.report import write_report

        write_report(folder, title, self)


@torch.inference_mode()
def score(
    module: DetectionModule, data: DetectionDataModule, images: AnnotatedImages, options: EvaluateOptions
) -> DetectionScores:
    """Return the detections in `images` in one pass, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).eval()
    module.network.to(memory_format=torch.channels_last)
    scored: list[Scored] = []
    for inputs, targets in tqdm(data.eval_dataloader(images), "Scoring", unit="batch", disable=None):
        scored += scored_images(module(inputs.to(device), sizes_of(targets)), targets)
    with_masks = module.network.has_masks and images.has_masks
    return DetectionScores(images, scored, module.classes, with_masks, data.channels, options)
