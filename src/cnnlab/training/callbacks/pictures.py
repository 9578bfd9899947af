"""The TensorBoard writer of a trainer, and pictures in it, for callbacks that draw."""

import io

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """None where no TensorBoard logger is configured, or this is not rank zero."""
    if not trainer.is_global_zero or trainer.sanity_checking:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def add_picture(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """As `SummaryWriter.add_image`, with zlib's fastest compression: the training waits for it in every epoch."""
    buffer = io.BytesIO()
    picture = picture.convert("RGB")
    picture.save(buffer, "PNG", compress_level=1)
    image = Summary.Image(
        height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
    assert writer.file_writer is not None
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
