"""Seconds until a run begins, beyond importing torch and Lightning; memory of a run with its workers.

    python benchmarks/startup.py --data FOLDER [--quick] [--json FILE]

CPU time (user and system) of whole processes, which other programs on the machine change little:
  bare         python -c "import torch, lightning"
  cnnlab       python -c "import cnnlab"
  quickstart   python train.py experiment=quickstart, ended behind its first optimizer step
  python       python -c "pass"
and the largest sum of the PSS (memory, with what processes share counted once) of a two-epoch run of MobileNetV2 on
flowers with frozen features and of its workers, from empty caches, read four times a second. --quick takes 40 images of
each class.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, interleaved, ratio, report, spread

TRAIN = Path(__file__).parents[1] / "train.py"
TO_FIRST_STEP = f"""
import os, runpy, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""
POLL_SECONDS = 0.25
GIB = 1 << 30


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        measured: dict[str, Callable[[], float]] = {
            "python": lambda: cpu_seconds("pass"),
            "cnnlab": lambda: cpu_seconds("import cnnlab"),
            "bare": lambda: cpu_seconds("import torch, lightning"),
            "quickstart": lambda: cpu_seconds(TO_FIRST_STEP, "experiment=quickstart", f"paths.root={runs}"),
        }
        for measure in measured.values():  # byte code and files are in memory after that
            measure()
        seconds = interleaved(measured, rounds=3 if given.quick else 7)
        peaks = [peak_memory(given, Path(folder) / "flowers") / GIB]
    ratios = {
        "import cnnlab, s": spread(difference(seconds["cnnlab"], seconds["python"])),
        "quickstart to first step - bare import, s": spread(difference(seconds["quickstart"], seconds["bare"])),
        "quickstart to first step / bare import": ratio(seconds["quickstart"], seconds["bare"]),
        "peak memory of flowers, workers included, GiB": spread(peaks),
    }
    values: dict[str, Any] = {"cpu_seconds": seconds, "peak_gib": peaks}
    report("startup", given, values, ratios)


def difference(larger: list[float], smaller: list[float]) -> list[float]:
    return [a - b for a, b in zip(larger, smaller, strict=True)]


def cpu_seconds(program: str, *words: str) -> float:
    """Of a Python process and its children, to its end."""
    before = os.times()
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def peak_memory(given: argparse.Namespace, folder: Path) -> float:
    """Bytes of the run and its workers together, at their most."""
    words = ["model=mobilenet_v2", "freeze=features", "trainer.max_epochs=2", "callbacks.progress=null"]
    words += [f"paths.{name}={folder / name}" for name in ("root", "cache_dir")]
    words.append(f"paths.data_dir={given.data.absolute()}")
    words += ["data.images_per_class=40", "data.num_workers=2"] if given.quick else []
    run = subprocess.Popen([sys.executable, str(TRAIN), *words], stdout=subprocess.DEVNULL)
    most = 0
    while run.poll() is None:
        most = max(most, sum(map(pss, [run.pid, *descendants(run.pid)])))
        time.sleep(POLL_SECONDS)
    if run.returncode:
        raise SystemExit(f"train.py {' '.join(words)} ended with {run.returncode}")
    return most


def descendants(process: int) -> list[int]:
    """The processes that a process and its children have started."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return []
    return children + [found for child in children for found in descendants(child)]


def pss(process: int) -> int:
    """Bytes of a process, of what it shares its share; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
