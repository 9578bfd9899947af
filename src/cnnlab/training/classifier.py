"""The LightningModule: any network with its preprocessing, trained and scored as a classifier."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score
from torchvision.transforms import v2

from cnnlab.models.cutting import Cut
from cnnlab.models.preprocessing import Normalize
from cnnlab.models.weighted import weights_of
from cnnlab.seeds import derive, seed_generators
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.optimizers import parameter_groups
from cnnlab.training.regularization import AdversarialTraining, AfterStep, LabelSmoothing, Penalty, WeightDecay


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the config groups optimizer, scheduler, loss, freeze and regularization as objects."""

    optimizer: Callable[..., torch.optim.Optimizer]
    scheduler: Callable[..., Any]
    loss: Callable[..., nn.Module]
    plan: FreezePlan
    lr: float
    scale_lr: Callable[[int], float]
    """Number of processes -> factor of the learning rate."""
    seed: int
    weight_decay: WeightDecay = field(default_factory=lambda: WeightDecay(0.0))
    penalties: Sequence[Penalty] = ()
    after_step: Sequence[AfterStep] = ()
    label_smoothing: LabelSmoothing = field(default_factory=lambda: LabelSmoothing(0.0))
    adversary: AdversarialTraining | None = None
    batch_transforms: Sequence[nn.Module] = ()
    channels_last: bool = True


class FeatureBatch(NamedTuple):
    """Images whose frozen part is done already."""

    features: Tensor
    """What the classifier's `cut` gave for the images, N x ..."""
    labels: Tensor
    draws: Tensor
    """int64 N x 2: the view (-1: as in evaluation) and the index of each image."""


class Classifier(L.LightningModule):
    """Preprocessing and network; `recipe` is None where it only predicts.

    hyperparameters: plain values (dict, list, str, numbers, None) kept in the checkpoint, enough to rebuild both.
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
        self._recipe = recipe
        self.cut: Cut | None = None
        self.step_ended = 0.0
        """When the callbacks of the last training batch were done, on time.perf_counter's clock."""
        self.step_values: dict[str, Tensor] = {}
        """The metrics of the last training step."""
        count = len(classes)
        self.train_accuracy = MulticlassAccuracy(count, average="micro", validate_args=False)
        self.train_loss_epoch = MeanMetric()
        self.val_scores, self.test_scores = _scores(count, "val/"), _scores(count, "test/")
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.confusion = MulticlassConfusionMatrix(count, validate_args=False)
        if recipe:
            self.loss = recipe.loss()
            epsilon = recipe.label_smoothing.epsilon
            self.train_loss = recipe.loss(label_smoothing=epsilon) if epsilon else recipe.loss()

    @property
    def recipe(self) -> Recipe:
        """Raises RuntimeError if the network was loaded to predict only."""
        if self._recipe is None:
            raise RuntimeError("This classifier has no recipe to train by.")
        return self._recipe

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float-in-[0, 1] images N x C x H x W -> float32 logits N x classes."""
        return self.network(self.preprocessed(images)).float()

    def features(self, images: Tensor) -> Tensor:
        """uint8 or float-in-[0, 1] images N x C x H x W -> what the frozen stages below the cut make of them."""
        assert self.cut is not None
        return self.cut.prefix(self.preprocessed(images))

    def from_features(self, features: Tensor) -> Tensor:
        """`features` of images -> float32 logits N x classes."""
        assert self.cut is not None
        if features.ndim == 4 and self.recipe.channels_last:
            features = features.to(memory_format=torch.channels_last)
        return self.cut.tail(features).float()

    def to_float(self, images: Tensor) -> Tensor:
        """Images in [0, 1], `in_format`."""
        images = self.in_format(images)
        return images.float().div_(255) if images.dtype == torch.uint8 else images

    def in_format(self, images: Tensor) -> Tensor:
        """Images in the memory format that convolutions are fastest in."""
        channels_last = self._recipe is None or self._recipe.channels_last
        return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def preprocessed(self, images: Tensor) -> Tensor:
        """uint8 or float-in-[0, 1] images N x C x H x W -> what the network takes."""
        if images.dtype == torch.uint8 and isinstance(self.preprocessing, Normalize):
            return self.preprocessing.from_uint8(self.in_format(images))
        return self.preprocessing(self.to_float(images))

    def setup(self, stage: str) -> None:
        """Before DDP wraps the network and takes note of its strides."""
        if self.recipe.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        self.recipe.plan.apply(self.network, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        self.recipe.plan.apply(self.network, self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_generators(self.step_seed(), self.device)

    def step_seed(self) -> int:
        """What all randomness of the current training step is derived from."""
        return derive(self.recipe.seed, "step", self.global_step, self.global_rank)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The float batch in [0, 1] and its targets (N, or N x classes if images are mixed) that a step trains on."""
        steps = self.recipe.batch_transforms
        return v2.Compose(steps)(self.to_float(images), labels) if steps else (self.to_float(images), labels)

    def outputs_of(self, batch: tuple[Tensor, Tensor] | FeatureBatch) -> tuple[Tensor, Tensor]:
        """Logits and targets of a training batch, with the augmentation and the attack of its step."""
        if isinstance(batch, FeatureBatch):
            return self.from_features(batch.features), batch.labels
        images, targets = batch
        if self.recipe.batch_transforms or self.recipe.adversary:
            images, targets = self.augment(images, targets)
        if self.recipe.adversary:
            images = self.recipe.adversary.attacked(self, images, targets)
        return self(images), targets

    def training_step(self, batch: tuple[Tensor, Tensor] | FeatureBatch, batch_idx: int) -> Tensor:
        labels = batch[1]
        logits, targets = self.outputs_of(batch)
        loss = self.train_loss(logits, targets)
        predicted = logits.detach().argmax(1)
        finite = loss.detach().isfinite()  # a step that is skipped (divergence=skip) does not count
        self.train_accuracy.update(predicted, labels)
        self.train_loss_epoch.update(loss.detach().where(finite, 0), finite * len(labels))
        values = {"train/loss": loss.detach(), "train/acc": (predicted == labels).float().mean()}
        for penalty in self.recipe.penalties:
            term = penalty.loss(self.network)
            values[f"train/{penalty.name}"] = term.detach()
            loss = loss + term
        self.step_values = values
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch; Lightning itself would do so only after the epoch's checkpoint is written."""
        metrics = {"train/loss_epoch": self.train_loss_epoch, "train/acc_epoch": self.train_accuracy}
        means = {name: metric.compute() for name, metric in metrics.items()}
        for metric in metrics.values():
            metric.reset()
        self.log_dict(means | self.step_values, logger=False)
        for logger in self.loggers:
            logger.log_metrics(
                {name: value.item() for name, value in means.items()} | {"epoch": self.current_epoch},
                step=self.global_step - 1,
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning's log takes as long as the forward pass of a small network, and keeps one of `log_every_n_steps`.
        if self.trainer._logger_connector.should_update_logs:
            self.log_dict(self.step_values, on_step=True, on_epoch=False)
        self.step_ended = time.perf_counter()

    def validation_step(self, batch: tuple[Tensor, Tensor] | FeatureBatch, batch_idx: int) -> None:
        logits = self.from_features(batch.features) if isinstance(batch, FeatureBatch) else self(batch[0])
        self._score("val", logits, batch[1], self.val_scores, self.val_loss)
        self.confusion.update(logits, batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score("test", self(batch[0]), batch[1], self.test_scores, self.test_loss)

    def _score(self, part: str, logits: Tensor, labels: Tensor, scores: MetricCollection, loss: MeanMetric) -> None:
        """Metric objects are logged, not their values: they weight by image and gather over ranks exactly."""
        scores.update(logits, labels)
        loss.update(self.loss(logits, labels), len(labels))
        self.log(f"{part}/loss", loss, on_step=False, on_epoch=True)
        self.log_dict(scores, on_step=False, on_epoch=True)

    def on_validation_epoch_start(self) -> None:
        self.confusion.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        lr = recipe.lr * recipe.scale_lr(self.trainer.world_size)
        groups = parameter_groups(self.network, recipe.plan, lr, recipe.weight_decay.weight_decay)
        optimizer = recipe.optimizer(groups, lr=lr)
        if recipe.after_step:
            optimizer.register_step_post_hook(self._after_step)
        if getattr(recipe.scheduler, "func", recipe.scheduler) is ReduceLROnPlateau:
            plateau = recipe.scheduler(optimizer, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/acc"}}
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        scheduler = recipe.scheduler(optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Proximal steps and norm limits, on the weights that the step has moved."""
        rates = {id(weight): float(group["lr"]) for group in optimizer.param_groups for weight in group["params"]}
        for entry in self.recipe.after_step:
            for weight in weights_of(self.network, entry.modules).values():
                if weight.grad is not None:
                    entry.after_step_(weight, rates[id(weight)])


def _scores(count: int, prefix: str) -> MetricCollection:
    """Without validation of their arguments, which waits for the device in every step."""
    return MetricCollection(
        {
            "acc": MulticlassAccuracy(count, average="micro", validate_args=False),
            "acc_top5": MulticlassAccuracy(count, top_k=min(5, count), average="micro", validate_args=False),
            "f1": MulticlassF1Score(count, average="macro", validate_args=False),
        },
        prefix=prefix,
        compute_groups=False,
    )
