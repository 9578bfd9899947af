"""The classes of data and of weights are matched by name, never by their number alone."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from cnnlab.data.sources.imagenet_subset import imagenet_classes
from cnnlab.errors import InputError
from cnnlab.models.weights import Weights
from cnnlab.tasks.classification.pretrained import matched

IMAGENET = imagenet_classes()


@dataclass(frozen=True)
class Labels:
    """What `matched` reads of labelled images: two of each class."""

    classes: list[str]
    labels: np.ndarray
    wnids: list[str] | None = None


def data(*classes: str, wnids: list[str] | None = None) -> Labels:
    return Labels(list(classes), np.repeat(np.arange(len(classes)), 2), wnids)


def weights(
    outputs: int, classes: list[str] | None = None, wnids: list[str] | None = None, run: bool = False
) -> Weights:
    state = {"fc.weight": torch.zeros(outputs, 2), "fc.bias": torch.zeros(outputs)}
    return Weights(state, "here", nn.Identity() if run else None, classes, wnids)


def test_classes_of_a_run_are_found_by_name_in_any_order_and_number():
    known = weights(4, ["ant", "bee", "cat", "dog"], run=True)
    images, names = matched(data("dog", "ant", "cat"), known)
    assert images.labels.tolist() == [3, 3, 0, 0, 2, 2]
    assert names == ["ant", "bee", "cat", "dog"]


def test_as_many_classes_of_other_names_are_refused_and_both_are_listed():
    known = weights(3, ["ant", "bee", "cat"], run=True)
    with pytest.raises(InputError) as error:
        matched(data("ant", "bus", "car"), known)
    message = "do not know these classes of the data: bus, car. They know ant, bee, cat; the data have ant, bus, car."
    assert message in str(error.value)


def test_outputs_without_names_are_taken_in_the_order_of_the_data_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        images, names = matched(data("ant", "bee"), weights(2))
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert names == ["ant", "bee"]
    assert "here does not name its classes: its 2 outputs are taken to be" in caplog.text
    assert "ant, bee" in caplog.text
    with pytest.raises(InputError, match="The weights have 3 classes, the data 2"):
        matched(data("ant", "bee"), weights(3))


def test_outputs_of_imagenet_are_found_by_wordnet_id():
    wnids = list(IMAGENET)[7:5:-1]
    for images in (data("hen", "cock", wnids=wnids), data(*wnids)):
        found, names = matched(images, weights(1000))
        assert found.labels.tolist() == [7, 7, 6, 6]
        assert names == list(IMAGENET.values())
    with pytest.raises(InputError, match="classes of the data"):
        matched(data("x", "y", wnids=["n0", "n1"]), weights(1000, classes=list(IMAGENET.values())))


def test_outputs_of_a_larger_imagenet_are_found_by_wordnet_id():
    known = weights(4, wnids=["n00000001", "n01440764", "n00000002", "n00000003"])
    found, names = matched(data("tench", "other", wnids=["n01440764", "n00000003"]), known)
    assert found.labels.tolist() == [1, 1, 3, 3]
    assert names == ["n00000001", "tench", "n00000002", "n00000003"]


def test_run_on_a_thousand_classes_of_its_own_is_not_taken_for_imagenet():
    own = [f"class {number}" for number in range(1000)]
    with pytest.raises(InputError, match="do not know these classes"):
        matched(data("hen", "cock", wnids=list(IMAGENET)[:2]), weights(1000, own, run=True))
