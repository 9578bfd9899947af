"""`cnnlab evaluate`: score a run on its own data, or pretrained weights on any data set, and write a report."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from omegaconf import MISSING

from cnnlab.api import engine_for, evaluate, load_run
from cnnlab.config import check, compose, plain_config, quote_path, trusted_prefixes
from cnnlab.config.options import parse_options
from cnnlab.config.overrides import assignments
from cnnlab.errors import InputError
from cnnlab.experiment import build_task
from cnnlab.runs.naming import claim, run_name
from cnnlab.tasks.base import Evaluation


@dataclass
class Options:
    """Score a run's best network on its test data, or on its validation data if it has none; write RUN/report/.

    data.KEY=... and paths.KEY=... say where the data are now. The task adds keys of its own: data=go has
    symmetries=1|8 and positions=N. Without run=, model=... model.weights=... data=... scores pretrained weights on a
    whole data set.

    Example:
    cnnlab evaluate run=outputs/quickstart/lenet5
    cnnlab evaluate run=outputs/flowers/mobilenet_v2-features split=train data.root=photos
    cnnlab evaluate model=squeezenet1_1 model.weights=IMAGENET1K_V1 data=imagenet_subset data.root=imagenet/val

    run: run folder.
    split: train, val or test.
    engine: what computes the network: torch, onnxruntime, openvino, or auto for the fastest; null: as the run's
    speed.engine, or torch for scores that are in run.json, so that they agree in every digit.
    trusted_packages: your own packages that define the network.
    """

    run: str = MISSING
    split: str | None = None
    engine: str | None = None
    trusted_packages: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    given = assignments(arguments, "cnnlab evaluate")
    if "run" in given:
        evaluation, folder = evaluate_run(arguments), Path(given["run"])
    elif "model" in given:
        evaluation, folder = evaluate_pretrained(arguments)
    else:
        raise InputError("cnnlab evaluate needs run=FOLDER, or model=... model.weights=... data=...")
    print(evaluation.summary())
    print(f"Report: {folder / 'report' / 'report.html'}")


def evaluate_run(arguments: Sequence[str]) -> Evaluation:
    """Score the run that the arguments name."""
    given = assignments(arguments, "cnnlab evaluate")
    changes = {key: value for key, value in given.items() if key.split(".")[0] in ("data", "paths")}
    own = {each.name for each in fields(Options)}
    cfg = parse_options([f"{key}={value}" for key, value in given.items() if key in own], Options, "evaluate")
    task = load_run(cfg.run, cfg.trusted_packages).task
    others = [f"{key}={value}" for key, value in given.items() if key not in own and key not in changes]
    options = parse_options(others, task.evaluate_options, "evaluate", [*own, "data.root", "paths.data_dir"])
    return evaluate(cfg.run, cfg.split, changes, cfg.trusted_packages, cfg.engine, **vars(options))


def evaluate_pretrained(arguments: Sequence[str]) -> tuple[Evaluation, Path]:
    """Score pretrained weights on all examples of a data set; return the scores and the folder of the report."""
    if (other := assignments(arguments, "cnnlab evaluate").get("preprocessing", "weights")) != "weights":
        raise InputError(
            f"preprocessing={other}: pretrained weights are scored with the preprocessing that they were trained with. "
            "Leave it out, or set preprocessing.mean and preprocessing.std."
        )
    composed = compose([quote_path(override) for override in arguments])
    check(composed)
    output = composed.paths.output_dir
    cfg = plain_config(composed, Path(output or "."))
    trusted = trusted_prefixes(cfg)
    task = build_task(cfg, trusted)
    found = task.pretrained(cfg, trusted)
    with engine_for(task, found.module, found.data, found.part, cfg, cfg["speed"]["engine"]):
        evaluation = task.evaluate(found.module, found.data, found.part, task.evaluate_options())
    model, data = cfg["model"]["name"], cfg["data"]["name"]
    folder = (
        Path(output) if output else claim(Path(cfg["paths"]["root"]) / "evaluate" / run_name([], f"{model}-{data}"))
    )
    evaluation.write(folder / "report", f"{model}: {len(found.part)} {found.data.examples.lower()} of {data}")
    return evaluation, folder
