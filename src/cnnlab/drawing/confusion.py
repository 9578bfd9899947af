"""Draw a confusion matrix."""

import numpy as np
from matplotlib.figure import Figure

MOST_CLASSES = 60
"""Largest number of classes for which reports draw the matrix; its CSV is always written."""


def confusion_figure(counts: np.ndarray, classes: list[str]) -> Figure:
    """Draw a confusion matrix: true classes as rows, predictions as columns, coloured by the share of the row.

    counts: int K x K; written into the cells for up to 25 classes.
    """
    size = min(24.0, 3.0 + 0.45 * len(classes))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 25:
        for row, column in np.ndindex(*counts.shape):
            dark = shares[row, column] > 0.5
            axes.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
    figure.colorbar(picture, shrink=0.7, label="share of the true class")
    return figure
