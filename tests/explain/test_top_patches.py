"""The strongest patches of a run's channels, recomputed from the patches alone."""

import json

import numpy as np
import pytest
import torch

from cnnlab.api import load_run
from cnnlab.cli.visualize import visualize


def test_patch_alone_gives_the_value_that_is_claimed_for_it(quick_run, tmp_path):
    """LeNet-5 pads nothing: the features of the receptive field are the unit's value, and no image has a larger one."""
    visualize([f"run={quick_run}", "what=top_patches", "layer=3", "patches=4", f"output={tmp_path}"])
    found = json.loads((tmp_path / "patches_features.3.json").read_text())
    network = load_run(quick_run).network.eval()
    from cnnlab.cli.subjects import RunSubject

    pictures = {picture.name: picture for picture in RunSubject(quick_run, {}).pictures(None, 10**6)}
    batch = torch.cat([picture.batch for picture in pictures.values()])
    with torch.no_grad():
        maps = network.network.features[:4](network.preprocessing(batch))
    assert found["receptive_field"] == 14
    for channel, peaks in enumerate(found["channels"]):
        strongest = np.sort(maps[:, channel].amax((1, 2)).numpy())[::-1][:4]
        assert [peak["value"] for peak in peaks] == pytest.approx(strongest, rel=1e-4)
        assert len({peak["image"] for peak in peaks}) == 4
        top, left, bottom, right = peaks[0]["box"]
        patch = pictures[peaks[0]["image"]].batch[:, :, top:bottom, left:right]
        with torch.no_grad():
            value = network.network.features[:4](network.preprocessing(patch))[0, channel]
        assert value.shape == (1, 1)
        assert value.item() == pytest.approx(peaks[0]["value"], rel=1e-4)
