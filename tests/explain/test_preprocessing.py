"""The picture of preprocessing: its numbers against NumPy."""

import json

import numpy as np
import pytest
import torch

from cnnlab.cli.subjects import RunSubject
from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.explain.preprocessing import described, reduced


def test_covariance_and_its_numbers():
    images = torch.rand(50, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    covariance, numbers = described(images)
    rows = images.flatten(1).numpy()
    np.testing.assert_allclose(covariance.numpy(), np.cov(rows.T), atol=1e-6)
    correlations = np.abs(np.corrcoef(rows.T) - np.eye(18))
    assert numbers["mean_correlation"] == pytest.approx(correlations.sum() / (18 * 17), rel=1e-4)
    assert numbers["largest_variance"] == pytest.approx(rows.var(0, ddof=1).max(), rel=1e-4)


def test_reduced_matrix_keeps_the_strongest_entry_of_each_block_with_its_sign():
    values = torch.zeros(6, 6)
    values[0, 1], values[2, 3], values[3, 2], values[5, 5] = 2.0, -3.0, 1.0, -0.5
    assert reduced(values, 3).tolist() == [[2, 0, 0], [0, -3, 0], [0, 0, -0.5]]
    assert torch.equal(reduced(values, 6), values)


def test_every_kind_does_what_it_says(quick_run, tmp_path):
    visualize([f"run={quick_run}", "what=preprocessing", "size=8", f"output={tmp_path}"])
    found = json.loads((tmp_path / "preprocessing.json").read_text())
    pixels = RunSubject(quick_run, {}).data.sample(10**6).float() / 255
    assert found["images"] == len(pixels)
    assert found["none"]["min"] >= 0
    assert found["none"]["max"] <= 1
    assert found["zero_mean"]["mean"] == pytest.approx(0, abs=1e-5)
    assert found["zero_mean"]["largest_variance"] == pytest.approx(found["none"]["largest_variance"], rel=1e-4)
    assert found["standardize"]["mean_correlation"] == pytest.approx(found["none"]["mean_correlation"], rel=1e-3)


@pytest.mark.parametrize(("argument", "message"), [("limit=1", "At least two images"), ("shown=0", "shown=0")])
def test_wrong_options_are_named(quick_run, argument, message):
    with pytest.raises(InputError, match=message):
        visualize([f"run={quick_run}", "what=preprocessing", argument])
