"""The ablations that the README shows: initialization and regularization on digits, regularization on flowers.

    python benchmarks/ablations.py [paths.data_dir=FOLDER]

runs what has not finished yet of three sweeps (about eight minutes on two cores), compares each, and writes
results/ablations.json. The runs are kept in outputs/benchmark_ablations.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

from common import hardware
from common import table as markdown

HERE = Path(__file__).parent
RUNS = Path("outputs/benchmark_ablations")
SEEDS = "seed=0,1,2"
SWEEPS = {
    "init": ["experiment=quickstart", "callbacks=none", "init=zero,random,uniform,normal,orthogonal", SEEDS],
    "regularization": [
        "experiment=quickstart",
        "callbacks=none",
        "regularization=none,[l2],[dropout],[batch_norm],[l2,dropout]",
        SEEDS,
    ],
    "flowers": [
        "experiment=flowers_frozen",
        "callbacks=none",
        "regularization=none,[weight_decay],[label_smoothing],[dropout]",
        SEEDS,
    ],
}


def main() -> None:
    of_photos = {"flowers": sys.argv[1:]}
    rows = [row for name, given in SWEEPS.items() for row in ablation(name, [*given, *of_photos.get(name, [])])]
    seconds = {name: total_seconds(RUNS / name) for name in SWEEPS}
    result = {"hardware": hardware(), "seconds": seconds, "settings": rows}
    (HERE / "results" / "ablations.json").write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(["sweep", "setting", "n", "best val/acc", "95 %"], [list(row.values()) for row in rows]))


def ablation(name: str, overrides: list[str]) -> list[dict]:
    """One row for each setting of a sweep, best first."""
    folder = RUNS / name
    again = [f"sweep.dir={folder}", f"sweep.resume={str((folder / 'sweep.json').is_file()).lower()}"]
    subprocess.run([sys.executable, "train.py", "-m", *overrides, *again], check=True)
    subprocess.run([sys.executable, "-m", "cnnlab", "compare", str(folder)], check=True, stdout=subprocess.DEVNULL)
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        return [
            {
                "sweep": name,
                "setting": next(iter(row.values())),
                "n": row["n"],
                "mean": f"{float(row['best/val/acc_mean']):.4f}",
                "interval_95": "{:.4f}-{:.4f}".format(
                    float(row["best/val/acc_ci95_low"]), float(row["best/val/acc_ci95_high"])
                ),
            }
            for row in csv.DictReader(file)
        ]


def total_seconds(folder: Path) -> float:
    """Of all runs of a sweep together, without the start of the program."""
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    return round(sum(job["wall_seconds"] for job in jobs), 1)


if __name__ == "__main__":
    main()
