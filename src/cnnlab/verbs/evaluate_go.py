"""`cnnlab evaluate` for runs of data=go: the moves of the positions, with and without averaging over symmetries."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cnnlab.data.datamodule import DataModule
from cnnlab.errors import InputError
from cnnlab.runs.go_report import Moves, write_go_report
from cnnlab.training.classifier import Classifier


def evaluate_go(
    classifier: Classifier,
    data: DataModule,
    part: Any,
    folder: Path,
    title: str,
    *,
    symmetries: int,
    positions: int | None,
) -> dict:
    """Score the positions of `part`, or so many of them at equal distances; writes the report into `folder`.

    symmetries: 1, or 8 for scores with and without averaging (the "symmetries" of Extended Data Table 3).
    Raises InputError for another number of either.
    """
    if symmetries not in (1, 8):
        raise InputError(f"symmetries={symmetries}: use 1 or 8.")
    if positions is not None and (not isinstance(positions, int) or positions < 1):
        raise InputError(f"positions={positions}: at least 1 is needed.")
    if positions is not None and positions < len(part):
        part = part.subset([index * len(part) // positions for index in range(positions)])
    numbers = write_go_report(folder, title, score_moves(classifier, data, part, symmetries))
    for name, found in (("1 symmetry", numbers), ("8 symmetries", numbers.get("symmetries_8"))):
        if found:
            low, high = found["acc_interval_95"]
            print(
                f"{name:<12}  acc {found['acc']:.4f} (95 % interval {low:.4f} to {high:.4f})   "
                f"acc_top5 {found['acc_top5']:.4f}   loss {found['loss']:.4f}   n {found['n']}"
            )
    print(f"Report: {folder / 'report.html'}")
    return numbers


@torch.inference_mode()
def score_moves(classifier: Classifier, data: DataModule, part: Any, symmetries: int) -> dict[int, Moves]:
    """Number of symmetries averaged over -> the moves; one pass over the data, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier.to(device).eval()
    classifier.network.to(memory_format=torch.channels_last)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {count: [] for count in {1, symmetries}}
    for planes, labels in tqdm(data.eval_dataloader(part), "Scoring", unit="batch"):
        turned = [probabilities(classifier, planes.to(device), symmetry) for symmetry in range(symmetries)]
        for count, results in found.items():
            results.append(ranked(torch.stack(turned[:count]).mean(dim=0), labels.to(device)))
    places = [part.locate(index) for index in range(len(part))]
    game, number = np.array(places).T
    moves = {}
    for count, results in sorted(found.items()):
        rank, loss = (torch.cat(column).cpu().numpy() for column in zip(*results, strict=True))
        moves[count] = Moves(rank, loss, number + 1, game)
    return moves


def probabilities(classifier: Classifier, planes: Tensor, symmetry: int) -> Tensor:
    """What the network says of boards under a symmetry, turned back: N x points; see cnnlab.go.symmetries."""
    mirrored = planes.flip(-1) if symmetry >= 4 else planes
    answers = classifier(torch.rot90(mirrored, symmetry % 4, (-2, -1))).softmax(dim=1)
    boards = torch.rot90(answers.view(-1, *planes.shape[-2:]), -(symmetry % 4), (-2, -1))
    return (boards.flip(-1) if symmetry >= 4 else boards).flatten(1)


def ranked(shares: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `shares` how many points are more probable than the label, and -log of the label's share."""
    own = shares.gather(1, labels[:, None])
    return (shares > own).sum(dim=1), -own[:, 0].double().clamp_min(1e-12).log()
