"""Features of a run's images against a plain forward pass, and what the projector of TensorBoard is given."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cnnlab.api import load_run
from cnnlab.cli.subjects import RunSubject
from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.explain.embedding import features_of
from cnnlab.explain.subject import Picture


def test_features_are_what_the_classifier_gets(quick_run):
    subject = RunSubject(quick_run, {})
    pictures = subject.pictures(None, 40)
    name, found = features_of(subject, pictures, None)
    network = load_run(quick_run).network.eval()
    batch = torch.cat([picture.batch for picture in pictures])
    with torch.no_grad():
        maps = network.network.features(network.preprocessing(batch))
    assert name == "before the classifier"
    np.testing.assert_allclose(found, maps.flatten(1).numpy(), rtol=1e-4, atol=1e-5)
    _, by_engine = features_of(subject, pictures, None, "onnxruntime")
    np.testing.assert_allclose(by_engine, found, rtol=1e-4, atol=1e-4)
    _, of_layer = features_of(subject, pictures, "0")
    with torch.no_grad():
        maps = network.network.features[0](network.preprocessing(batch))
    np.testing.assert_allclose(of_layer, maps.flatten(1).numpy(), rtol=1e-4, atol=1e-5)


def test_files_and_projector(quick_run, tmp_path):
    visualize([f"run={quick_run}", "what=embedding", "limit=60", f"output={tmp_path}"])
    found = json.loads((tmp_path / "embedding.json").read_text())
    assert found["features"] == 16 * 5 * 5
    assert len(found["images"]) == 60
    assert len({image["class"] for image in found["images"]}) > 5
    points = np.array([image["pca"] for image in found["images"]])
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-3)
    assert points[:, 0].var() > points[:, 1].var()
    table = next(tmp_path.rglob("tensors.tsv")).read_text().splitlines()
    assert len(table) == 60
    assert len(table[0].split("\t")) == 400
    labels = next(tmp_path.rglob("metadata.tsv")).read_text().splitlines()
    assert labels == [image["class"] for image in found["images"]]


@pytest.mark.parametrize("layer", [None, "features"])
def test_large_maps_are_averaged_over_rows_and_columns_wherever_they_are(layer):
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
            self.features.register_forward_hook(lambda _, inputs, maps: maps.permute(0, 2, 3, 1))

        def forward(self, images):
            return self.head(self.features(images)).mean((1, 2))

    torch.manual_seed(0)
    network = ChannelsLast().eval()
    pictures = [Picture(str(number), torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)) for number in range(2)]
    _, found = features_of(SimpleNamespace(network=network, preprocessing=nn.Identity()), pictures, layer)
    conv = network.features
    with torch.no_grad():
        maps = nn.functional.conv2d(torch.cat([each.batch for each in pictures]), conv.weight, conv.bias)
    np.testing.assert_allclose(found, maps.mean((2, 3)).numpy(), rtol=1e-4)


def test_too_few_images_are_refused(quick_run):
    with pytest.raises(InputError, match="3 images are too few"):
        visualize([f"run={quick_run}", "what=embedding", "limit=3"])
