"""Find a trainer's TensorBoard writer and add pictures to it, for callbacks that draw."""

import io

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """Return the writer of the trainer's TensorBoard logger.

    Returns None without such a logger, on ranks other than zero, and during the sanity check.
    """
    if not trainer.is_global_zero or trainer.sanity_checking:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def add_picture(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """Add a picture as `SummaryWriter.add_image` does, but with zlib's fastest compression: training waits for it."""
    buffer = io.BytesIO()
    picture = picture.convert("RGB")
    picture.save(buffer, "PNG", compress_level=1)
    image = Summary.Image(
        height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
    assert writer.file_writer is not None
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
