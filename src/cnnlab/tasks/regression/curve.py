"""Log the polynomial fitted to data=four_points as a curve to TensorBoard."""

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure

from cnnlab.drawing.sheets import figure_image
from cnnlab.tasks.regression.four_points import four_points, parabola
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import TaskModule


class Curve(L.Callback):
    """A callback that logs `curve`: the network's value at every grey level, its training points, the true parabola."""

    def __init__(self, every_n_epochs: int = 50) -> None:
        self.every_n_epochs = every_n_epochs

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is None or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        grey = np.arange(256)
        pixels = torch.tensor(grey, dtype=torch.float32, device=pl_module.device).view(-1, 1, 1, 1) / 255
        values = pl_module.predict(pixels).cpu().numpy()
        add_picture(writer, "curve", figure_image(_figure(grey, values)), trainer.global_step)


def _figure(grey: np.ndarray, values: np.ndarray) -> Figure:
    points = four_points().train
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(grey, parabola(grey), color="grey", linestyle=":", label="true parabola")
    axes.plot(grey, values, label="w0 + w1 x + ... + w4 x^4")
    axes.plot([np.asarray(points.load(i, 1)).item() for i in range(4)], points.labels, "o", label="training points")
    axes.set(xlabel="grey level", ylabel="value", ylim=(-4, 12))
    axes.legend()
    return figure
