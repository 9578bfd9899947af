"""Log a table of all stages whenever other stages begin to train: what trains, and how."""

import logging

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnlab.models.stages import stage_of_parameter, stages
from cnnlab.training.module import TaskModule

log = logging.getLogger(__name__)


class StageTable(L.Callback):
    """A callback that logs parameters, frozen or not, batch-norm mode, learning rate and weight decay per stage."""

    def __init__(self) -> None:
        self._shown: list[str] | None = None

    @rank_zero_only
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        trainable = pl_module.recipe.plan.trainable(trainer.current_epoch)
        if trainable != self._shown:
            self._shown = trainable
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            table = stage_table(pl_module.network, groups)
            log.info("Stages in epoch %d:\n%s", trainer.current_epoch, table)


def stage_table(network: nn.Module, param_groups: list[dict]) -> str:
    """Return a table with one line for each stage that has parameters, and the total below it."""
    group_of = {id(p): group for group in param_groups for p in group["params"]}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in stages(network)}
    for name, stage in stage_of_parameter(network).items():
        members[stage].append(network.get_parameter(name))
    rows = [("stage", "parameters", "trains", "batch norm", "lr", "weight decay")]
    for name, module in stages(network).items():
        parameters = members[name]
        if not parameters:
            continue
        trains = any(p.requires_grad for p in parameters)
        modes = {("train" if layer.training else "eval") for layer in module.modules() if isinstance(layer, _BatchNorm)}
        groups = [group_of[id(p)] for p in parameters]
        rows.append(
            (
                name,
                f"{sum(p.numel() for p in parameters):,}",
                "yes" if trains else "frozen",
                "/".join(sorted(modes)) or "-",
                f"{max(group['lr'] for group in groups):.3g}" if trains else "-",
                f"{max(group['weight_decay'] for group in groups):.3g}" if trains else "-",
            )
        )
    total = sum(p.numel() for p in network.parameters())
    training = sum(p.numel() for p in network.parameters() if p.requires_grad)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i == 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), f"{training:,} of {total:,} parameters train"])
