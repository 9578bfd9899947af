"""The base class of every task's LightningModule: preprocessing, network, and the training they have in common."""

import dataclasses
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchvision.transforms import v2

from cnnlab.errors import InputError
from cnnlab.models.cutting import Cut
from cnnlab.models.engines import Engine
from cnnlab.models.heads import split_outputs
from cnnlab.models.preprocessing import Normalize
from cnnlab.seeds import derive, derived_rng, seed_generators
from cnnlab.system.faults import translate_error
from cnnlab.training.lightning_compat import logs_this_step
from cnnlab.training.optimizers import parameter_groups
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers import acting
from cnnlab.training.resumed_schedule import Schedule, resumed_scheduler


def tensors_of(metric: Metric) -> list[Tensor]:
    """Return the states of a metric that are tensors, not lists of them."""
    return [state for state in metric.metric_state.values() if isinstance(state, Tensor)]


class FeatureBatch(NamedTuple):
    """A batch of features: the outputs of the frozen stages for its images."""

    features: Tensor
    """Outputs of the module's `cut` for the images, N x ..."""
    targets: Tensor
    draws: Tensor
    """View (-1: as in evaluation) and index of each image, int64 N x 2."""


class TaskModule(L.LightningModule, ABC):
    """Preprocessing and network, trained by `recipe`; without a recipe the module only predicts.

    A batch is (inputs, targets): inputs are uint8 or float in [0, 1], N x C x H x W. A subclass defines its metrics and
    how outputs become predictions; it may override `outputs_of` and `loss_of` for batches of another shape.

    classes: names of the outputs, in order; empty if outputs are not classes. hyperparameters: plain values (dict,
    list, str, numbers, None) stored in the checkpoint, enough to rebuild preprocessing and network.
    """

    def __init__(
        self,
        preprocessing: nn.Module,
        network: nn.Module,
        classes: Sequence[str],
        hyperparameters: dict[str, Any],
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(hyperparameters, logger=False)
        self.preprocessing = preprocessing
        self.network = network
        self.classes = list(classes)
        self.recipe: Any = recipe
        """The Recipe of the training; None in a module that only predicts."""
        self.cut: Cut | None = None
        self.engine: Engine | None = None
        """Computes the network's outputs in eval mode, where no gradients are needed; None: torch does."""
        self.schedule: Schedule | None = None
        """The steps of the learning rate schedule; None if it follows a metric."""
        self._checkpoint: dict[str, Any] | None = None
        self.auxiliary: list[tuple[float, Tensor]] = []
        """Weight of the loss and outputs of each auxiliary head in the last forward pass; only in training."""
        self.step_ended = 0.0
        """Time (time.perf_counter) at which the callbacks of the last training batch had finished."""
        self.step_values: dict[str, Tensor] = {}
        """Loss, metrics and penalties of the last training step."""
        self.train_metrics: Any = nn.ModuleDict(dict(self.build_train_metrics()))
        self.train_loss_epoch = MeanMetric()
        self.val_metrics, self.test_metrics = (self._metrics_of(part) for part in ("val", "test"))
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        if recipe:
            self.loss = recipe.loss()
            self.train_loss = recipe.train_loss()
            self.penalties = acting(recipe.regularizers.values(), "loss")
            self.batch_hooks = acting(recipe.regularizers.values(), "on_batch")
            self.step_hooks = acting(recipe.regularizers.values(), "after_step")

    # --- What a task defines ---

    @abstractmethod
    def build_metrics(self) -> Mapping[str, Metric]:
        """Return name -> metric of validation and test, updated with outputs and targets; the loss is always logged."""

    def build_train_metrics(self) -> Mapping[str, Metric]:
        """Return name -> metric of a whole training epoch, logged as train/<name>_epoch."""
        return {}

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return name -> value for one training batch, logged as train/<name>."""
        return {}

    @abstractmethod
    def predict(self, inputs: Tensor) -> Tensor:
        """Return the predictions for inputs, N x ..., such as probabilities or values."""

    def check_outputs(self, outputs: Any, targets: Tensor) -> None:
        """Raise InputError if the network's outputs do not fit the task's loss and metrics."""
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"{type(self.network).__name__} returns a {type(outputs).__name__}, not a tensor. Use a network, or "
                "arguments of it (model.network.*), that return only what the task's loss takes."
            )

    # --- From inputs to outputs ---

    @property
    def channels_last(self) -> bool:
        """Whether the network's memory format is channels last, as it is without a recipe."""
        return self.recipe is None or self.recipe.channels_last

    def forward(self, inputs: Tensor) -> Tensor:
        """Map uint8 or float-in-[0, 1] inputs N x C x H x W to the network's outputs, float32."""
        compute = self.network if self.engine is None or self.training else self.engine
        outputs, self.auxiliary = split_outputs(compute(self.preprocessed(inputs)))
        return outputs.float()

    def features(self, inputs: Tensor) -> Tensor:
        """Map uint8 or float-in-[0, 1] inputs N x C x H x W to the outputs of the frozen stages below the cut."""
        assert self.cut is not None
        return self.cut.prefix(self.preprocessed(inputs))

    def from_features(self, features: Tensor) -> Tensor:
        """Map the outputs of `features` to the network's outputs, float32."""
        assert self.cut is not None
        if features.ndim == 4 and self.channels_last:
            features = features.to(memory_format=torch.channels_last)
        return self.cut.tail(features).float()

    def to_float(self, inputs: Tensor) -> Tensor:
        """Return inputs as floats in [0, 1], in the memory format of `in_format`."""
        inputs = self.in_format(inputs)
        return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs

    def in_format(self, inputs: Tensor) -> Tensor:
        """Return inputs in the recipe's memory format; channels last without a recipe."""
        return inputs.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def preprocessed(self, inputs: Tensor) -> Tensor:
        """Map uint8 or float-in-[0, 1] inputs N x C x H x W to the network's input."""
        if inputs.dtype == torch.uint8 and isinstance(self.preprocessing, Normalize):
            return self.preprocessing.from_uint8(self.in_format(inputs))
        return self.preprocessing(self.to_float(inputs))

    def augment(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented batch, floats in [0, 1], and its targets (N, or N x classes if mixed)."""
        steps = self.recipe.batch_transforms
        return v2.Compose(steps)(self.to_float(inputs), targets) if steps else (self.to_float(inputs), targets)

    def outputs_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return outputs and targets of a training batch, after the augmentation and regularization of its step."""
        if isinstance(batch, FeatureBatch):
            return self.from_features(batch.features), batch.targets
        inputs, targets = batch
        if self.recipe.batch_transforms or self.batch_hooks:
            inputs, targets = self.augment(inputs, targets)
        for each in self.batch_hooks:
            inputs, targets = each.on_batch(self, inputs, targets)
        return self(inputs), targets

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss of a batch, without penalties and auxiliary losses."""
        return self.train_loss(outputs, targets)

    def auxiliary_loss(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the weighted sum of the losses of the auxiliary heads in the last forward pass, None without any."""
        auxiliary, self.auxiliary = self.auxiliary, []  # each step's graph is let go with it
        terms = [weight * self.loss_of(each.float().view_as(outputs), targets) for weight, each in auxiliary]
        return torch.stack(terms).sum() if terms else None

    def check_step(self, batch: Any) -> None:
        """Try the forward pass, loss and metrics of a training step; the module is left unchanged.

        Raises InputError with the reason if the network or the loss does not accept the batch.
        """
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        modes = {module: module.training for module in self.network.modules()}
        self.network.train()
        try:
            with derived_rng("check_step"), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                self.try_step(batch)
        except Exception as error:
            if translate_error(error):  # an error of our own, or of the machine
                raise
            shape = " x ".join(map(str, batch[0].shape[1:]))
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(
                f"{type(self.network).__name__} with {type(self.train_loss).__name__} cannot be trained on inputs of "
                f"{shape}: {reason.rstrip('.')}. Check model.*, data.* and loss."
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, buffer in self.network.named_buffers():
                buffer.copy_(buffers[name])

    def try_step(self, batch: Any) -> None:
        """Run forward pass, loss and metrics of a training step on a batch; raise whatever they raise."""
        inputs, targets = batch
        self.check_outputs(split_outputs(self.network(self.preprocessed(inputs)))[0], targets)
        outputs, targets = self.outputs_of(batch)
        with warnings.catch_warnings():
            # A regression loss broadcasts targets of another shape, and only warns.
            warnings.filterwarnings("error", "Using a target size", UserWarning)
            self.loss_of(outputs, targets)
            self.auxiliary_loss(outputs, targets)
        for metric in self.build_metrics().values():
            metric(outputs, batch[1])

    # --- Lightning's hooks ---

    def setup(self, stage: str) -> None:
        """Convert the network's memory format before DDP wraps it and records its strides."""
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.schedule:
            checkpoint["schedule"] = dataclasses.asdict(self.schedule)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint of a resumed run for `configure_optimizers`; Lightning restores optimizers after that."""
        if self.trainer.state.fn == "fit":
            self._checkpoint = checkpoint

    def on_fit_start(self) -> None:
        """Keep sums and class weights in float32, also if Lightning has converted the module (precision bf16-true).

        In bfloat16, 256 + 1 is 256; and the loss is computed of outputs in float32.
        """
        if self.recipe.class_weights:
            self.train_loss = self.recipe.train_loss().to(self.device)
        for metric in self.modules():
            if isinstance(metric, Metric) and any(map(torch.is_floating_point, tensors_of(metric))):
                metric.set_dtype(torch.float32)

    def on_train_start(self) -> None:
        self.recipe.plan.apply(self.network, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        self.recipe.plan.apply(self.network, self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_generators(self.step_seed(), self.device)

    def step_seed(self) -> int:
        """Return the seed of all randomness in the current training step."""
        return derive(self.recipe.seed, "step", self.global_step, self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        own_targets = batch[1]
        outputs, targets = self.outputs_of(batch)
        loss = self.loss_of(outputs, targets)
        finite = loss.detach().isfinite()  # a skipped step (divergence=skip) does not count
        seen = apply_to_collection(outputs, Tensor, Tensor.detach)
        for metric in self.train_metrics.values():
            metric.update(seen, own_targets)
        self.train_loss_epoch.update(loss.detach().where(finite, 0), finite * len(own_targets))
        values = {"train/loss": loss.detach()}
        values |= {f"train/{name}": value for name, value in self.step_metrics(seen, own_targets).items()}
        if (term := self.auxiliary_loss(outputs, targets)) is not None:
            values["train/auxiliary_loss"] = term.detach()
            loss = loss + term
        for penalty in self.penalties:
            if (term := penalty.loss(self.network)) is not None:
                values[f"train/{penalty.name}"] = term.detach()
                loss = loss + term
        self.step_values = values
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch; Lightning itself would log them only after writing the epoch's checkpoint."""
        means = {}
        for name, metric in self.epoch_sums().items():
            means[f"train/{name}_epoch"] = metric.compute()
            metric.reset()
        self.log_dict(means | self.step_values, logger=False)
        for logger in self.loggers:
            logger.log_metrics(
                {name: value.item() for name, value in means.items()} | {"epoch": self.current_epoch},
                step=self.global_step - 1,
            )

    def epoch_sums(self) -> dict[str, Metric]:
        """Return the metrics that add up over a training epoch, by name."""
        return {"loss": self.train_loss_epoch, **dict(self.train_metrics.items())}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # log_dict is slow compared with a small network's step; only every `log_every_n_steps`-th call has an effect.
        if logs_this_step(self.trainer):
            self.log_dict(self.step_values, on_step=True, on_epoch=False)
        self.step_ended = time.perf_counter()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.from_features(batch.features) if isinstance(batch, FeatureBatch) else self(batch[0])
        self.score("val", outputs, batch[1])
        self._log_scores("val", batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.score("test", self(batch[0]), batch[1])
        self._log_scores("test", batch_idx)

    def score(self, part: str, outputs: Tensor, targets: Tensor) -> None:
        """Update the metrics of a part, "val" or "test"."""
        metrics: MetricCollection = getattr(self, f"{part}_metrics")
        loss: MeanMetric = getattr(self, f"{part}_loss")
        metrics.update(outputs, targets)
        loss.update(self.loss(outputs, targets), len(targets))

    def _log_scores(self, part: str, batch_idx: int) -> None:
        """Log the metric objects, not their values, so that they weight by example and gather over ranks exactly.

        Lightning computes them at the end of the epoch, so the first batch suffices; logging is slow.
        """
        if batch_idx == 0:
            self.log(f"{part}/loss", getattr(self, f"{part}_loss"), on_step=False, on_epoch=True)
            self.log_dict(getattr(self, f"{part}_metrics"), on_step=False, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.recipe is None:
            raise RuntimeError("This module has no recipe to train by.")
        recipe: Recipe = self.recipe
        lr = recipe.lr * recipe.scale_lr(self.trainer.world_size)
        groups = parameter_groups(self.network, recipe.plan, lr, recipe.weight_decay)
        optimizer = recipe.optimizer(groups, lr=lr)
        if self.step_hooks:
            optimizer.register_step_post_hook(self._after_step)
        if recipe.waits_for_plateaus:
            plateau = recipe.scheduler(optimizer, mode=recipe.mode)
            every = self.trainer.check_val_every_n_epoch or 1
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": recipe.monitor, "frequency": every},
            }
        self.trainer.fit_loop.setup_data()  # else the number of batches is unknown in a run without max_epochs
        planned = Schedule(
            total_steps=int(self.trainer.estimated_stepping_batches),
            steps_per_epoch=math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches),
        )
        if self._checkpoint is None:
            self.schedule, scheduler = planned, planned.build(recipe.scheduler, optimizer)
        else:
            self.schedule, scheduler = resumed_scheduler(
                self._checkpoint, planned, recipe.resume_schedule, recipe.scheduler, optimizer
            )
            self._checkpoint = None
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates: dict[int, float] = {}

        def lr_of(weight: nn.Parameter) -> float:
            if not rates:  # filled on demand: most regularizers do not ask in most steps
                rates.update({id(each): float(g["lr"]) for g in optimizer.param_groups for each in g["params"]})
            return rates[id(weight)]

        for each in self.step_hooks:
            each.after_step(self.network, lr_of)

    def _metrics_of(self, part: str) -> MetricCollection:
        return MetricCollection(dict(self.build_metrics()), prefix=f"{part}/", compute_groups=False)
