"""Show that a change left training alone: losses, metrics and weights of ten runs, bit for bit.

    python tests/equivalence.py record before.json     # on the commit before the change
    python tests/equivalence.py compare before.json    # after it, on the same machine

Hashes differ from one kind of CPU to the next, so none are stored in the repository. Needs ../shared/data.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
EVERY_STEP = ("trainer.log_every_n_steps=1", "callbacks=none", "speed.num_threads=1", "data.num_workers=0")
DIGITS = ("model=lenet5", "data=digits", "trainer=cpu", "data.train_fraction=0.3", *EVERY_STEP)
FLOWERS = (
    *("data=flowers", "data.images_per_class=40", "data.batch_size=16", "trainer=cpu"),
    *("model=mobilenet_v2", "model.image_size=96", "model.resize_size=110"),
    *(f"paths.data_dir={DATA}", f"model.weights={DATA}/weights/mobilenet_v2_features.pth"),
    *EVERY_STEP,
)
RUNS: dict[str, tuple[str, ...]] = {
    "quickstart": ("experiment=quickstart", "trainer.max_epochs=3", *EVERY_STEP[:1], "data.num_workers=0"),
    "frozen_cached": (*FLOWERS, "freeze=features", "freeze.cache=on", "trainer.max_epochs=6"),
    "frozen_computed": (*FLOWERS, "freeze=features", "freeze.cache=off", "trainer.max_epochs=2"),
    "fine_tune_ema": (*FLOWERS, "freeze=gradual", "regularization=[ema,weight_decay]", "trainer.max_epochs=3"),
    "l1_proximal": (*DIGITS, "regularization=[l1,max_norm]", "regularization.l1.mode=proximal", "optimizer=sgd"),
    "mixup_smoothing": (*DIGITS, "augmentation=[rotate,mixup]", "regularization=[label_smoothing,dropout,l2]"),
    "go": (
        *("data=go", "model=alphago_policy", "data.features=4", "model.network.k=16", "model.network.layers=3"),
        *(f"data.root={DATA}/go/tygem_9d_2016_07/00.sgf", "data.positions_per_epoch=2000", "data.max_games=60"),
        *("trainer=cpu", "trainer.max_epochs=2", *EVERY_STEP),
    ),
    "polynomial": ("experiment=course_polynomial", "trainer.max_epochs=100", "callbacks=none"),
    "two_processes": (*DIGITS, "trainer=ddp_cpu", "trainer.max_epochs=2"),
    "resumed": (*DIGITS, "regularization=[dropout,adversarial]", "checkpoint.every_n_steps=3", "trainer.max_epochs=3"),
}


def measure(name: str, overrides: tuple[str, ...], folder: Path) -> dict:
    """Run one configuration into `folder`; return its metrics as hexadecimal floats and a hash of its weights."""
    command = [sys.executable, "train.py", *overrides, f"paths.output_dir={folder}", f"paths.cache_dir={folder}-cache"]
    with (folder.parent / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        if name == "resumed":
            while not (folder / "checkpoints" / "last.ckpt").is_file() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            command = [sys.executable, "train.py", f"resume={folder}"]
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        if process.wait():
            sys.exit(f"{name} failed: see {log.name}")
    with (folder / "metrics.csv").open() as file:
        rows = [{key: float(value).hex() for key, value in row.items() if value} for row in csv.DictReader(file)]
    digest = hashlib.sha256()
    for key, value in sorted(torch.load(folder / "best_weights.pth", weights_only=True).items()):
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return {"metrics": rows, "weights": digest.hexdigest()}


def differences(before: dict, after: dict) -> tuple[int, list[str]]:
    """How many values both sides have, and a line for each that differs or is missing."""
    equal, found = 0, []
    if before["weights"] != after["weights"]:
        found.append("weights differ")
    if len(before["metrics"]) != len(after["metrics"]):
        found.append(f"{len(before['metrics'])} rows of metrics, then {len(after['metrics'])}")
    for number, (old, new) in enumerate(zip(before["metrics"], after["metrics"], strict=False)):
        for key, value in old.items():
            if key not in new:
                found.append(f"row {number}: {key} is missing")
            elif new[key] != value:
                found.append(f"row {number}: {key} {float.fromhex(value)!r} -> {float.fromhex(new[key])!r}")
            else:
                equal += 1
    return equal, found


def main() -> None:
    action, path = sys.argv[1], Path(sys.argv[2])
    wanted = sys.argv[3:] or list(RUNS)
    known = json.loads(path.read_text()) if path.is_file() else {}
    scratch = Path(tempfile.mkdtemp(prefix="equivalence-"))
    os.environ["PYTHONPATH"] = str(REPOSITORY / "src")
    differs = False
    for name in wanted:
        found = measure(name, RUNS[name], scratch / name)
        if action == "record":
            known[name] = found
            path.write_text(json.dumps(known))
            print(f"{name}: {len(found['metrics'])} rows, weights {found['weights'][:16]}", flush=True)
            continue
        equal, lines = differences(known[name], found)
        differs |= bool(lines)
        shown = "".join(f"\n    {line}" for line in lines[:10]) + (f"\n    ... {len(lines)}" if len(lines) > 10 else "")
        print(f"{name}: {equal} values equal to the bit, weights {found['weights'][:16]}{shown}", flush=True)
    shutil.rmtree(scratch)
    sys.exit(differs)


if __name__ == "__main__":
    main()
