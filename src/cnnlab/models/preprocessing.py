"""Preprocessing as a layer in front of the network: fitted on the training images, kept in the checkpoint."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cnnlab.errors import DataError, InputError

NAMES = ("none", "weights", "zero_mean", "standardize")


class Normalize(nn.Module):
    """(x - mean) / std for each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Float N x C x H x W in [0, 1] -> the same shape and dtype."""
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def fit(
    name: str,
    images_NCHW: Tensor | Iterable[Tensor],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """The preprocessing layer `name`, fitted on images in [0, 1], given at once or in batches.

    none: x. weights: (x - mean) / std with the given statistics of the pretrained weights.
    zero_mean: x - mean of each channel. standardize: (x - mean) / std of each channel (biased).
    Statistics are accumulated in float64. Raises InputError for an unknown name, DataError for no image.
    """
    if name not in NAMES:
        raise InputError(f"preprocessing.name={name}: use one of {', '.join(NAMES)}.")
    if name == "none":
        return nn.Identity()
    if name == "weights":
        if mean is None or std is None:
            raise InputError(
                "preprocessing=weights needs pretrained weights with a mean and std; use preprocessing=standardize."
            )
        return Normalize(mean, std)
    channel_mean, channel_std = channel_statistics([images_NCHW] if isinstance(images_NCHW, Tensor) else images_NCHW)
    if name == "zero_mean":
        return Normalize(channel_mean.tolist(), [1.0] * len(channel_mean))
    return Normalize(channel_mean.tolist(), channel_std.clamp_min(1e-6).tolist())


def from_state(state: Mapping[str, Tensor]) -> nn.Module:
    """The layer whose buffers a checkpoint's state_dict holds as `preprocessing.*`."""
    if "preprocessing.mean" not in state:
        return nn.Identity()
    return Normalize(state["preprocessing.mean"].flatten().tolist(), state["preprocessing.std"].flatten().tolist())


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased standard deviation of each channel, float64, by Chan's parallel update (Chan et al. 1979)."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double().transpose(0, 1).flatten(1)
        added = values.shape[1]
        batch_mean = values.mean(1)
        delta = batch_mean - mean
        squares = (
            squares
            + (values - batch_mean[:, None]).square().sum(1)
            + delta.square() * (count * added / (count + added))
        )
        mean = mean + delta * (added / (count + added))
        count += added
    if not count:
        raise DataError("There is no image to fit the preprocessing on.")
    return mean, (squares / count).sqrt()
