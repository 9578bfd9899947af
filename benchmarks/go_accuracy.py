"""How often AlphaGo's small policy network names the move that was played, by the number of its planes.

    python benchmarks/go_accuracy.py data.root=FOLDER [trainer.max_epochs=N ...]

trains `experiment=alphago_sl_fast` on 150,000 positions (three epochs) with the first 4, 12, 20 and all 48 planes, as
Extended Data Table 3 of Silver et al. 2016 compares them, scores each on games held out, and writes
results/go_accuracy.json. What has finished in outputs/benchmark_go is not run again; all of it takes about 40 minutes
on one core.
"""

import json
import subprocess
import sys
from pathlib import Path

from accuracy import read
from common import RESULTS, hardware, table

RUNS = Path("outputs/benchmark_go")
FEATURES = (4, 12, 20, 48)


def main() -> None:
    rows = [measured(features, sys.argv[1:]) for features in FEATURES]
    versions = read(RUNS / f"features_{FEATURES[0]}" / "run.json")["versions"]
    result = {"hardware": hardware(), "versions": versions, "positions": 150000, "settings": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "go_accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
    shown = [[row["features"], *(f"{row[key]:.3f}" for key in ("acc", "acc_top5", "loss", "acc_8"))] for row in rows]
    print(f"{hardware()}\n\n{table(['planes', 'top-1', 'top-5', 'loss', 'top-1, 8 symmetries'], shown)}")


def measured(features: int, given: list[str]) -> dict:
    run = RUNS / f"features_{features}"
    if read(run / "run.json").get("status") != "finished":
        train = ["train.py", "experiment=alphago_sl_fast", "trainer.max_epochs=3", f"data.features={features}"]
        subprocess.run([sys.executable, *train, *given, f"paths.output_dir={run}"], check=True)
    if not read(run / "report" / "metrics.json"):
        subprocess.run([sys.executable, "-m", "cnnlab", "evaluate", f"run={run}"], check=True)
    found = read(run / "report" / "metrics.json")
    record = read(run / "run.json")
    return {
        "features": features,
        **{key: found[key] for key in ("n", "games", "acc", "acc_interval_95", "acc_top5", "loss", "by_phase")},
        "acc_8": found["symmetries_8"]["acc"],
        "acc_8_interval_95": found["symmetries_8"]["acc_interval_95"],
        "minutes": record["wall_seconds"] / 60,
    }


if __name__ == "__main__":
    main()
