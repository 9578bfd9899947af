"""Move prediction: which move is played next in a position of Go."""

from cnnlab.tasks.moves.task import Moves

__all__ = ["Moves"]
