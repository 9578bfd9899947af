"""`cnnlab check`: a dry run that takes a few steps in memory, and estimates the time and memory of the run."""

import importlib.util
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cnnlab.cli.cache import size
from cnnlab.cli.dry_run import DryRun, Phase
from cnnlab.config import Config, check, compose, plain_config, quote_path
from cnnlab.config.hydra_compat import parse_command_line
from cnnlab.config.overrides import OF_ONE_COMMAND, split
from cnnlab.errors import InputError
from cnnlab.models.engines import RUNTIMES, is_installed
from cnnlab.reports.bottleneck import Setup, diagnose, on_filling, rate
from cnnlab.system.devices import has_bfloat16
from cnnlab.system.processes import cores
from cnnlab.training.callbacks.progress import peak_memory
from cnnlab.training.lightning_compat import adopt_messages
from cnnlab.training.step_probe import size_of

UNITS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0))
WIDTH = 100


@dataclass
class Options:
    """Try a run without writing anything: take a few steps in memory, estimate time and memory, name the bottleneck and
    the overrides that remove it.

    The arguments are the overrides that the run would be started with.

    Example: cnnlab check model=vgg16 freeze=features
    """


def main(arguments: Sequence[str]) -> None:
    cfg = config_of(arguments)
    adopt_messages()
    print(report(DryRun(cfg)))


def config_of(arguments: Sequence[str]) -> Config:
    """Return the composed, checked and resolved config of the run that these arguments would start."""
    parsed = parse_command_line(arguments)
    if parsed.multirun:
        raise InputError("cnnlab check tries one run: leave out -m, and give each key one value.")
    for override in map(split, parsed.overrides):
        if override.group in OF_ONE_COMMAND:
            raise InputError(f"cnnlab check tries a run before it starts: leave out {override.text}.")
    cfg = compose([quote_path(override) for override in parsed.overrides], parsed.config_dir)
    check(cfg)
    return plain_config(cfg, Path(cfg.paths.output_dir or Path(cfg.paths.root) / "check"))  # named, never made


def report(run: DryRun) -> str:
    """Return the report: what was built, memory, speed, time, and the bottleneck."""
    paragraphs = [
        "This run works: a few of its steps were taken in memory, and no run folder was made.",
        _overview(run),
        _memory(run),
    ]
    return "\n\n".join([*paragraphs, _speeds(run), _times(run), _diagnosis(run)])


def _overview(run: DryRun) -> str:
    cfg, data, parts = run.requested, run.data, run.data.parts
    counts = [f"{len(part):,} {name}" for name in ("train", "val", "test") if (part := getattr(parts, name))]
    trained = sorted({phase.together.trained for phase in run.phases})
    trains = " to ".join(f"{count:,}" for count in dict.fromkeys([trained[0], trained[-1]]))
    total = sum(parameter.numel() for parameter in run.module.network.parameters())
    shape = " x ".join(map(str, data.batch_shape))
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else f"cpu, {_threads()}"
    single = cfg["trainer"]["strategy"] == "auto" and cfg["trainer"]["devices"] in (1, "auto")
    classes = f"; {len(data.classes)} classes" if data.classes else ""
    rows = [
        ("data", f"{cfg['data']['name']}, {data.examples.lower()}: {', '.join(counts)}{classes}"),
        ("network", f"{cfg['model']['name']}, {total:,} parameters, {trains} of them train"),
        ("batch", f"{shape}, {run.cfg['speed']['precision']}"),
        ("device", device if single else f"{device}; tried in one process, but the run has several"),
        ("first loss", f"{run.phases[0].together.loss:.4g}"),
    ]
    return _aligned(rows)


def _threads() -> str:
    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"


def _memory(run: DryRun) -> str:
    used = [phase.together.memory for phase in run.phases]
    needs = {
        "parameters": size_of(run.module.parameters()),
        "gradients": max(memory.gradients for memory in used),
        "optimizer state": max(memory.optimizer for memory in used),
        "activations of a batch": max(memory.activations for memory in used),
    }
    rows = [(name, size(count)) for name, count in needs.items()]
    rows.append(("total", size(sum(needs.values()))))
    rows.append(("peak of this process", size(peak_memory(run.device))))
    return f"Memory\n{_aligned(rows)}"


def _speeds(run: DryRun) -> str:
    def row(name: str, seconds: float) -> tuple[str, ...]:
        return name, rate(run.data.batch_size / seconds), f"{1000 * seconds:,.1f}"

    workers = "in memory" if run.in_memory else f"{run.workers} worker{'s' if run.workers != 1 else ''}"
    rows = [("", f"{run.data.examples.lower()}/s", "ms/batch"), row(f"loader alone, {workers}", run.loader)]
    for phase in run.phases:
        when = f", {_epochs(phase)}" if len(run.phases) > 1 else ""
        trained = "trainable layers alone, on features" if phase.kept else "network alone"
        rows.append(row(f"{trained}{when}", phase.alone.step))
        if phase.kept:
            rows.append(row(f"frozen stages alone, {run.cfg['speed']['engine']}{when}", run.stages(phase)))
            rows.append(row(f"loader and frozen stages together{when}", run.computing(phase)))
        else:
            rows.append(row(f"both together{when}", run.batch(phase)))
    return f"Speed\n{_aligned(rows, right=True)}"


def _times(run: DryRun) -> str:
    rows = []
    for phase in run.phases:
        when = f", {_epochs(phase)}" if len(run.phases) > 1 else ""
        if phase.missing:
            rows.append((f"computing {phase.missing:,} features, once{when}", duration(run.filling(phase))))
        rows.append((f"an epoch of {run.batches:,} batches, with validation{when}", duration(run.epoch(phase))))
    whole = sum(map(run.whole, run.phases))
    if run.epochs is not None:
        rows.append((f"the run of {run.epochs} epochs, without start-up", duration(whole)))
    return f"Time, about\n{_aligned(rows)}"


def _epochs(phase: Phase) -> str:
    if phase.epochs is None:
        return f"from epoch {phase.first} on"
    last = phase.first + phase.epochs - 1
    return f"epoch {phase.first}" if last == phase.first else f"epochs {phase.first} to {last}"


def _diagnosis(run: DryRun) -> str:
    """Return the bottleneck of the phase that takes the most time, and what to change."""
    phase = max(run.phases, key=run.whole)
    count = run.data.batch_size
    setup = setup_of(run, phase)
    loader, network, together = (count / seconds for seconds in (run.loader, phase.alone.step, run.batch(phase)))
    sentences = [diagnose(loader, network, together, run.epoch(phase), setup)]
    if phase.missing:
        filling = run.filling(phase)
        text = on_filling(duration(filling), phase.missing, run.loader, run.stages(phase), setup)
        sentences.insert(0 if filling > run.whole(phase) / 2 else 1, text)
    if len(run.phases) > 1:
        sentences.insert(0, f"Most of the time goes into {_epochs(phase)}.")
    if run.records == "to be made":
        sentences.append("The first epoch caches the decoded images; later the loader is faster than measured here.")
    return textwrap.fill(" ".join(sentences), WIDTH)


def setup_of(run: DryRun, phase: Phase) -> Setup:
    """Return the facts that the advice on `phase` depends on."""
    cfg, data = run.requested, run.data
    files = data.decodes_files
    return Setup(
        unit=data.examples.lower(),
        batch_size=data.batch_size,
        workers=run.workers,
        in_memory=run.in_memory,
        cores=cores(),
        threads=torch.get_num_threads(),
        gpu=run.device.type != "cpu",
        bf16=cfg["speed"]["precision"] != "auto" and has_bfloat16(run.device),
        precision=run.cfg["speed"]["precision"],
        deterministic=cfg["speed"]["deterministic"],
        channels_last=run.cfg["speed"]["channels_last"],
        kept=phase.kept,
        views=run.features.views if run.features else 1,
        recomputes=run.recomputes(phase.first),
        obstacle=run.obstacle,
        pretrained=cfg["model"]["weights"] is not None,
        freezes=run.module.recipe.plan.ever_freezes(run.module.network),
        decodes=files and run.records not in ("kept", "to be made"),
        records_off=files and run.records == "off",
        runtime=any(map(is_installed, RUNTIMES)),
        simplejpeg=importlib.util.find_spec("simplejpeg") is not None,
    )


def duration(seconds: float) -> str:
    """Format seconds in the largest unit that gives at least 2."""
    unit, length = next(((unit, length) for unit, length in UNITS if seconds >= 2 * length), ("s", 1.0))
    count = seconds / length
    return f"{count:.2g} {unit}" if count < 10 else f"{count:,.0f} {unit}"


def _aligned(rows: Sequence[tuple[str, ...]], right: bool = False) -> str:
    """Return rows as indented columns; right: align all columns but the first on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    place = [str.ljust, *[str.rjust if right else str.ljust] * (len(widths) - 1)]
    cells = [[put(cell, width) for put, cell, width in zip(place, row, widths, strict=True)] for row in rows]
    return "\n".join("  " + "  ".join(line).rstrip() for line in cells)
