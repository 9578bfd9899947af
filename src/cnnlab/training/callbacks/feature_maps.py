"""Log feature maps of fixed validation images to TensorBoard, where the step slider shows them change."""

import lightning as L
import torch
from torch import Tensor

from cnnlab.data.datamodule import DataModule
from cnnlab.drawing.maps import describe_maps, layer_title, maps_sheet
from cnnlab.models.feature_maps import feature_maps, layers_with_maps, resolve_layers
from cnnlab.models.modes import evaluating
from cnnlab.models.receptive_fields import receptive_fields
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import TaskModule

WIDTH = 320
"""Width of the grid of channels, in pixels."""


class FeatureMaps(L.Callback):
    """A callback that logs `features/<layer>/<image>`, every channel of a layer in one grid.

    It logs before training and after epochs, the latter without layers that have been frozen so far.

    layers: names or globs of layers, or "auto" (the first, the middle and the last stage with maps).
    images: number of validation images, the first ones. every_n_epochs: after which epochs (see Pace).
    """

    def __init__(self, layers: list[str], images: int = 2, every_n_epochs: int | None = None) -> None:
        self.layers = layers
        self.images = images
        self.pace = Pace(every_n_epochs)
        self._fixed: Tensor | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if trainer.global_step == 0:  # not a resumed run
            self._log(trainer, pl_module, changing_only=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if self.pace.due(trainer, trainer.current_epoch + 1):
            with self.pace.timed():
                self._log(trainer, pl_module, changing_only=True)

    @torch.no_grad()
    def _log(self, trainer: L.Trainer, module: TaskModule, changing_only: bool) -> None:
        writer = tensorboard_writer(trainer)
        images = self._fixed_images(trainer)
        if writer is None or images is None:
            return
        plan, network = module.recipe.plan, module.network
        fields = receptive_fields(network)
        with evaluating(module):
            inputs = module.preprocessed(images.to(module.device))
            if "auto" in self.layers and not layers_with_maps(network, inputs[:1]):
                return
            layers = resolve_layers(network, self.layers, inputs)
            if changing_only:
                epoch = trainer.current_epoch
                layers = {name: each for name, each in layers.items() if not plan.is_constant(network, name, epoch)}
            found = feature_maps(network, inputs, layers) if layers else {}
        for layer, maps_NCHW in found.items():
            for number, maps_CHW in enumerate(maps_NCHW):
                title = layer_title(f"step {trainer.global_step}", layer, layers[layer])
                sheet = maps_sheet(title, maps_CHW, describe_maps(maps_CHW, fields.get(layer)), width=WIDTH)
                add_picture(writer, f"features/{layer}/{number}", sheet, trainer.global_step)

    def _fixed_images(self, trainer: L.Trainer) -> Tensor | None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        part = data.parts.val
        if self._fixed is None and part is not None:
            count = min(self.images, len(part))
            dataset = data.eval_dataset(part)
            self._fixed = data.collate([dataset[(0, index)] for index in range(count)])[0]
        return self._fixed
