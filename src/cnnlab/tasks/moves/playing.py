"""A trained policy network as a player of Go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cnnlab.errors import InputError

if TYPE_CHECKING:
    from cnnlab.go.player import Player

PLANES = ("features", "capture_encoding", "eye")
"""Keys of the config group `data` that define a network's planes."""


def player_of(model: nn.Module, cfg: Mapping[str, Any], **options: Any) -> Player:
    """Return a player that chooses its moves by the probabilities of `model`.

    model: float32 planes N x features x size x size -> logits N x size^2. cfg: the config of its run.
    options: temperature, symmetries and seed of cnnlab.go.player.Player.
    Raises InputError if the run is not of data=go, or for an invalid option.
    """
    if missing := [key for key in PLANES if key not in cfg["data"]]:
        raise InputError(
            f"This run was trained on data={cfg['data']['name']}, without {missing[0]}. Use a run of data=go."
        )
    from cnnlab.go.player import Player

    device = next(model.parameters()).device

    @torch.inference_mode()
    def policy(planes: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(planes).to(device).float().contiguous(memory_format=torch.channels_last)
        return model(batch).float().softmax(dim=1).cpu().numpy()

    return Player(policy, **options, **{key: cfg["data"][key] for key in PLANES})
