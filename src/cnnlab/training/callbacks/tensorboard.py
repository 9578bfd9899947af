"""The TensorBoard writer of a trainer, for callbacks that draw pictures."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """None where no TensorBoard logger is configured, or this is not rank zero."""
    if not trainer.is_global_zero or trainer.sanity_checking:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
