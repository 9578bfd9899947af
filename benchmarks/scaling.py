"""How the cost grows with the number of images, classes, jobs of a sweep, and processes.

    python benchmarks/scaling.py --data FOLDER [--quick] [--json FILE]

All with MobileNetV2 on the flowers. Images, classes and jobs: ten epochs with frozen features, in seconds from the
start of the program to its end, first with an empty cache; the classes share 1,200 images, the jobs are seeds that
share one cache. Processes: the whole network in one process, then in two that talk by gloo, one thread each, in
images per second.
"""

import json
import shutil
import tempfile
from pathlib import Path

from common import arguments, interleaved, program, ratio, report

FROZEN = ["model=mobilenet_v2", "freeze=features", "augmentation=none", "speed=fast", "trainer=cpu"]
WHOLE = ["model=mobilenet_v2", "freeze=none", "augmentation=none", "speed=fast", "speed.num_threads=1"]
FLOWERS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]


def main() -> None:
    given = arguments(__doc__.splitlines()[0]).parse_args()
    work = Path(tempfile.mkdtemp(prefix="scaling_"))
    total, epochs = (120, 2) if given.quick else (1200, 10)
    fractions = (0.5, 1.0) if given.quick else (0.25, 0.5, 1.0)
    counts = (2, 4) if given.quick else (2, 3, 4)
    jobs = (1, 2) if given.quick else (1, 2, 4, 8)
    few = [f"data.images_per_class={total // 5}"] if given.quick else []

    def empty(*overrides: str) -> float:
        shutil.rmtree(work / "empty", ignore_errors=True)
        return program(given, work / "empty", *FROZEN, f"trainer.max_epochs={epochs}", *overrides)

    def sweep(size: int) -> float:
        seeds = "seed=" + ",".join(map(str, range(size)))
        shutil.rmtree(work / "sweep", ignore_errors=True)
        shared = [f"paths.cache_dir={work / 'kept'}", f"sweep.dir={work / 'sweep' / 'jobs'}"]
        return program(given, work / "sweep", "-m", *FROZEN, f"trainer.max_epochs={epochs}", seeds, *few, *shared)

    def speed(trainer: str) -> float:
        shutil.rmtree(work / "whole", ignore_errors=True)
        images = f"data.images_per_class={total // 5}"
        program(given, work / "whole", *WHOLE, trainer, images, "trainer.max_epochs=1", "data.num_workers=0")
        return json.loads(next((work / "whole").rglob("run.json")).read_text())["images_per_second"]

    sweep(1)  # the features of the sweeps are kept by then
    measured = {
        **{f"images x {f:g}": lambda f=f: empty(f"data.train_fraction={f}", *few) for f in fractions},
        **{
            f"{n} classes": lambda n=n: empty(
                f"data.classes=[{','.join(FLOWERS[:n])}]", f"data.images_per_class={total // n}"
            )
            for n in counts
        },
        **{f"{n} jobs": lambda n=n: sweep(n) for n in jobs},
        "1 process": lambda: speed("trainer=cpu"),
        "2 processes": lambda: speed("trainer=ddp_cpu"),
    }
    values = interleaved(measured, rounds=1 if given.quick else 2)
    shutil.rmtree(work)
    groups = [
        *([f"images x {f:g}" for f in fractions], [f"{n} classes" for n in counts], [f"{n} jobs" for n in jobs]),
        ["1 process", "2 processes"],
    ]
    ratios = {f"{name} / {group[0]}": ratio(values[name], values[group[0]]) for group in groups for name in group[1:]}
    report("scaling", given, {"seconds, of processes images per second": values}, ratios)


if __name__ == "__main__":
    main()
