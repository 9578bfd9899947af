"""`what=embedding`: the images of a data set in the feature space of a network, projected to two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn
from tqdm import tqdm

from cnnlab.drawing.album import Album
from cnnlab.drawing.sheets import figure_image
from cnnlab.errors import InputError
from cnnlab.explain.subject import Picture, Subject
from cnnlab.models.axes import AxisTracker
from cnnlab.models.cutting import input_of
from cnnlab.models.engines import AUTO, TORCH, require_engine
from cnnlab.models.feature_maps import layer_patterns, resolve_layers
from cnnlab.models.heads import head_name
from cnnlab.training.engine_choice import TRIED, EngineTrial, choose_engine

BATCH = 32
THUMBNAIL = 32
"""Side of a point's picture in TensorBoard's projector, in pixels."""
MOST = 8192
"""Largest number of features for which maps are flattened and not averaged."""


@dataclass
class Options:
    """Draw the images of a data set in the feature space of a network, projected by PCA and t-SNE.

    images: a folder of class folders; null: the validation images.
    limit: number of images, evenly spaced.
    layer: index of a stage, or a name; null: the input of the classifier. Maps of more than 8,192 values are averaged
        over positions.
    perplexity: perplexity of t-SNE.
    seed: seed of PCA and t-SNE.
    engine: what computes the input of the classifier: torch, onnxruntime, openvino, or auto for the fastest.
    """

    images: str | None = None
    limit: int = 500
    layer: str | None = None
    perplexity: float = 30.0
    seed: int = 0
    engine: str = AUTO


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write embedding.png (PCA and t-SNE in two dimensions) and embedding.json.

    The features also go to TensorBoard's projector, with the images as thumbnails.
    """
    require_engine(options.engine)
    pictures = subject.pictures(options.images, options.limit, spread=True)
    if len(pictures) < 5:
        raise InputError(f"{len(pictures)} images are too few for an embedding: at least 5 are needed.")
    if options.perplexity <= 0:
        raise InputError(f"perplexity={options.perplexity}: it must be positive.")
    layer, features = features_of(subject, pictures, options.layer, options.engine)
    labels = [picture.label or "?" for picture in pictures]
    pca = PCA(n_components=2, random_state=options.seed).fit(features)
    perplexity = min(options.perplexity, (len(pictures) - 1) / 3)
    points = {
        "PCA": pca.transform(features),
        "t-SNE": TSNE(perplexity=perplexity, init="pca", random_state=options.seed).fit_transform(features),
    }
    explained = [float(share) for share in pca.explained_variance_ratio_]
    title = f"{subject.name} · {features.shape[1]} features {layer} of {len(pictures)} images"
    notes = {"PCA": f"{sum(explained):.0%} of the variance", "t-SNE": f"perplexity {perplexity:g}"}
    with Album(output) as album:
        album.add("embedding", figure_image(embedding_figure(points, labels, title, notes)))
        album.events.add_embedding(
            torch.from_numpy(features), metadata=labels, label_img=thumbnails(pictures), tag="embedding"
        )
        album.numbers(
            "embedding",
            {
                "features": features.shape[1],
                "explained_variance": explained,
                "images": [
                    {"image": picture.name, "class": label, "pca": p.tolist(), "tsne": t.tolist()}
                    for picture, label, p, t in zip(pictures, labels, points["PCA"], points["t-SNE"], strict=True)
                ],
            },
        )
    return album.paths


@torch.no_grad()
def features_of(
    subject: Subject, pictures: Sequence[Picture], layer: str | None, engine: str = TORCH
) -> tuple[str, np.ndarray]:
    """Return what the features are, and their values, float32 N x D.

    They are the input of the classifier, which `engine` computes, or, if `layer` is given, its output; large maps are
    averaged over positions.
    Raises InputError if the layer returns no single tensor, or large maps whose positions cannot be told.
    """
    network = subject.network
    found: list[Tensor] = []
    if layer is None and engine != TORCH and len(vectors := by_engine(subject, pictures, engine)):
        return "before the classifier", vectors.numpy()
    axes: AxisTracker

    def keep(module: nn.Module, inputs: tuple, output: Any = None) -> None:
        found.append(_features(axes, inputs[0] if layer is None else output, name))

    if layer is None:
        name, handle = (
            "before the classifier",
            network.get_submodule(head_name(network)).register_forward_pre_hook(keep),
        )
    else:
        name, chosen = next(iter(resolve_layers(network, layer_patterns(layer)).items()))
        handle = chosen.register_forward_hook(keep)
    for start in tqdm(range(0, len(pictures), BATCH), "Looking", unit="batch", disable=None):
        batch = subject.preprocessing(torch.cat([each.batch for each in pictures[start : start + BATCH]]))
        with AxisTracker(batch) as axes:
            network.forward(batch)
    handle.remove()
    return name if layer is None else f"of {name}", torch.cat(found).cpu().numpy()


def by_engine(subject: Subject, pictures: Sequence[Picture], engine: str) -> Tensor:
    """Return the input of the classifier for each picture, float32 N x D; of size 0 where maps are to be averaged."""
    prefix = input_of(subject.network, head_name(subject.network))
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    trial = EngineTrial(prefix, subject.preprocessing(torch.cat([each.batch for each in pictures[:TRIED]])))
    features = prefix(trial.inputs)
    if not isinstance(features, Tensor) or features[0].numel() > MOST:
        return torch.empty(0)
    choose_engine(engine, trial, len(pictures), Path(subject.cfg["paths"]["cache_dir"]) / "speed")
    found = []
    for batch in tqdm(batches, "Looking", unit="batch", disable=None):
        images = subject.preprocessing(torch.cat([each.batch for each in batch]))
        found.append(trial.engine(images).float().flatten(1))
    return torch.cat(found)


def _features(axes: AxisTracker, values: Any, name: str) -> Tensor:
    """Return a copy of the values N x ... as float32 N x D, averaged over positions if there are more than MOST."""
    if not isinstance(values, Tensor):
        raise InputError(f"layer={name} returns no single tensor. Choose another layer.")
    if values[0].numel() <= MOST:
        return values.float().flatten(1).clone()
    layout = axes.layout(values)
    if layout is None:
        shape = " x ".join(["N", *map(str, values.shape[1:])])
        raise InputError(
            f"layer={name}: nothing says which axes of its output, {shape}, are positions. Choose another."
        )
    return layout.maps(values).float().mean((2, 3))


def embedding_figure(points: dict[str, np.ndarray], labels: Sequence[str], title: str, notes: dict[str, str]) -> Figure:
    """Plot one panel per projection, with points coloured by class.

    points: projection -> N x 2. notes: projection -> text after its name.
    """
    figure = Figure(figsize=(14, 6.5), layout="constrained")
    figure.suptitle(title, fontsize=14)
    classes = sorted(set(labels))
    colours = [f"C{number}" for number in range(10)] if len(classes) <= 10 else None
    handles: dict[str, Artist] = {}
    for axes, (name, values) in zip(figure.subplots(1, len(points)), points.items(), strict=True):
        for number, each in enumerate(classes):
            own = values[[label == each for label in labels]]
            shade = {"color": colours[number]} if colours else {}
            handles[each] = axes.scatter(own[:, 0], own[:, 1], s=14, alpha=0.75, **shade)
        axes.set_title(f"{name} ({notes[name]})")
        axes.set_xticks([])
        axes.set_yticks([])
    if 1 < len(classes) <= 25:
        figure.legend(list(handles.values()), list(handles), loc="outside right center", markerscale=2)
    return figure


def thumbnails(pictures: Sequence[Picture]) -> Tensor:
    """Return the pictures as float32 N x C x 32 x 32 in [0, 1]."""
    batch = torch.cat([picture.batch for picture in pictures])
    return torch.nn.functional.interpolate(batch, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
