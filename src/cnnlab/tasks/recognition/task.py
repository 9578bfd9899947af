"""Recognition as a `Task`: the text of a line in a picture."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cnnlab import explain
from cnnlab.config import Config
from cnnlab.data.transforms import BATCH_TRANSFORMS, MIXING
from cnnlab.errors import DataError, InputError
from cnnlab.models.inputs import InputSpec, input_spec
from cnnlab.tasks.base import Task
from cnnlab.tasks.recognition.ctc import CTC, beam_search, columns_of, greedy
from cnnlab.tasks.recognition.data import Fit, LinesDataModule, RecognitionData, build_lines, padded
from cnnlab.tasks.recognition.evaluation import EvaluateOptions, ReadingScores, score
from cnnlab.tasks.recognition.module import Reader
from cnnlab.tasks.recognition.networks import HEIGHT
from cnnlab.tasks.recognition.predictions import PredictOptions, Text
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers import acting

CLASSIFIERS = ("torchvision.", "timm.", "cnnlab.models.")
"""Where networks are from that give one output for a whole image."""
WIDEST = 40.0
"""Most times that a picture to predict may be as wide as high; wider ones are compressed."""


class Recognition(Task):
    """The task of reading lines of text."""

    data_schema = RecognitionData
    module_class = Reader
    pictures: ClassVar[Mapping[str, str]] = {
        **explain.OF_NETWORKS,
        "alignment": "cnnlab.tasks.recognition.alignment",
    }
    evaluate_options = EvaluateOptions
    predict_options = PredictOptions

    def input_spec(self, model: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> InputSpec:
        spec = input_spec(model, preprocessing)
        if spec.image_size != HEIGHT:
            raise InputError(f"model.image_size={spec.image_size}: readers take lines of {HEIGHT} pixels' height.")
        return replace(spec, resize_size=HEIGHT, interpolation="bilinear", crop_mode="center")  # as `Fit` resizes

    def build_data(
        self, cfg: Config, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
    ) -> LinesDataModule:
        model = cfg["model"]
        if model["network"]["_target_"].startswith(CLASSIFIERS):
            raise InputError(
                f"model={model['name']} classifies images. A reader of lines is model=crnn or model=conv_transformer."
            )
        if mixing := [name for name, step in augmentations.items() if isinstance(step, MIXING)]:
            raise InputError(f"augmentation={mixing[0]} mixes classes, and a line has a text instead.")
        own = {name: step for name, step in augmentations.items() if not isinstance(step, BATCH_TRANSFORMS)}
        return build_lines(cfg, spec, own, trusted)

    def build_batch_transforms(self, augmentations: Mapping[str, nn.Module], num_classes: int) -> list[nn.Module]:
        return [step for step in augmentations.values() if isinstance(step, BATCH_TRANSFORMS)]

    def check_recipe(self, recipe: Recipe, augmentations: Mapping[str, nn.Module]) -> None:
        """Raise InputError for regularization that changes the targets of a classifier, and for other losses."""
        for name, each in recipe.regularizers.items():
            if acting([each], "on_batch") or bool(getattr(each, "label_smoothing", False)):
                raise InputError(f"regularization=[{name}] changes the class of an image; a line has a text instead.")
        if not isinstance(recipe.loss(), CTC):
            raise InputError(f"{type(recipe.loss()).__name__} cannot be the loss of a reader. Use loss=ctc.")

    def evaluate(self, module: TaskModule, data: Any, part: Any, options: Any) -> ReadingScores:
        return score(module, data, part, options)

    def prepare(self, pixels: Tensor, spec: InputSpec, options: Any = None) -> Tensor:
        return Fit(spec.image_size, WIDEST)(pixels)

    def stack(self, prepared: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return lines, uint8 C x H x W each, as a batch N x C x H x W and their widths in pixels, int64 N."""
        return padded(prepared), torch.tensor([each.shape[-1] for each in prepared])

    @torch.inference_mode()
    def predict(self, module: Any, inputs: tuple[Tensor, Tensor], options: Any) -> list[Text]:
        pixels, widths = inputs
        lexicon = lexicon_of(options.lexicon, tuple(module.classes)) if options.lexicon else None
        probabilities = module.predict(pixels).cpu()
        columns = columns_of(widths).clamp(max=probabilities.shape[1]).tolist()
        return [
            read(each[:count], module.classes, options.beam, lexicon)
            for each, count in zip(probabilities, columns, strict=True)
        ]


def read(probabilities: Tensor, classes: Sequence[str], beam: int, lexicon: set[tuple[int, ...]] | None) -> Text:
    """Return the text in the columns of one picture, T x (1 + classes)."""
    line = greedy(probabilities)
    if beam == 1:
        return Text("".join(classes[number] for number in line.classes), tuple(line.scores))
    found = beam_search(probabilities, beam, lexicon)
    best = probabilities.amax(0)
    return Text("".join(classes[number] for number in found), tuple(float(best[number + 1]) for number in found))


@functools.lru_cache(maxsize=4)
def lexicon_of(file: str, classes: tuple[str, ...]) -> set[tuple[int, ...]]:
    """Return the texts of a lexicon file as classes; raise DataError if there are none that can be read."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"lexicon={file}: file not found.")
    numbers = {character: number for number, character in enumerate(classes)}
    rows = [row.strip() for row in path.read_text(encoding="utf-8-sig").splitlines()]
    known = {tuple(numbers[character] for character in row) for row in rows if row and set(row) <= numbers.keys()}
    if not known:
        raise DataError(f"No text of lexicon={file} consists of the network's {len(classes)} characters.")
    return known
