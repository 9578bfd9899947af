"""The prediction of Go moves as a `Task`; the extra `go` is needed only when data are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from cnnlab import explain
from cnnlab.config import Config
from cnnlab.data.datamodule import DataModule
from cnnlab.data.transforms import BATCH_TRANSFORMS
from cnnlab.errors import InputError
from cnnlab.models.inputs import InputSpec
from cnnlab.tasks.classification.task import Classification
from cnnlab.training.module import TaskModule

if TYPE_CHECKING:
    from cnnlab.tasks.moves.evaluation import ScoredMoves


@dataclass
class MovesData:
    """The config group `data` for positions of Go games."""

    name: str
    root: str
    channels: int
    size: int
    features: int
    capture_encoding: str
    eye: str
    symmetric: bool
    batch_size: int
    num_workers: int | None
    positions_per_epoch: int | None
    val_fraction: float
    test_fraction: float
    split_seed: int
    min_rank: str | None
    max_handicap: int | None
    first_date: str | int | None
    last_date: str | int | None
    results: list[str] | None
    max_games: int | None


MovesData.NEEDED = ("name", "size", "features", "capture_encoding", "eye")  # type: ignore[attr-defined]


@dataclass
class EvaluateOptions:
    """Keys of `cnnlab evaluate` for move prediction.

    symmetries: 1, or 8 for scores with and without averaging over the symmetries of the board.
    positions: number of positions to score, evenly spaced; null: all.
    """

    symmetries: int = 8
    positions: int | None = None


class Moves(Classification):
    """The task of predicting the next move: classification of positions by the point that is played."""

    data_schema: ClassVar[type] = MovesData
    pictures: ClassVar[Mapping[str, str]] = {**explain.OF_NETWORKS, "policy": "cnnlab.tasks.moves.policy"}
    capabilities = frozenset({"engine"})
    evaluate_options = EvaluateOptions

    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> DataModule:
        from cnnlab.tasks.moves.data import build_positions

        if turning := [name for name, step in augmentations.items() if not isinstance(step, BATCH_TRANSFORMS)]:
            raise InputError(
                f"augmentation: {', '.join(turning)} would change the board but not the move to predict. Use "
                "augmentation=none; data=go turns and mirrors boards together with their moves (data.symmetric)."
            )
        return build_positions(
            cache_dir=Path(cfg["paths"]["cache_dir"]),
            seed=cfg["seed"],
            channels=spec.channels,
            image_size=spec.image_size,
            **{key: value for key, value in cfg["data"].items() if key not in ("name", "channels")},
        )

    def class_weights(self, given: Any, data: DataModule) -> list[float]:
        raise InputError(
            f"loss.class_weights={given} is not possible: the classes of Go are the points of the board, and how often "
            "each is played is what a network is to learn."
        )

    def evaluate(self, module: TaskModule, data: DataModule, part: Any, options: Any) -> "ScoredMoves":
        from cnnlab.tasks.moves.evaluation import score_moves

        return score_moves(module, data, part, options.symmetries, options.positions)

    def require_pictures(self) -> None:
        raise InputError(
            "cnnlab predict takes pictures, but the inputs of this network are Go positions. Use cnnlab play run=..."
        )

    def pretrained(self, cfg: Config, trusted: Sequence[str]) -> Any:
        raise InputError("cnnlab evaluate model=... is for pictures: evaluate a policy network of Go with run=FOLDER.")
