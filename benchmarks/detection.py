"""Average precision of detectors trained here, beside a published detector on the same images.

    python benchmarks/detection.py [--data FOLDER] [--quick]

trains the experiments that have not finished yet (about an hour and a half on two cores), scores them with their 95 %
intervals, scores YOLOX-nano (COCO weights, no training) on the same images through our evaluation and through
pycocotools, prints the tables and writes results/detection.json. The runs are kept in outputs/benchmark_detection.
--quick: YOLOX-nano only. FOLDER has detection/ and weights/, and detection/peers/yolox_nano_coco_416.onnx.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import RESULTS, arguments, environment, hardware, table
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms

from cnnlab.tasks.detection.annotated import AnnotatedImages
from cnnlab.tasks.detection.scores import MOST, Found, Scored, evaluate
from cnnlab.tasks.detection.sources.coco import coco_folder
from cnnlab.tasks.detection.sources.penn_fudan import penn_fudan

RUNS = Path("outputs/benchmark_detection")
IMAGENET = ["model.weights=IMAGENET1K_V1", "preprocessing.mean=null", "preprocessing.std=null"]
TRAINED = {
    "penn_fudan": ["experiment=penn_fudan"],
    "penn_fudan_imagenet": ["experiment=penn_fudan", *IMAGENET, "trainer.max_epochs=7"],
    "bccd": ["experiment=bccd"],
    "shapes": ["data=shapes", "model=ssdlite", "data.test_fraction=0.1", "trainer.max_epochs=3"],
}
"""Name -> overrides of a run."""
SHOWN = ("map", "map_50", "mask_map", "mask_map_50")
SIDE, GREY, STRIDES = 416, 114.0, (8, 16, 32)
"""Input of YOLOX-nano, the level of its padding, and the strides of its maps."""
LEAST_SCORE, MOST_OVERLAP = 0.001, 0.65
"""Of YOLOX's own evaluation."""


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    peers = [scored_peer(*each) for each in peer_sets(given.data)]
    print(f"{hardware()}\n\n{table(list(peers[0]), [list(row.values()) for row in peers])}\n")
    if given.quick:
        return
    for name, overrides in TRAINED.items():
        train(RUNS / name, [*overrides, f"paths.data_dir={given.data.absolute()}"])
    runs = [trained(name) for name in TRAINED]
    print(table(["setting", *SHOWN, "images", "CPU s", "minutes"], [list(row.values()) for row in runs]))
    result = {"environment": environment(), "peers": peers, "runs": runs}
    (given.json or RESULTS / "detection.json").write_text(json.dumps(result, indent=2) + "\n")


# --- YOLOX-nano: letterbox, network, decoding ---


class YoloxNano:
    """The published network as ONNX; its detections in an image, best first."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def __call__(self, image: Image.Image) -> Found:
        factor = min(SIDE / image.height, SIDE / image.width)
        size = (int(image.height * factor), int(image.width * factor))
        pixels = torch.from_numpy(np.asarray(image)[:, :, ::-1].copy()).permute(2, 0, 1)[None]  # blue, green, red
        canvas = torch.full((1, 3, SIDE, SIDE), GREY)
        canvas[..., : size[0], : size[1]] = interpolate(pixels.float(), size, mode="bilinear")  # as OpenCV does
        (output,) = self.session.run(None, {self.input: canvas.numpy()})
        return decoded(output[0], factor)


def decoded(output: np.ndarray, factor: float) -> Found:
    """Return the detections of an output, 3549 x (x, y, width, height, objectness, 80 classes)."""
    grids = [np.stack(np.meshgrid(np.arange(SIDE // s), np.arange(SIDE // s)), -1).reshape(-1, 2) for s in STRIDES]
    strides = np.concatenate([np.full((len(grid), 1), stride) for grid, stride in zip(grids, STRIDES, strict=True)])
    centres = (output[:, :2] + np.concatenate(grids)) * strides
    sides = np.exp(output[:, 2:4]) * strides
    boxes = torch.from_numpy(np.concatenate([centres - sides / 2, centres + sides / 2], 1) / factor).float()
    labels = torch.from_numpy(output[:, 5:].argmax(1))
    scores = torch.from_numpy(output[:, 4] * output[:, 5:].max(1))
    likely = scores >= LEAST_SCORE
    boxes, labels, scores = boxes[likely], labels[likely], scores[likely]
    kept = batched_nms(boxes, scores, labels, MOST_OVERLAP)[:MOST]
    return Found(boxes[kept].numpy(), scores[kept].numpy(), labels[kept].numpy())


# --- Scoring it ---


def peer_sets(folder: Path) -> Iterator[tuple[str, AnnotatedImages, Path, list[str], Callable[[Image.Image], Found]]]:
    """Yield name, images, annotations in COCO's JSON, the names of the images that count, and the detector."""
    detect = YoloxNano(folder / "detection/peers/yolox_nano_coco_416.onnx")
    mini = folder / "detection/coco_mini"
    val = coco_folder(str(mini), "boxes_*.json", "error").val
    assert val is not None
    yield "YOLOX-nano, COCO mini val", val, mini / "boxes_val2017.json", names(val), detect
    people = penn_fudan(str(folder / "detection/penn_fudan"), "error").test
    assert people is not None
    path = folder / "detection/penn_fudan/instances.json"
    yield "YOLOX-nano, Penn-Fudan test", people, path, names(people), lambda image: only(detect(image), 0)


def names(images: AnnotatedImages) -> list[str]:
    return [Path(images.name(index)).name for index in range(len(images))]


def only(found: Found, label: int) -> Found:
    keep = found.labels == label
    return Found(found.boxes[keep], found.scores[keep], found.labels[keep])


def scored_peer(
    name: str, images: AnnotatedImages, path: Path, files: list[str], detect: Callable[[Image.Image], Found]
) -> dict[str, Any]:
    """Return AP by our evaluation, with its interval, and by pycocotools, which reads the annotations itself."""
    scored = [
        Scored(index, images.size(index), detect(images.load(index, 3)), images.truth(index))
        for index in range(len(images))
    ]
    ours = evaluate(scored, len(images.classes), with_masks=False)[""]
    low, high = ours.intervals(500, seed=0)["map"]
    reference = by_pycocotools(scored, path, files)
    return {
        "detector and images": name,
        "n": len(images),
        "map": round(ours.summary["map"], 4),
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "map_50": round(ours.summary["map_50"], 4),
        "largest difference from pycocotools": float(np.abs(np.array(ours.evaluator.stats[:12]) - reference).max()),
    }


def by_pycocotools(scored: list[Scored], path: Path, files: list[str]) -> np.ndarray:
    """Return pycocotools' twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        numbers = {each["file_name"]: number for number, each in truth.imgs.items()}
        categories = sorted(truth.cats)
        found = truth.loadRes(
            [
                {
                    "image_id": numbers[file],
                    "category_id": categories[label],
                    "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
                    "score": float(score),
                }
                for each, file in zip(scored, files, strict=True)
                for (x1, y1, x2, y2), score, label in zip(
                    each.found.boxes, each.found.scores, each.found.labels, strict=True
                )
            ]
        )
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.imgIds = [numbers[file] for file in files]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


# --- Our runs ---


def train(folder: Path, overrides: list[str]) -> None:
    """Train unless the run has finished, note its CPU seconds, and score it with intervals."""
    if not (folder / "run.json").is_file() or json.loads((folder / "run.json").read_text())["status"] != "finished":
        command = [sys.executable, "train.py", *overrides, f"paths.output_dir={folder}"]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed.")
        (folder / "cpu_seconds.json").write_text(json.dumps(round(usage.ru_utime + usage.ru_stime)))
    if not (folder / "report/metrics.json").is_file():
        subprocess.run([sys.executable, "-m", "cnnlab", "evaluate", f"run={folder}", overrides[-1]], check=True)


def trained(name: str) -> dict[str, Any]:
    """Return what the table shows of a run."""
    folder = RUNS / name
    record, metrics, cpu = (
        json.loads((folder / file).read_text()) for file in ("run.json", "report/metrics.json", "cpu_seconds.json")
    )
    shown = {}
    for key in SHOWN:
        low, high = metrics.get(f"{key}_interval_95", (0.0, 0.0))
        shown[key] = f"{metrics[key]:.3f} ({low:.3f} to {high:.3f})" if key in metrics else ""
    return {"setting": name, **shown, "n": metrics["n"], "cpu": cpu, "minutes": round(record["wall_seconds"] / 60, 1)}


if __name__ == "__main__":
    main()
