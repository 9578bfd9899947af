"""A callback of tests, which a run in processes of its own names as a user would name theirs."""

from pathlib import Path

import lightning as L
import torch


class KeptStates(L.Callback):
    """Saves the network's state after every epoch of every rank: folder/<epoch>-<rank>.pt."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(pl_module.network.state_dict(), self.folder / f"{trainer.current_epoch}-{trainer.global_rank}.pt")
