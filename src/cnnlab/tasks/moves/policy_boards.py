"""Log a policy network's move probabilities in fixed validation positions; TensorBoard's step slider shows it learn."""

import lightning as L
import torch

from cnnlab.drawing.boards import board_picture
from cnnlab.models.modes import evaluating
from cnnlab.training.callbacks.pace import Pace
from cnnlab.training.callbacks.pictures import add_picture, tensorboard_writer
from cnnlab.training.module import TaskModule


class PolicyBoards(L.Callback):
    """A callback that logs `policy/<number>`, a board with the probability of every move.

    It logs before training and after epochs. positions: number of validation positions, evenly spaced.
    every_n_epochs: after which epochs (see Pace).
    """

    def __init__(self, positions: int = 4, every_n_epochs: int | None = None) -> None:
        self.positions = positions
        self.pace = Pace(every_n_epochs)

    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if self.pace.due(trainer, trainer.current_epoch + 1):
            with self.pace.timed():
                self._log(trainer, pl_module)

    @torch.no_grad()
    def _log(self, trainer: L.Trainer, module: TaskModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        part = data.parts.val
        writer = tensorboard_writer(trainer)
        if writer is None or part is None:
            return
        chosen = part.subset([(2 * n + 1) * len(part) // (2 * self.positions) for n in range(self.positions)])
        dataset = data.eval_dataset(chosen)
        examples = [dataset[(0, index)] for index in range(len(chosen))]
        with evaluating(module):
            planes = torch.stack([pixels for pixels, _ in examples]).to(module.device)
            shares = module.predict(planes).cpu().numpy()
        for number, (_, label) in enumerate(examples):
            board = chosen.board(number)
            title = f"step {trainer.global_step}: {chosen.name(number)}"
            last = board.moves[-1][1] if board.moves else None
            size = board.size
            picture = board_picture(
                board.rows(), shares[number].reshape(size, size), title, last, divmod(label, size), cell=24
            )
            add_picture(writer, f"policy/{number}", picture, trainer.global_step)
