"""Check that the images of a data set can be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cnnlab.data.images import ImageFiles
from cnnlab.data.levels import Ranges
from cnnlab.data.scanning import scan
from cnnlab.tasks.detection.annotated import AnnotatedFiles, AnnotatedImages


def readable(
    images: AnnotatedImages, bad_images: str, cache_dir: Path, skipped: dict[str, str], ranges: Ranges | None = None
) -> AnnotatedImages:
    """Return the images that can be read, with their digests; name -> reason of the others is added to `skipped`.

    bad_images: "error" raises DataError for unreadable images, "skip" skips them. ranges: see `scan`.
    """
    if not isinstance(images, AnnotatedFiles):
        return images
    files = ImageFiles(images.root, images.paths, np.zeros(len(images), int), ["images"])
    found = scan(files, bad_images, cache_dir, ranges)
    skipped |= found.skipped
    kept = {path: index for index, path in enumerate(images.paths)}
    indices = [kept[found.images.paths[index]] for index in range(len(found.images))]  # type: ignore[attr-defined]
    return replace(images.subset(indices), digests=found.digests, ranges=found.ranges)
