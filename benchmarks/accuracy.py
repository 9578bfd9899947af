"""Accuracy with its interval, time and memory of every setting that the README shows.

    python benchmarks/accuracy.py [paths.data_dir=FOLDER ...]

runs what has not finished yet (about an hour on two cores; the flowers and the 1,000 ImageNet samples of
`<data_dir>/imagenet_samples` must be there), then prints the table and writes results/accuracy.json. The runs are kept
in outputs/benchmark_accuracy.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

from common import hardware
from common import table as markdown
from scipy.stats import binomtest

HERE = Path(__file__).parent
RUNS = Path("outputs/benchmark_accuracy")
TRAINED = {
    **{f"quickstart_{seed}": ["experiment=quickstart", f"seed={seed}"] for seed in (0, 1, 2)},
    **{f"flowers_frozen_{split}": ["experiment=flowers_frozen", f"data.split_seed={split}"] for split in (0, 1, 2)},
    "flowers_fine_tune": ["experiment=flowers_fine_tune"],
    "flowers_vgg16": ["experiment=flowers_vgg16"],
}
SAMPLES = "squeezenet1_1_imagenet_samples"
EVALUATED = [
    "model=squeezenet1_1",
    "model.weights=IMAGENET1K_V1",
    "data=imagenet_subset",
    "data.root=${paths.data_dir}/imagenet_samples",
]
HEAD = ["setting", "accuracy (95 %)", "last epoch's", "images", "training img/s", "minutes", "peak GiB"]


def main() -> None:
    given = sys.argv[1:]
    for name, overrides in TRAINED.items():
        if read(RUNS / name / "run.json").get("status") != "finished":
            measure(RUNS / name, [sys.executable, "train.py", *overrides, *given, f"paths.output_dir={RUNS / name}"])
    if not read(RUNS / SAMPLES / "report" / "metrics.json"):
        command = [sys.executable, "-m", "cnnlab", "evaluate", *EVALUATED, *given]
        measure(RUNS / SAMPLES, [*command, f"paths.output_dir={RUNS / SAMPLES}"])
    rows = [trained(name) for name in TRAINED] + [evaluated()]
    means = [mean_of(family, rows) for family in ("quickstart", "flowers_frozen")]
    versions = read(RUNS / "flowers_frozen_0" / "run.json")["versions"]
    result = {"hardware": hardware(), "versions": versions, "means": means, "settings": rows}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{hardware()}\n\n{table([*rows, *means])}")


def measure(folder: Path, command: list[str]) -> None:
    """Run `command` and note the peak memory of its main process."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed.")
    (folder / "peak_gib.json").write_text(json.dumps(round(usage.ru_maxrss / 1024**2, 2)))


def trained(name: str) -> dict:
    """The best epoch's accuracy on the test images if there are any, else on the validation images."""
    run = read(RUNS / name / "run.json")
    part = "test" if run["test"] else "val"
    count = run["images"][part]
    accuracy = run["test"]["test/acc"] if run["test"] else run["best"]["val/acc"]
    row = {"setting": name, "part": part, "accuracy": round(accuracy, 4), "interval_95": interval(accuracy, count)}
    if part == "val":
        last = run["last"]["val/acc"]
        row |= {"last": round(last, 4), "last_interval_95": interval(last, count)}
    peak = read(RUNS / name / "peak_gib.json") or None
    speed = {"images_per_second": run["images_per_second"], "minutes": round(run["wall_seconds"] / 60, 1)}
    return {**row, "images": count, **speed, "peak_gib": peak}


def evaluated() -> dict:
    scores = read(RUNS / SAMPLES / "report" / "metrics.json")
    names = {"accuracy": scores["acc"], "interval_95": interval(scores["acc"], scores["n"]), "images": scores["n"]}
    return {"setting": SAMPLES, "part": "all", **names, "top5": scores["acc_top5"]}


def mean_of(family: str, rows: list[dict]) -> dict:
    """The mean over seeds or splits, with the interval of all their images together."""
    members = [row for row in rows if row["setting"].startswith(family) and row["setting"][-1].isdigit()]
    images = sum(row["images"] for row in members)
    found = {"setting": f"{family}, mean of {len(members)}", "images": images}
    for key in ("accuracy", "last"):
        if key in members[0]:
            value = mean(row[key] for row in members)
            bounds = "interval_95" if key == "accuracy" else f"{key}_interval_95"
            found |= {key: round(value, 4), bounds: interval(value, images)}
    return found


def interval(accuracy: float, count: int) -> list[float]:
    """95 % Wilson interval."""
    ci = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    return [round(ci.low, 3), round(ci.high, 3)]


def table(rows: list[dict]) -> str:
    def score(row: dict, key: str, bounds: str) -> str:
        return f"{row[key]:.4f} ({row[bounds][0]:.3f}-{row[bounds][1]:.3f})" if key in row else ""

    cells = [
        [
            row["setting"],
            score(row, "accuracy", "interval_95"),
            score(row, "last", "last_interval_95"),
            *(str(row.get(key) or "") for key in ("images", "images_per_second", "minutes", "peak_gib")),
        ]
        for row in rows
    ]
    return markdown(HEAD, cells)


def read(path: Path):
    return json.loads(path.read_text()) if path.is_file() else {}


if __name__ == "__main__":
    main()
