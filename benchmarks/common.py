"""What the benchmarks share: interleaved repetitions, ratios with their spread, the environment, tables and plots."""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from cnnlab.models.inputs import IMAGENET
from cnnlab.runs.folder import versions

PACKAGES = ("cnnlab", "torch", "torchvision", "lightning", "timm", "pillow", "simplejpeg", "numpy")
RESULTS = Path(__file__).parent / "results"
IMAGENET_MEAN, IMAGENET_STD = IMAGENET["mean"], IMAGENET["std"]


def arguments(description: str) -> argparse.ArgumentParser:
    """--quick, --json FILE and --data FOLDER, which every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less of everything: under three minutes, rough figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with flower_photos and weights")
    return parser


T = TypeVar("T", float, list[float])


def interleaved(variants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Every variant once, then every one again: what slows the machine down for a while hits all of them."""
    found: dict[str, list[T]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, measure in variants.items():
            value = measure()
            found[name].append(value)
            shown = " ".join(f"{part:.4g}" for part in (value if isinstance(value, list) else [value]))
            print(f"round {number + 1} of {rounds}: {name} {shown}", flush=True)
    return found


def apart(measure: Callable[[], T]) -> T:
    """What `measure` returns in a process of its own, so that no variant inherits the memory or threads of another."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(measure()))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        sys.exit("A measurement failed.")
    finally:
        process.join()


def each_apart(variants: Mapping[str, Callable[[], T]]) -> dict[str, Callable[[], T]]:
    return {name: lambda measure=measure: apart(measure) for name, measure in variants.items()}


def program(given: argparse.Namespace, folder: Path, *overrides: str) -> float:
    """Seconds of `train.py` from its start to its end; runs, cache and all that it prints (log.txt) go to `folder`."""
    train = str(Path(__file__).parents[1] / "train.py")
    command = [sys.executable, train, f"paths.data_dir={given.data.absolute()}", f"paths.root={folder}", *overrides]
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        if subprocess.run(command, cwd=folder, stdout=log, stderr=log).returncode:
            sys.exit(f"{' '.join(command)} failed: see {log.name}")
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio(larger: Sequence[float], smaller: Sequence[float]) -> dict[str, float]:
    """Median, least and largest of the quotients of one round each."""
    return spread([a / b for a, b in zip(larger, smaller, strict=True)])


def report(name: str, given: argparse.Namespace, values: Mapping[str, Any], ratios: Mapping[str, dict]) -> None:
    """Print the ratios and the environment; write all of it as JSON, and the ratios as a picture beside it."""
    result = {"benchmark": name, "quick": given.quick, "environment": environment(), "values": values, "ratios": ratios}
    rows = [
        [title, *(f"{entry[key]:.3g}" for key in ("median", "min", "max")), entry["n"]]
        for title, entry in ratios.items()
    ]
    print(f"\n{hardware()}\n\n{table(['ratio', 'median', 'min', 'max', 'n'], rows)}")
    path = given.json or (None if given.quick else RESULTS / f"{name}.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        plot(path.with_suffix(".png"), name, ratios)


def environment() -> dict[str, Any]:
    import torch

    return {
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
    }


def hardware() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{cpu}, {os.cpu_count()} cores"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(path: Path, name: str, ratios: Mapping[str, dict]) -> None:
    """Every ratio as a bar from 0, with a line from its least to its largest value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.5 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    middle = [entry["median"] for entry in ratios.values()]
    below = [entry["median"] - entry["min"] for entry in ratios.values()]
    above = [entry["max"] - entry["median"] for entry in ratios.values()]
    axes.barh(list(ratios), middle, xerr=[below, above], capsize=3, color="#4878a8")
    axes.bar_label(axes.containers[-1], fmt="%.2f", label_type="center", color="white")
    axes.axvline(1, color="grey", linestyle=":")
    axes.invert_yaxis()
    axes.set_title(f"{name}: {hardware()}", fontsize=9)
    figure.savefig(path, dpi=120)
