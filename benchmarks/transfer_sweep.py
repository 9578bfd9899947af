"""One transfer-learning run, and a sweep of twelve, against the course's own script.

    python benchmarks/transfer_sweep.py --data FOLDER [--quick] [--json FILE] [--accuracy]

Ten epochs of MobileNetV2 with frozen features on the flowers. Ours is the program as a user starts it, start-up and
filling an empty cache included. The course's script is a plain loop (batch 8, ImageFolder, float32, two workers,
features recomputed in every epoch); two of its epochs are timed and taken times five, a sweep of it times twelve more.
--accuracy instead trains both to the end with three seeds (most of an hour), and compares the best validation
accuracies on the same images of three splits; what a seed came to is kept in outputs/transfer_accuracy until all are
done, so that a benchmark that was interrupted goes on. --quick then takes two epochs and one seed, and keeps nothing.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from common import IMAGENET_MEAN, IMAGENET_STD, arguments, interleaved, program, ratio, report, spread
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

EPOCHS = 10
SETTINGS = [
    "optimizer.lr=0.0005,0.001,0.003",
    "regularization=none,[weight_decay],[label_smoothing],[weight_decay,label_smoothing]",
]
"""Twelve."""
VIEWS = {"one view": ["augmentation=none"], "four views": ["freeze.cache_views=4"]}
KEPT = Path("outputs/transfer_accuracy")
"""What an interrupted comparison of accuracies has come to."""
QUICK = 20
"""Images of each class with --quick."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--accuracy", action="store_true", help="compare accuracies instead of times")
    given = parser.parse_args()
    given.data = given.data.absolute()
    work = KEPT if given.accuracy and not given.quick else Path(tempfile.mkdtemp(prefix="transfer_sweep_"))
    print(f"runs and caches: {work}")
    course = Course(given.data, QUICK if given.quick else None)
    if given.accuracy:
        compare_accuracies(given, course, work)
    else:
        compare_times(given, course, work)


def compare_times(given, course: "Course", work: Path) -> None:
    course_epochs = 1 if given.quick else 2
    runs = 0

    def ours(*overrides: str) -> float:
        nonlocal runs
        runs += 1
        return seconds_of(given, work / str(runs), *overrides)

    variants = {"course, an epoch": lambda: course.train(course_epochs) / course_epochs}
    for name, overrides in VIEWS.items():
        variants[f"run, {name}"] = lambda overrides=overrides: ours(*overrides)
    if not given.quick:
        for name, overrides in VIEWS.items():
            variants[f"sweep, {name}"] = lambda overrides=overrides: ours("-m", *SETTINGS, *overrides)
    seconds = interleaved(variants, rounds=1 if given.quick else 2)
    epoch = seconds["course, an epoch"]
    times = {"run": EPOCHS, "sweep": 12 * EPOCHS}
    ratios = {
        f"course / {name}": ratio([value * times[name.split(",")[0]] for value in epoch], seconds[name])
        for name in variants
        if not name.startswith("course")
    }
    report("transfer_sweep", given, {"seconds": seconds}, ratios)


def compare_accuracies(given, course: "Course", work: Path) -> None:
    """Seed and split are both 0, 1, 2; one view and four, and the course's script, on the same validation images."""
    seeds = []
    for seed in range(1 if given.quick else 3):
        kept = work / f"seed_{seed}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(accuracies(given, course, work.absolute(), seed)))
        seeds.append(json.loads(kept.read_text()))
        print(f"seed {seed}: {', '.join(f'{name} {value:.4f}' for name, value in seeds[-1].items())}", flush=True)
    ratios = {
        f"accuracy, {name} - course": spread([found[name] - found["course"] for found in seeds]) for name in VIEWS
    }
    report("transfer_accuracy", given, {"best validation accuracy": seeds}, ratios)
    shutil.rmtree(work)


def accuracies(given, course: "Course", work: Path, seed: int) -> dict[str, float]:
    """The best validation accuracy of each number of views, and of the course's script."""
    found = {}
    epochs = 2 if given.quick else EPOCHS
    for name, overrides in VIEWS.items():
        folder = work / f"{name.replace(' ', '_')}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        seconds_of(given, folder, *overrides, f"data.split_seed={seed}", f"seed={seed}", f"trainer.max_epochs={epochs}")
        run = next(folder.rglob("run.json"))
        found[name] = json.loads(run.read_text())["best"]["val/acc"]
    names = set((run.parent / "splits" / "val.txt").read_text().splitlines())
    paths = (Path(path) for path, _ in course.val_set.samples)
    validated = [i for i, path in enumerate(paths) if f"{path.parent.name}/{path.name}" in names]
    return found | {"course": course.best_accuracy(seed, validated, epochs)}


def seconds_of(given, folder: Path, *overrides: str) -> float:
    """The program, from its start to its end, with a cache of its own."""
    return program(
        given,
        folder,
        *("model=mobilenet_v2", "data=flowers", "freeze=features", "speed=fast", "trainer=cpu"),
        *(f"trainer.max_epochs={EPOCHS}", "data.batch_size=64", f"paths.cache_dir={folder / 'cache'}"),
        *([f"data.images_per_class={QUICK}"] if given.quick else []),
        *overrides,
    )


class Course:
    """The course's script: Adam, batch 8, the features frozen by requires_grad alone."""

    def __init__(self, data: Path, images_per_class: int | None) -> None:
        normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
        train = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        evaluation = [transforms.Resize(256), transforms.CenterCrop(224)]
        self.train_set, self.val_set = (
            datasets.ImageFolder(
                str(data / "flower_photos"), transforms.Compose([*steps, transforms.ToTensor(), normalize])
            )
            for steps in (train, evaluation)
        )
        self.weights = find_weights(data)
        labels = torch.tensor(self.train_set.targets)
        self.indices = [
            index
            for label in range(5)
            for index in torch.nonzero(labels == label).flatten()[:images_per_class].tolist()
        ]

    def train(self, epochs: int) -> float:
        """Seconds for `epochs` over all images: the training part of the script on the whole data set."""
        network, optimizer = self.network(seed=0)
        loader = DataLoader(Subset(self.train_set, self.indices), batch_size=8, shuffle=True, num_workers=2)
        began = time.perf_counter()
        for _ in range(epochs):
            self.epoch(network, optimizer, loader)
        return time.perf_counter() - began

    def best_accuracy(self, seed: int, validated: list[int], epochs: int) -> float:
        """The best of so many epochs on `validated`, trained on all other images."""
        network, optimizer = self.network(seed)
        rest = sorted(set(self.indices) - set(validated))
        loader = DataLoader(Subset(self.train_set, rest), batch_size=8, shuffle=True, num_workers=2)
        evaluated = DataLoader(Subset(self.val_set, validated), batch_size=8, num_workers=2)
        best = 0.0
        for _ in range(epochs):
            self.epoch(network, optimizer, loader)
            network.eval()
            with torch.no_grad():
                right = sum((network(images).argmax(1) == labels).sum().item() for images, labels in evaluated)
            best = max(best, right / len(validated))
        return best

    def network(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        network = torchvision.models.mobilenet_v2(num_classes=5)
        state = torch.load(self.weights, map_location="cpu", weights_only=True)
        network.load_state_dict({k: v for k, v in state.items() if k.startswith("features.")}, strict=False)
        for parameter in network.features.parameters():
            parameter.requires_grad = False
        return network, torch.optim.Adam(network.classifier.parameters(), lr=1e-4)

    @staticmethod
    def epoch(network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
        loss_function = nn.CrossEntropyLoss()
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_function(network(images), labels)
            loss.backward()
            optimizer.step()


def find_weights(data: Path) -> Path:
    return next((data / "weights").glob("mobilenet_v2*.pth"))


if __name__ == "__main__":
    main()
