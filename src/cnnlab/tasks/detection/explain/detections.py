"""`what=detections`: what a detector finds in images, beside what is there."""

from dataclasses import dataclass
from pathlib import Path

from cnnlab.drawing.album import Album
from cnnlab.errors import InputError
from cnnlab.explain.subject import Subject
from cnnlab.tasks.detection.explain.looking import detector_of, images_of
from cnnlab.tasks.detection.predictions import Objects, coco_json
from cnnlab.tasks.detection.truth_and_detections import truth_and_detections


@dataclass
class Options:
    """Draw what a detector finds in images, beside what is there if it is known.

    images: a file or folder; null: the first validation images.
    limit: number of images.
    min_score: lowest score of a detection.
    """

    images: str | None = None
    limit: int = 4
    min_score: float = 0.5


def draw(subject: Subject, options: Options, output: Path) -> list[Path]:
    """Write <image>.png for every image, and detections.json in COCO's format."""
    if not 0 <= options.min_score <= 1:
        raise InputError(f"min_score={options.min_score}: use a number from 0 to 1.")
    module = detector_of(subject)
    seen = images_of(subject, options.images, options.limit)
    found = module.predict([each.prepared for each in seen], options.min_score)
    with Album(output) as album:
        for image, each in zip(seen, found, strict=True):
            title = f"{subject.name} · {image.name} · score of at least {options.min_score:.0%}"
            truth = image.truth_for(module.classes)
            size = image.prepared.size
            album.add(image.name, truth_and_detections(image.shown, size, truth, each, module.classes, title))
        named = {
            image.name: Objects(each, image.prepared.size, module.classes)
            for image, each in zip(seen, found, strict=True)
        }
        album.numbers("detections", coco_json(named, module.classes))
    return album.paths
