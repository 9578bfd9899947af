"""Anchors clustered from the boxes: known clusters are found, fit better than the default, and are kept."""

import logging

import numpy as np
import pytest
import torch
from boxes import SHAPES
from in_process import parts_of_a_run

from cnnlab.errors import InputError
from cnnlab.tasks.detection.anchors import clustered, recall, shape_iou


def test_clusters_are_those_that_the_boxes_were_drawn_from():
    random = np.random.default_rng(0)
    centres = np.array([[8.0, 8.0], [40.0, 16.0], [20.0, 90.0], [120.0, 110.0]])
    sides = np.concatenate([centre * random.uniform(0.95, 1.05, (50, 2)) for centre in centres])
    found = clustered(random.permutation(sides), 4)
    expected = centres[np.argsort(centres.prod(axis=1))]
    assert np.abs(found / expected - 1).max() < 0.03
    assert recall(sides, found) == 1.0


def test_iou_of_shapes():
    """[10, 20] and [20, 10] share 10 x 10 of 300."""
    found = shape_iou(np.array([[10.0, 20.0]]), np.array([[20.0, 10.0], [10.0, 20.0], [5.0, 10.0]]))
    assert found[0] == pytest.approx([100 / 300, 1.0, 0.25])


def test_a_run_clusters_its_anchors_and_keeps_them(tmp_path, caplog):
    own = [o for o in SHAPES if o != "model=ssdlite"]
    network = ["model=faster_rcnn", "model.network.channels=16", "model.network.norm=batch", "model.image_size=64"]
    with caplog.at_level(logging.INFO):
        _, module, data = parts_of_a_run(tmp_path / "run", *own, *network, "model.anchors=auto")
    assert "Anchors clustered from" in caplog.text
    anchors = module.network.head.model.rpn.anchor_generator
    fitted = recall(data.train_sides(), anchors.sides())
    _, default, _ = parts_of_a_run(tmp_path / "other", *own, *network)
    assert fitted > recall(data.train_sides(), default.network.head.model.rpn.anchor_generator.sides())
    state = module.network.state_dict()
    assert torch.equal(state["head.model.rpn.anchor_generator.cell_0"], anchors.cell_0)
    with pytest.raises(InputError, match="norm=batch"):
        parts_of_a_run(tmp_path / "frozen", *own, *network, "model.network.norm=frozen")
