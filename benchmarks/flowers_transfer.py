"""Transfer learning on flowers: accuracy with its interval, time and memory of each setting that the README shows.

    python benchmarks/flowers_transfer.py [paths.data_dir=FOLDER ...]     runs every setting that has not finished yet
                                                                          (about an hour on two cores), then the table

Runs are kept in outputs/benchmark_flowers; the table and results/flowers_transfer.json are made from their run.json.
"""

import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from statistics import mean

from scipy.stats import binomtest

HERE = Path(__file__).parent
RUNS = Path("outputs/benchmark_flowers")
SETTINGS = {
    **{f"frozen_{seed}": ["experiment=flowers_frozen", f"data.split_seed={seed}"] for seed in (0, 1, 2)},
    "fine_tune": ["experiment=flowers_fine_tune"],
    "vgg16": ["experiment=flowers_vgg16"],
}


def main() -> None:
    for name, overrides in SETTINGS.items():
        if not finished(RUNS / name):
            command = [sys.executable, "train.py", *overrides, *sys.argv[1:], f"paths.output_dir={RUNS / name}"]
            subprocess.run(command, check=True)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
            (RUNS / name / "peak_gib.json").write_text(json.dumps(round(peak, 2)))
    rows = [row(name) for name in SETTINGS]
    frozen = [entry for entry in rows if entry["setting"].startswith("frozen")]
    summary = {f"frozen_mean_{key}": round(mean(entry[key] for entry in frozen), 4) for key in ("best", "last")}
    result = {"hardware": hardware(), "versions": record("frozen_0")["versions"], **summary, "runs": rows}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "flowers_transfer.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        table(rows),
        f"\nfrozen, mean of three splits: best {summary['frozen_mean_best']}, last {summary['frozen_mean_last']}",
    )


def finished(folder: Path) -> bool:
    return (folder / "run.json").is_file() and json.loads((folder / "run.json").read_text())["status"] == "finished"


def record(name: str) -> dict:
    return json.loads((RUNS / name / "run.json").read_text())


def row(name: str) -> dict:
    run = record(name)
    count = run["images"]["val"]
    best, last = run["best"]["val/acc"], run["last"]["val/acc"]
    peak = RUNS / name / "peak_gib.json"
    return {
        "setting": name,
        "best": round(best, 4),
        "best_interval_95": interval(best, count),
        "best_epoch": run["best"]["epoch"],
        "last": round(last, 4),
        "last_interval_95": interval(last, count),
        "n": count,
        "images_per_second": run["images_per_second"],
        "wall_seconds": run["wall_seconds"],
        "peak_gib": json.loads(peak.read_text()) if peak.is_file() else None,
    }


def interval(accuracy: float, count: int) -> list[float]:
    ci = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    return [round(ci.low, 3), round(ci.high, 3)]


def hardware() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{cpu}, {os.cpu_count()} cores"


def table(rows: list[dict]) -> str:
    head = (
        "| setting | best val/acc (95 %) | last val/acc (95 %) | training img/s | minutes | peak GiB |\n"
        + "|---" * 6
        + "|"
    )
    lines = [
        f"| {r['setting']} | {r['best']:.4f} ({r['best_interval_95'][0]:.3f}-{r['best_interval_95'][1]:.3f}) "
        f"| {r['last']:.4f} ({r['last_interval_95'][0]:.3f}-{r['last_interval_95'][1]:.3f}) "
        f"| {r['images_per_second']:.0f} | {r['wall_seconds'] / 60:.1f} | {r['peak_gib'] or '-'} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
