"""`what=adversarial`: images that the network misclassifies after a small perturbation, and accuracy by its size."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cnnlab.drawing.album import Album
from cnnlab.drawing.grids import to_uint8
from cnnlab.drawing.sheets import figure_image, grid, resized, tensor_image, titled
from cnnlab.errors import InputError
from cnnlab.explain.subject import Picture, Subject
from cnnlab.models.attacks import Attack
from cnnlab.seeds import derived_rng

NORMS = {"linf": "L∞", "l2": "L2"}
TILE = 200
BATCH = 32


@dataclass
class Options:
    """Draw images that the network misclassifies after a small perturbation, and accuracy by its size.

    attack: fgsm or pgd.
    norm: linf or l2.
    epsilon: the largest perturbation, in that norm, of pixels in [0, 1].
    steps: number of PGD steps.
    target: a class (name or number) that every image should be classified as; null: any wrong class.
    images: a file or folder; null: the validation images.
    limit: number of images, evenly spaced, that accuracy is measured on.
    shown: number of images that are drawn.
    epsilons: sizes at which accuracy is measured; empty: six from 0 to 2 * epsilon.
    seed: seed of the random starts of PGD.
    """

    attack: str = "pgd"
    norm: str = "linf"
    epsilon: float = 0.03
    steps: int = 10
    target: str | None = None
    images: str | None = None
    limit: int = 32
    shown: int = 6
    epsilons: list[float] = field(default_factory=list)
    seed: int = 0


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write triples.png, curve.png and adversarial.json.

    An image whose class is unknown counts as the class that the network predicts for it.
    """
    if options.shown < 1:
        raise InputError(f"shown={options.shown}: at least 1 is needed.")
    attack = Attack(options.attack, options.epsilon, options.norm, options.steps)
    target = None if options.target is None else subject.class_index(options.target)
    distances = options.epsilons or [round(2 * options.epsilon * step / 5, 6) for step in range(6)]
    pictures = subject.pictures(options.images, options.limit, spread=True)
    images = torch.cat([picture.batch for picture in pictures])
    clean = subject.probabilities(images)
    truth = torch.tensor(
        [c if p.target is None else p.target for p, c in zip(pictures, clean.argmax(1).tolist(), strict=True)]
    )
    aims = truth if target is None else torch.full_like(truth, target)
    with Album(output) as album:
        found = attacked(subject, attack, images, aims, target is not None, options.seed)
        title = f"{subject.name} · {attack.kind.upper()}, {NORMS[attack.norm]} norm at most {attack.epsilon:g}"
        if target is not None:
            title += f", target class {subject.classes[target]}"
        sheet = triples(subject, pictures, images, found, options.shown)
        album.add("triples", titled(sheet, title, "the image, the perturbation (grey is zero), their sum"))
        curves = accuracies(subject, attack, images, truth, distances, options.seed)
        what = f"{len(images)} images, {NORMS[attack.norm]} norm, pixels in [0, 1]"
        album.add("curve", figure_image(curve_figure(distances, curves, f"{subject.name} · {what}")))
        for name, values in curves.items():
            for distance, value in zip(distances, values, strict=True):  # TensorBoard's steps are integers
                album.events.add_scalar(f"adversarial/{name}", value, round(distance * 10_000))
        rows = _rows(subject, pictures, images, found)
        album.numbers("adversarial", {"epsilons": distances, "accuracy": curves, "images": rows})
    return album.paths


def attacked(
    subject: Subject, attack: Attack, images: Tensor, aims: Tensor, targeted: bool = False, seed: int = 0
) -> Tensor:
    """Return the adversarial images, computed in batches.

    aims: the class of each image to move away from or, if `targeted`, towards.
    """
    with derived_rng(seed, "attack"):
        return torch.cat(
            [
                attack(subject.model, batch, aim, targeted)
                for batch, aim in zip(images.split(BATCH), aims.split(BATCH), strict=True)
            ]
        )


def accuracies(
    subject: Subject, attack: Attack, images: Tensor, truth: Tensor, distances: Sequence[float], seed: int
) -> dict[str, list[float]]:
    """Return kind of attack -> accuracy at each distance: PGD, and for the L∞ norm FGSM too."""
    kinds = ["fgsm", "pgd"] if attack.norm == "linf" else ["pgd"]
    curves: dict[str, list[float]] = {kind: [] for kind in kinds}
    for distance in tqdm(distances, "Attacking", unit="distance", disable=None):
        for kind in kinds:
            each = replace(attack, kind=kind, epsilon=distance)
            found = attacked(subject, each, images, truth, seed=seed) if distance else images
            curves[kind].append(float((subject.probabilities(found).argmax(1) == truth).float().mean()))
    return curves


def triples(subject: Subject, pictures: Sequence[Picture], images: Tensor, found: Tensor, shown: int) -> Image.Image:
    """Draw the clean image, the perturbation scaled to its maximum, and the adversarial image, with the predictions."""
    tiles, captions = [], []
    for number in range(min(shown, len(images))):
        delta = found[number] - images[number]
        largest = float(delta.abs().max())
        scaled = to_uint8(0.5 + 0.5 * delta / max(largest, 1e-12))
        for pixels in (to_uint8(images[number]), scaled, to_uint8(found[number])):
            tiles.append(resized(tensor_image(pixels), TILE))
        of_clean, of_found = subject.probabilities(torch.stack([images[number], found[number]]))
        truth = f" (is {pictures[number].label})" if pictures[number].label else ""
        captions += [
            _prediction(subject, of_clean) + truth,
            f"max {largest:.2g}, L2 {float(delta.norm()):.3g}, shown x {0.5 / max(largest, 1e-12):.2g}",
            _prediction(subject, of_found),
        ]
    return grid(tiles, captions, columns=6 if shown > 3 else 3, gap=6, below=True)


def curve_figure(distances: Sequence[float], curves: dict[str, list[float]], title: str) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for kind, values in curves.items():
        axes.plot(distances, values, marker="o", label=kind.upper())
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("epsilon")
    axes.set_ylabel("accuracy")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _prediction(subject: Subject, probabilities: Tensor) -> str:
    value, index = probabilities.max(dim=0)
    return f"{subject.classes[int(index)]}: {float(value):.1%}"


def _rows(subject: Subject, pictures: Sequence[Picture], images: Tensor, found: Tensor) -> list[dict[str, Any]]:
    rows = []
    for picture, before, after in zip(pictures, images, found, strict=True):
        of_both = subject.probabilities(torch.stack([before, after]))
        rows.append(
            {
                "image": picture.name,
                "class": picture.label,
                "clean": _prediction(subject, of_both[0]),
                "adversarial": _prediction(subject, of_both[1]),
                "linf": float((after - before).abs().max()),
                "l2": float((after - before).norm()),
            }
        )
    return rows
