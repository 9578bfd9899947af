"""RoIAlign on a feature pyramid (He et al. 2017), fast on a CPU too."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4
"""A box of this side is pooled from the map at a stride of 2 ** 4 pixels, one of half the side from that below."""
SAMPLES = 2
"""Points per side of an output's cell whose mean it is."""


class RoiAlign(MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign with another implementation on the CPU.

    There each output is a weighted sum of rows of the maps, channels last: torch.nn.functional.embedding_bag computes
    it several times as fast as torchvision's operator, and its gradient too (benchmarks/detection_speed.py).

    strides: of the maps "0", "1", ..., pixels, each twice that before. side: height and width of the outputs.
    """

    def __init__(self, strides: Sequence[int], side: int) -> None:
        super().__init__([str(number) for number in range(len(strides))], side, SAMPLES)
        self.strides = tuple(strides)
        self.side = side
        levels = [stride.bit_length() - 1 for stride in strides]
        self.mapper = LevelMapper(levels[0], levels[-1], CANONICAL_SIDE, CANONICAL_LEVEL)

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool maps, name -> N x C x H x W, in N lists of boxes, K x 4, to all boxes x C x side x side."""
        maps = [x[name] for name in self.featmap_names]
        if maps[0].device.type != "cpu":
            return super().forward(dict(x), boxes, image_shapes)
        rows = torch.cat([each.permute(0, 2, 3, 1).flatten(0, 2) for each in maps])
        indices, weights = self.points(maps, boxes)
        sums = nn.functional.embedding_bag(indices, rows, mode="sum", per_sample_weights=weights)
        return sums.view(-1, self.side, self.side, rows.shape[1]).permute(0, 3, 1, 2)

    def points(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rows, and their weights, whose sum each output is: int64 and float32, outputs x 16."""
        levels = self.mapper(list(boxes))
        counts = torch.tensor([each.shape[0] * each.shape[2] * each.shape[3] for each in maps])
        first = (counts.cumsum(0) - counts)[levels]
        height, width = (torch.tensor([each.shape[axis] for each in maps])[levels] for axis in (2, 3))
        image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(each) for each in boxes]))
        x1, y1, x2, y2 = (torch.cat(list(boxes)) / torch.tensor(self.strides)[levels, None]).unbind(1)
        rows, down = self._along(y1, y2, height)
        columns, across = self._along(x1, x2, width)
        start = (first + image * height * width).view(-1, 1, 1, 1, 1)
        indices = start + rows[:, :, None, :, None] * width.view(-1, 1, 1, 1, 1) + columns[:, None, :, None, :]
        weights = down[:, :, None, :, None] * across[:, None, :, None, :] / SAMPLES**2
        return indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)

    def _along(self, low: Tensor, high: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels to interpolate between along one side of K boxes, and their weights, K x side x 4.

        low, high: ends of the boxes, K. size: pixels of the maps along this side, K.
        """
        count = self.side * SAMPLES
        steps = (torch.arange(count) + 0.5) / count
        points = low[:, None] + (high - low).clamp(min=1)[:, None] * steps
        inside = (points >= -1) & (points <= size[:, None])
        last = size[:, None] - 1
        points = torch.minimum(points.clamp(min=0), last)
        before = points.floor()
        share = points - before
        pixels = torch.stack([before.long(), torch.minimum(before.long() + 1, last)], dim=-1)
        weights = torch.stack([1 - share, share], dim=-1) * inside[..., None]
        return pixels.view(-1, self.side, 2 * SAMPLES), weights.view(-1, self.side, 2 * SAMPLES)
