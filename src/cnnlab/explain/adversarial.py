"""`what=adversarial`: images that a small perturbation makes the network mistake, and accuracy by its size."""

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
    """attack: fgsm or pgd. norm: linf or l2. epsilon: the largest perturbation, of pixels in [0, 1].

    steps: of pgd. target: a class that every image is to be taken for (a name or number). images: a folder; without it
    the validation images. limit: how many images, at equal distances, the curve is of. shown: how many triples.
    epsilons: where the curve is drawn; empty is 0 to 2 * epsilon.
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
    """Write triples.png, curve.png and adversarial.json; images of no known class count as what they are taken for."""
    if options.shown < 1:
        raise InputError(f"shown={options.shown}: at least 1 is needed.")
    attack = Attack(options.attack, options.epsilon, options.norm, options.steps)
    target = None if options.target is None else subject.class_index(options.target)
    distances = options.epsilons or [round(2 * options.epsilon * part / 5, 6) for part in range(6)]
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
            title += f", to be taken for {subject.classes[target]}"
        sheet = triples(subject, pictures, images, found, options.shown)
        album.add("triples", titled(sheet, title, "the image, what is added to it (grey is nothing), the sum"))
        curves = accuracies(subject, attack, images, truth, distances, options.seed)
        what = f"{len(images)} images, {NORMS[attack.norm]} norm, pixels in [0, 1]"
        album.add("curve", figure_image(curve_figure(distances, curves, f"{subject.name} · {what}")))
        for name, values in curves.items():
            for distance, value in zip(distances, values, strict=True):  # a step is a ten-thousandth
                album.board.add_scalar(f"adversarial/{name}", value, round(distance * 10_000))
        rows = _rows(subject, pictures, images, found)
        album.numbers("adversarial", {"epsilons": distances, "accuracy": curves, "images": rows})
    return album.paths


def attacked(
    subject: Subject, attack: Attack, images: Tensor, aims: Tensor, targeted: bool = False, seed: int = 0
) -> Tensor:
    """The adversarial images, batch by batch."""
    with derived_rng(seed, "attack"):
        return torch.cat(
            [
                attack(subject.model, part, aim, targeted)
                for part, aim in zip(images.split(BATCH), aims.split(BATCH), strict=True)
            ]
        )


def accuracies(
    subject: Subject, attack: Attack, images: Tensor, truth: Tensor, distances: Sequence[float], seed: int
) -> dict[str, list[float]]:
    """Attack -> accuracy under it at each distance; FGSM beside PGD where the distance is one that FGSM has."""
    kinds = ["fgsm", "pgd"] if attack.norm == "linf" else ["pgd"]
    curves: dict[str, list[float]] = {kind: [] for kind in kinds}
    for distance in tqdm(distances, "Attacking", unit="distance"):
        for kind in kinds:
            each = replace(attack, kind=kind, epsilon=distance)
            found = attacked(subject, each, images, truth, seed=seed) if distance else images
            curves[kind].append(float((subject.probabilities(found).argmax(1) == truth).float().mean()))
    return curves


def triples(subject: Subject, pictures: Sequence[Picture], images: Tensor, found: Tensor, shown: int) -> Image.Image:
    """Rows of clean image, perturbation scaled to its largest value, adversarial image, with what each is taken for."""
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
            _taken_for(subject, of_clean) + truth,
            f"max {largest:.2g}, L2 {float(delta.norm()):.3g}, drawn x {0.5 / max(largest, 1e-12):.2g}",
            _taken_for(subject, of_found),
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


def _taken_for(subject: Subject, probabilities: Tensor) -> str:
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
                "clean": _taken_for(subject, of_both[0]),
                "adversarial": _taken_for(subject, of_both[1]),
                "linf": float((after - before).abs().max()),
                "l2": float((after - before).norm()),
            }
        )
    return rows
