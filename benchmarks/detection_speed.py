"""Training and evaluation of Mask R-CNN, against the loop of torchvision's detection references on the same network.

    python benchmarks/detection_speed.py [--quick] [--data FOLDER] [--json FILE] [--run RUN]

Penn-Fudan, MobileNetV2 with a pyramid of 128 channels, 320 pixels, batches of two, float32, the same weights, images
and optimizer. Both read, flip and resize images in their own way, in the process that trains:
  reference   torchvision's MaskRCNN with its transform, a batch as lists, masks pasted and scored by pycocotools
  ours        DetectionDataModule, DetectionModule and our scores
Evaluation is that of the network after the steps measured, which finds a hundred objects in every image, or of RUN, one
of benchmarks/detection.py's (penn_fudan_imagenet).
"""

import contextlib
import io
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import arguments, interleaved, ratio, report
from pycocotools import mask as codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import mobilenet_v2
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms import v2

from cnnlab import experiment
from cnnlab.config import check, compose, plain_config
from cnnlab.system.files import load_tensors
from cnnlab.tasks.detection.annotated import AnnotatedImages
from cnnlab.tasks.detection.backbones import freeze_norms
from cnnlab.tasks.detection.detector_weights import renamed
from cnnlab.tasks.detection.evaluation import EvaluateOptions, score
from cnnlab.tasks.detection.truth import decode_masks

CHANNELS, SIDE, BATCH, SAMPLES, PROPOSALS = 128, 320, 2, 128, 500
LEVELS = {"3": "0", "6": "1", "13": "2", "18": "3"}
"""Stages of MobileNetV2 that end at strides of 4, 8, 16 and 32 pixels -> their names in the pyramid."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, metavar="RUN", help="a run folder whose network is evaluated")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    steps, rounds, images = (3, 2, 6) if given.quick else (10, 5, 50)
    with TemporaryDirectory() as folder:
        built = build(given.data, Path(folder))
    peer = reference_network()
    peer.load_state_dict(peer_state(peer, built.module.network))
    torch.manual_seed(0)
    ours, theirs = our_steps(built), reference_steps(peer, built.data.parts.train)
    training = interleaved({"reference": timed(theirs, steps), "ours": timed(ours, steps)}, rounds)
    if given.run:
        built.module.network.load_state_dict(load_tensors(given.run / "best_weights.pth"))
    peer.load_state_dict(peer_state(peer, built.module.network))
    test = built.data.parts.test.subset(range(images))
    found: dict[str, float] = {}
    evaluation = interleaved(
        {
            "reference": seconds_of(lambda: found.update(reference=evaluate_reference(peer, test))),
            "ours": seconds_of(lambda: found.update(ours=evaluate_ours(built, test))),
        },
        2,
    )
    print(f"mask AP: {found}")
    ratios = {
        "training step: reference / ours": ratio(training["reference"], training["ours"]),
        "evaluation: reference / ours": ratio(evaluation["reference"], evaluation["ours"]),
    }
    report("detection_speed", given, {"training": training, "evaluation": evaluation, "mask AP": found}, ratios)


def timed(steps: Iterator[None], count: int) -> Callable[[], float]:
    def measure() -> float:
        next(steps)
        began = time.perf_counter()
        for _ in range(count):
            next(steps)
        return (time.perf_counter() - began) / count

    return measure


def seconds_of(work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return measure


# --- Ours ---


def build(data: Path, folder: Path) -> experiment.Experiment:
    """Return the experiment as `train.py` builds it."""
    cfg = compose(
        [
            "data=penn_fudan",
            "model=mask_rcnn",
            "model.weights=null",
            "model.network.norm=batch",  # frozen below: without weights, frozen norms are refused
            f"model.image_size={SIDE}",
            f"model.network.channels={CHANNELS}",
            f"model.network.samples={SAMPLES}",
            f"model.network.proposals={PROPOSALS}",
            "preprocessing=weights",
            "augmentation=flip",
            "trainer=cpu",
            f"data.batch_size={BATCH}",
            "data.val_fraction=0",
            "data.num_workers=0",
            "speed.num_threads=null",
            f"paths.data_dir={data.absolute()}",
            f"paths.output_dir={folder}",
        ]
    )
    check(cfg)
    built = experiment.build(plain_config(cfg, folder))
    freeze_norms(built.module.network.features)
    built.module.network.to(memory_format=torch.channels_last)
    return built


def our_steps(built: experiment.Experiment) -> Iterator[None]:
    module, loader = built.module.train(), built.data.train_dataloader()
    optimizer = optimizer_of(module.network)
    while True:
        for batch in loader:
            outputs, targets = module.outputs_of(batch)
            loss = module.loss_of(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def evaluate_ours(built: experiment.Experiment, images: AnnotatedImages) -> float:
    found = score(built.module, built.data, images, EvaluateOptions())
    return found.evaluations["mask_"].summary["mask_map"]


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.002, momentum=0.9, weight_decay=5e-4)


# --- torchvision's references: a list of float images, targets as dictionaries, resized inside the network ---


class Pedestrians(Dataset):
    """Float images C x H x W and targets with masks of the full size."""

    def __init__(self, images: AnnotatedImages, flips: bool) -> None:
        self.images = images
        self.flips = flips

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = v2.functional.to_dtype(v2.functional.pil_to_tensor(self.images.load(index, 3)), scale=True)
        truth = self.images.truth(index)
        masks = torch.from_numpy(decode_masks(truth.masks or [], self.images.size(index)))
        boxes = torch.from_numpy(truth.boxes.copy())
        if self.flips and random.random() < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": torch.from_numpy(truth.labels) + 1, "masks": masks}


def collate(examples: list) -> tuple:
    return tuple(zip(*examples, strict=True))


def reference_network() -> nn.Module:
    body = mobilenet_v2(norm_layer=FrozenBatchNorm2d).features
    widths = [24, 32, 96, 1280]
    backbone = BackboneWithFPN(body, LEVELS, widths, CHANNELS, LastLevelMaxPool())
    network = MaskRCNN(
        backbone,
        2,
        min_size=SIDE,
        max_size=round(SIDE * 5 / 3),
        box_batch_size_per_image=SAMPLES,
        **{f"rpn_{when}_nms_top_n_test": PROPOSALS for when in ("pre", "post")},
        **{f"rpn_{when}_nms_top_n_train": 2 * PROPOSALS for when in ("pre", "post")},
    )
    network.roi_heads.mask_head = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, 1)
    network.roi_heads.mask_predictor = MaskRCNNPredictor(CHANNELS, CHANNELS, 2)
    return network


def peer_state(peer: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of our network under the names of torchvision's."""
    state = network.state_dict()
    return {name: state[ours] for name, ours in zip(peer.state_dict(), renamed(peer.state_dict()), strict=True)}


def reference_steps(network: nn.Module, images: AnnotatedImages) -> Iterator[None]:
    loader = DataLoader(Pedestrians(images, True), BATCH, shuffle=True, collate_fn=collate)
    optimizer = optimizer_of(network)
    network.train()
    while True:
        for batch, targets in loader:
            losses = network(list(batch), list(targets))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


@torch.inference_mode()
def evaluate_reference(network: nn.Module, images: AnnotatedImages) -> float:
    """Return the mask AP: one image at a time, every mask pasted, encoded and scored by pycocotools."""
    network.eval()
    results: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
    for number, (batch, _) in enumerate(DataLoader(Pedestrians(images, False), 1, collate_fn=collate)):
        (found,) = network(list(batch))
        masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        for box, value, mask in zip(found["boxes"].tolist(), found["scores"].tolist(), masks, strict=True):
            result = {"image_id": number + 1, "category_id": 1, "score": value}
            x1, y1, x2, y2 = box
            results["bbox"].append(result | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
            results["segm"].append(result | {"segmentation": codec.encode(np.asfortranarray(mask))})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = ground_truth(images)
        for kind, found in results.items():
            evaluator = COCOeval(truth, truth.loadRes(found), kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
    return float(evaluator.stats[0])


def ground_truth(images: AnnotatedImages) -> COCO:
    annotations = []
    for index in range(len(images)):
        truth = images.truth(index)
        for (x1, y1, x2, y2), area, mask in zip(truth.boxes.tolist(), truth.areas, truth.masks or [], strict=True):
            entry = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "segmentation": mask})
    truth = COCO()
    sizes = [images.size(index) for index in range(len(images))]
    truth.dataset = {
        "images": [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes, 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth


if __name__ == "__main__":
    main()
