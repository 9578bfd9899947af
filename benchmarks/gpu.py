"""Everything that a GPU changes, in one run of at most eight minutes and without a network.

    python benchmarks/gpu.py [--data FOLDER] [--device cuda] [--quick] [--json FILE]

Whole runs through the program (quickstart, frozen, whole network, DDP and FSDP on one device, CIFAR-10 in memory);
steps of MobileNetV2 and ResNet-50 in every precision against a plain loop and timm's network; the loader up to the
device; peak memory; `speed=exact` resumed to the bit, frozen stages unchanged to the bit; AlphaGo's policy network.
Pictures are those of FOLDER/flower_photos, or drawn; CIFAR-10's are noise in its format. --device cpu --quick tries the
script itself: its figures mean nothing.
"""

import argparse
import itertools
import json
import logging
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from common import IMAGENET_MEAN, IMAGENET_STD, RESULTS, arguments, environment, hardware, program, table
from PIL import Image
from torch import Tensor, nn
from training_step import CLASSES, classifier_of

import cnnlab
from cnnlab import experiment
from cnnlab.config import check, compose, plain_config
from cnnlab.data.sources import cifar10
from cnnlab.models.alphago_policy import AlphaGoPolicy
from cnnlab.models.preprocessing import Normalize
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.system.files import load_tensors
from cnnlab.training.module import TaskModule

LIMIT = 400.0
"""Seconds after which no further part begins; the longest part takes a minute."""
PAPER = 4.8
"""Milliseconds of a forward pass of AlphaGo's policy network, k = 192 (Silver et al. 2016, Extended Data Table 3)."""
GIB = 1 << 30


@dataclass
class Bench:
    """What the parts share, and the rows that they find: (what, value, unit, what it is compared with)."""

    given: argparse.Namespace
    folder: Path
    rows: list[tuple[str, Any, str, str]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device(self.given.device)

    @property
    def quick(self) -> bool:
        return self.given.quick

    def add(self, what: str, value: Any, unit: str = "", note: str = "") -> None:
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"  {what}: {shown} {unit} {note}".rstrip(), flush=True)
        self.rows.append((what, value, unit, note))

    def overrides(self, name: str, *own: str) -> list[str]:
        """The overrides of a run in a folder of its own, on the device, without pictures for TensorBoard."""
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        places = [f"paths.root={self.folder}", f"paths.output_dir={self.folder / 'runs' / name}"]
        return [*places, f"trainer.accelerator={accelerator}", "trainer.devices=1", "callbacks=none", *own]

    def pictures(self) -> list[str]:
        """The overrides that choose the pictures, which are drawn first if there are no flowers."""
        if (self.given.data / "flower_photos").is_dir():
            few = ["data.images_per_class=20"] if self.quick else []
            return ["data=flowers", f"paths.data_dir={self.given.data.absolute()}", *few]
        root = self.folder / "pictures"
        if not root.is_dir():
            draw_pictures(root, 10 if self.quick else 400)
        return ["data=image_folder", f"data.root={root}"]

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here. To try the script itself: python benchmarks/gpu.py --device cpu --quick")
    warnings.filterwarnings("ignore")
    logging.getLogger("cnnlab").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="gpu_"))
    bench = Bench(given, folder)
    failed = run_parts(bench, (steps, alphago, runs, cifar, exact, frozen, loader, one_device))
    shutil.rmtree(folder, ignore_errors=True)
    report(bench, failed)
    sys.exit(1 if failed else 0)


def run_parts(bench: Bench, parts: Sequence[Callable[[Bench], None]]) -> list[str]:
    """Run every part; return what failed or was left out, and why. One that fails does not stop the others."""
    failed: list[str] = []
    began = time.perf_counter()
    for part in parts:
        if time.perf_counter() - began > LIMIT:
            failed.append(f"{part.__name__}: left out after {LIMIT:.0f} s")
            continue
        print(f"{part.__name__}", flush=True)
        try:
            part(bench)
        except (Exception, SystemExit) as error:  # what `program` raises
            traceback.print_exc()
            failed.append(f"{part.__name__}: {type(error).__name__}: {error}")
    bench.add("this benchmark", time.perf_counter() - began, "s")
    return failed


def report(bench: Bench, failed: list[str]) -> None:
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else hardware()
    result = {
        "benchmark": "gpu",
        "quick": bench.quick,
        "device": device,
        "environment": environment(),
        "rows": bench.rows,
        "failed": failed,
    }
    shown = [(what, f"{value:.4g}" if isinstance(value, float) else value, *rest) for what, value, *rest in bench.rows]
    print(f"\n{device}\n\n{table(['what', 'value', 'unit', 'compared with'], shown)}")
    print("".join(f"\nFAILED {line}" for line in failed))
    path = bench.given.json or (None if bench.quick else RESULTS / "gpu.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


# --- Steps and forward passes ---


def steps(bench: Bench) -> None:
    """Steps of the whole network in every precision, with the optimizer's."""
    batch, size = (2, 64) if bench.quick else (128, 224)
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=bench.device)
    labels = torch.randint(0, CLASSES, (batch,), device=bench.device)
    floats = Normalize(IMAGENET_MEAN, IMAGENET_STD).to(bench.device)(pixels.float() / 255)
    for name in ["mobilenet_v2"] if bench.quick else ["mobilenet_v2", "resnet50"]:
        variants: dict[str, Callable[[], Callable[[], None]]] = {
            "plain loop, float32": lambda name=name: plain_step(bench, name, floats, labels),
            "float32": lambda name=name: our_step(bench, name, pixels, labels),
            "TF32": lambda name=name: our_step(bench, name, pixels, labels, tf32=True),
            "bfloat16": lambda name=name: our_step(bench, name, pixels, labels, bfloat16=True),
            "bfloat16, compiled": lambda name=name: our_step(bench, name, pixels, labels, bfloat16=True, compiles=True),
            "timm's network, bfloat16": lambda name=name: timm_step(bench, name, floats, labels),
        }
        speeds: dict[str, float] = {}
        for what, build in variants.items():
            if bench.device.type == "cpu" and "compiled" in what:
                continue  # takes minutes
            speeds[what] = batch / seconds_of(bench, build(), 2 if bench.quick else 20)
            first = speeds["plain loop, float32"]
            bench.add(f"{name} step, {what}", speeds[what], "img/s", f"{speeds[what] / first:.2f} x plain loop")
            if bench.device.type == "cuda":
                bench.add(f"{name} step, {what}: peak memory", torch.cuda.max_memory_allocated() / GIB, "GiB")


def seconds_of(bench: Bench, step: Callable[[], None], count: int) -> float:
    """Seconds of a step, after three that are not counted; the peak of memory counts from here."""
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    bench.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    bench.synchronize()
    return (time.perf_counter() - began) / count


def plain_step(bench: Bench, name: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """The step of most scripts."""
    use_tf32(False)
    network = torchvision.models.get_model(name, num_classes=CLASSES).to(bench.device)
    return loop_step(network, images, labels, torch.optim.AdamW(network.parameters(), lr=1e-4), nullcontext())


def timm_step(bench: Bench, name: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    import timm

    use_tf32(True)
    title = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
    network = timm.create_model(title, num_classes=CLASSES).to(bench.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = images.contiguous(memory_format=torch.channels_last)
    return loop_step(network, images, labels, optimizer, torch.autocast(bench.device.type, torch.bfloat16))


def loop_step(
    network: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, autocast: Any
) -> Callable[[], None]:
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            loss = loss_function(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def our_step(
    bench: Bench,
    name: str,
    pixels: Tensor,
    labels: Tensor,
    *,
    tf32: bool = False,
    bfloat16: bool = False,
    compiles: bool = False,
) -> Callable[[], None]:
    """What a step of the program computes: from uint8, with its preprocessing, memory format and optimizer."""
    use_tf32(tf32 or bfloat16)
    network = with_features_and_classifier(torchvision.models.get_model(name, num_classes=CLASSES))
    module = classifier_of(network, Normalize(IMAGENET_MEAN, IMAGENET_STD)).to(bench.device)
    network.to(memory_format=torch.channels_last)
    if compiles:
        network.compile()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bfloat16):
            loss = module.train_loss(module(pixels), labels)
        loss.backward()
        optimizer.step()

    return step


def use_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@torch.inference_mode()
def alphago(bench: Bench) -> None:
    """A forward pass of the policy network for one position, against the paper's."""
    use_tf32(False)
    network = AlphaGoPolicy(k=192).to(bench.device).eval()
    planes = torch.rand(1, 48, 19, 19, device=bench.device)
    times = [1000 * seconds_of(bench, lambda: network(planes), 1) for _ in range(3 if bench.quick else 100)]
    bench.add("AlphaGo, k = 192, forward pass", median(times), "ms", f"paper: {PAPER} ms")


# --- Runs ---


def runs(bench: Bench) -> None:
    """Quickstart, a run on frozen features and one of the whole network."""
    epochs = [f"trainer.max_epochs={1 if bench.quick else 3}"]
    network = ["model=mobilenet_v2", "model.weights=null", *bench.pictures(), *small(bench)]
    measured = {
        "quickstart": ["experiment=quickstart", *(epochs if bench.quick else [])],
        "frozen": [*network, "freeze=features", "speed=fast", *epochs],
        "whole network": [*network, "freeze=none", "speed=fast", *epochs],
    }
    for name, overrides in measured.items():
        began = time.perf_counter()
        run = cnnlab.train(bench.overrides(name.replace(" ", "_"), *overrides))
        bench.add(f"{name}: the run", time.perf_counter() - began, "s", str(run["speed"]))
        bench.add(f"{name}: training", run["images_per_second"] or 0.0, "img/s")
        bench.add(f"{name}: waiting for data", 100 * (run["data_wait_share"] or 0.0), "%")
        bench.add(f"{name}: peak memory", float(run["peak_memory_gib"]), "GiB")
        if name == "quickstart":
            bench.add("quickstart: test accuracy", float(run["test"]["test/acc"]))


def small(bench: Bench) -> list[str]:
    return ["model.image_size=32", "model.resize_size=36", "data.batch_size=8"] if bench.quick else []


def cifar(bench: Bench) -> None:
    """Epochs of ResNet-18 on images that lie on the device, with crops and flips, against a plain loop."""
    images, batch, epochs = (600, 100, 2) if bench.quick else (50_000, 512, 4)
    pixels, labels = write_cifar(bench.folder / "data", images)
    run = cnnlab.train(
        bench.overrides(
            "cifar",
            *("data=cifar10", f"paths.data_dir={bench.folder / 'data'}", "data.val_fraction=0.02"),
            *("model=resnet18", "model.weights=null", "model.image_size=32", "model.resize_size=32"),
            *("augmentation=[random_crop,horizontal_flip]", "speed=fast"),
            *(f"data.batch_size={batch}", f"trainer.max_epochs={epochs}"),
        )
    )
    ours = float(run["images_per_second"])
    precision = torch.bfloat16 if run["speed"]["precision"] == "bf16-mixed" else None
    loop = plain_epochs(bench, pixels, labels, batch, precision, 1 if bench.quick else 2)
    bench.add("CIFAR-10, ResNet-18", ours, "img/s", f"{ours / loop:.2f} x plain loop on the device ({loop:.0f})")
    bench.add("CIFAR-10, ResNet-18, an epoch", images / ours, "s", f"{images / loop:.3g} s in the plain loop")


def plain_epochs(
    bench: Bench, pixels: Tensor, labels: Tensor, batch: int, precision: torch.dtype | None, epochs: int
) -> float:
    """Images per second of a loop over images on the device: random crop and flip of a batch, network, optimizer."""
    images = nn.functional.pad(pixels.to(bench.device), (4, 4, 4, 4))
    labels = labels.to(bench.device)
    network = torchvision.models.resnet18(num_classes=len(cifar10.CLASSES)).to(
        bench.device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    count, began = 0, 0.0
    for number in range(epochs + 1):
        if number == 1:  # the first epoch is not counted
            bench.synchronize()
            began = time.perf_counter()
        for chosen in torch.randperm(len(images), device=bench.device).split(batch):
            top, left = torch.randint(0, 9, (2,)).tolist()
            view = images[chosen, :, top : top + 32, left : left + 32]
            view = view.flip(3) if torch.rand(()) < 0.5 else view
            optimizer.zero_grad()
            with torch.autocast(bench.device.type, precision) if precision else nullcontext():
                loss = nn.functional.cross_entropy(network(view.float() / 255), labels[chosen])
            loss.backward()
            optimizer.step()
            count += len(chosen) if number else 0
    bench.synchronize()
    return count / (time.perf_counter() - began)


def exact(bench: Bench) -> None:
    """A run with speed=exact that is broken off and resumed ends with the weights of one that is not, bit for bit."""
    common = ["model=mobilenet_v2", "model.weights=null", *bench.pictures(), *small(bench), "speed=exact"]
    common += ["scheduler=none", "trainer.limit_train_batches=4"]
    straight = cnnlab.train(bench.overrides("straight", *common, "trainer.max_epochs=2"))
    parts = interrupted(bench.overrides("parts", *common, "trainer.max_epochs=2"), bench.folder / "runs" / "parts")
    program(bench.given, bench.folder / "logs", f"resume={parts}")
    left, right = (load_tensors(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (straight.folder, parts))
    different = [name for name in left if not torch.equal(left[name], right[name])]
    bench.add("speed=exact, resumed: tensors that differ", len(different), f"of {len(left)}", "0")
    if different:
        raise AssertionError(f"{different[0]} and {len(different) - 1} others differ after resuming")


def interrupted(overrides: list[str], folder: Path) -> Path:
    """The folder of a run that is broken off at the beginning of its second epoch, as by Ctrl-C."""
    begin = TaskModule.on_train_epoch_start

    def press(module: TaskModule) -> None:
        if module.current_epoch == 1:
            raise KeyboardInterrupt
        begin(module)

    with mock.patch.object(TaskModule, "on_train_epoch_start", press), suppress(KeyboardInterrupt):
        cnnlab.train(overrides)
    return folder


def frozen(bench: Bench) -> None:
    """No weight and no statistic of a frozen stage changes by a bit."""
    overrides = ["model=mobilenet_v2", "model.weights=null", *bench.pictures(), *small(bench), "freeze=features"]
    overrides = bench.overrides("bits", *overrides, "freeze.cache=off", "trainer.max_epochs=1", "speed=fast")
    cfg = compose(overrides)
    check(cfg)
    before = experiment.build(plain_config(cfg, bench.folder / "never")).module.network.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    run = cnnlab.train(overrides)
    after = load_tensors(run.folder / "best_weights.pth")
    stages = [name for name in before if name.startswith("features.")]
    different = [name for name in stages if not torch.equal(before[name], after[name])]
    trained = sum(not torch.equal(before[name], after[name]) for name in before if name not in stages)
    bench.add("frozen stages: tensors that differ", len(different), f"of {len(stages)}", "0")
    if different or not trained:
        raise AssertionError(f"changed: {different[:3]}; trained tensors: {trained}")


def loader(bench: Bench) -> None:
    """Images per second from files to the device, decoded and augmented in workers."""
    own = ["model=mobilenet_v2", "model.weights=null", *bench.pictures(), *small(bench)]
    own += ["augmentation=[random_resized_crop,flip]", "data.memory_gib=0", "data.record_cache=off"]
    cfg = compose(bench.overrides("loader", *own))
    check(cfg)
    data = experiment.build(plain_config(cfg, bench.folder / "never")).data
    seconds = 1.0 if bench.quick else 10.0
    images, began = 0, 0.0
    for number, (pixels, _) in enumerate(again(data.train_dataloader())):
        pixels.to(bench.device, non_blocking=True)
        if number == 2 * max(1, data.num_workers):  # what the workers had begun before is not counted
            bench.synchronize()
            images, began = 0, time.perf_counter()
            continue
        images += len(pixels)
        if began and time.perf_counter() - began > seconds:
            break
    bench.synchronize()
    speed = images / (time.perf_counter() - began)
    data.close()
    bench.add("loader, files to device", speed, "img/s", f"{data.num_workers} workers")


def again(batches: Any) -> Iterator[Any]:
    return itertools.chain.from_iterable(itertools.repeat(batches))


def one_device(bench: Bench) -> None:
    """DDP and FSDP, each with its own process group, on one device."""
    own = ["model=mobilenet_v2", "model.weights=null", *bench.pictures(), *small(bench)]
    own += ["freeze=none", "trainer.max_epochs=1", "trainer.limit_train_batches=10", "trainer.limit_val_batches=2"]
    for strategy in ["ddp", "fsdp"] if bench.device.type == "cuda" else ["ddp"]:
        overrides = [each for each in bench.overrides(strategy, *own) if not each.startswith("paths.root")]
        program(bench.given, bench.folder / "logs", *overrides, f"trainer.strategy={strategy}")
        record = json.loads((bench.folder / "runs" / strategy / "run.json").read_text())
        bench.add(f"{strategy} on one device", float(record["images_per_second"]), "img/s", record["status"])


# --- Data ---


def draw_pictures(root: Path, each: int) -> None:
    """Five classes of so many JPEG files of 320 x 240 pixels: a coarse pattern of its class, and noise."""
    rng = np.random.default_rng(0)
    for label in range(5):
        (root / f"class_{label}").mkdir(parents=True)
        pattern = rng.integers(0, 160, (6, 8, 3))
        for number in range(each):
            coarse = (pattern + rng.integers(0, 96, pattern.shape)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)
            picture.save(root / f"class_{label}" / f"{number:04d}.jpg", quality=90)


def write_cifar(root: Path, images: int) -> tuple[Tensor, Tensor]:
    """Noise in the files of CIFAR-10; returns the training images N x 3 x 32 x 32 and their labels."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (images, 1 + 3 * 32 * 32), dtype=np.uint8)
    records[:, 0] = np.arange(images) % len(cifar10.CLASSES)
    for number, part in enumerate(np.array_split(records, 5), start=1):
        part.tofile(folder / f"data_batch_{number}.bin")
    records[: images // 5].tofile(folder / "test_batch.bin")
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(records[:, 0].astype(np.int64))


if __name__ == "__main__":
    main()
