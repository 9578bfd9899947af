"""TensorBoard events in the run folder."""

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class RunEvents(TensorBoardLogger):
    """Event files and nothing else: the config is in config.yaml, so Lightning's hparams.yaml is not written."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()
