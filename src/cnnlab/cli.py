"""The command line: `python train.py ...` and `cnnlab VERB ...`.

Composes and checks everything first, reports all problems at once, and imports nothing heavy before that.
"""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from cnnlab.config import CONFIG_DIR, check, compose, quote_path, quoted
from cnnlab.errors import CnnlabError, InputError
from cnnlab.runs.naming import claim, claim_exactly, run_name

log = logging.getLogger(__name__)
VERBS = {
    "train": "train a network: cnnlab train model=mobilenet_v2 freeze=features",
    "evaluate": "score a run, or pretrained weights, and write a report: cnnlab evaluate run=outputs/...",
    "predict": "name what is on pictures: cnnlab predict run=outputs/... images=photos/",
    "cache": "show or remove what is kept of images: cnnlab cache ls, cnnlab cache rm unused_days=30",
}
RESUMABLE = (
    "trainer.max_epochs=",
    "trainer.devices=",
    "trainer.accelerator=",
    "paths.",
    "data.num_workers=",
    "speed.cache_gib=",
)
"""What may change when a run is continued."""

OmegaConf.register_new_resolver("run_name", lambda overrides: run_name(list(overrides)), replace=True)


def main() -> None:
    """Entry point of `cnnlab`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("usage: cnnlab VERB key=value ...\n")
        print("\n".join(f"  {name:<10} {what}" for name, what in VERBS.items()))
        return
    if verb not in VERBS:
        sys.exit(_complain(InputError(f"cnnlab has no verb {verb!r}; there are: {', '.join(VERBS)}.")))
    if verb == "train":
        train(arguments=sys.argv[2:])
        return
    try:
        importlib.import_module(f"cnnlab.verbs.{verb}").main(sys.argv[2:])
    except CnnlabError as error:
        sys.exit(_complain(error))
    except KeyboardInterrupt:
        sys.exit(130)


def train(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `train.py`: one run, or with `-m` one run for each combination of values."""
    program = sys.argv[:1] if arguments is None else sys.argv[:2]
    failures: dict[str, int] = {}
    try:
        prepared = _prepare(list(sys.argv[1:] if arguments is None else arguments))
        sys.argv = [program[0], *prepared]
        _application(rerun=[*program, *prepared], failures=failures)
    except CnnlabError as error:
        sys.exit(_complain(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(next(iter(failures.values()), 0))


def _prepare(arguments: list[str]) -> list[str]:
    """The arguments with paths quoted and the run's folder claimed, after everything has been checked."""
    parsed = get_args_parser().parse_args(arguments)
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    overrides = [quote_path(override, parsed.multirun) for override in parsed.overrides]
    asks = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    claimed = any(override.startswith("hydra.run.dir=") for override in overrides)
    if asks or claimed:
        return [*flags, *overrides]
    if any(override.startswith("resume=") for override in overrides):
        if parsed.multirun:
            raise InputError("resume continues one run: start it without -m.")
        return [*flags, *_resumed(overrides, parsed.config_dir)]
    jobs = _jobs(overrides) if parsed.multirun else [overrides]
    cfgs = [compose(job, parsed.config_dir) for job in jobs]
    for cfg in cfgs:
        check(cfg)
        if parsed.multirun and cfg.trainer.strategy != "auto":
            raise InputError("A sweep (-m) runs each job in one process; start runs with several processes one by one.")
    folder = _folder(cfgs[0], overrides, sweep=parsed.multirun)
    if len({run_name(job) for job in jobs}) < len(jobs):  # data=digits,mnist, or weights of one name in two folders
        overrides.append(f"hydra.sweep.subdir={quoted('${hydra.job.num}-${run_name:${hydra.overrides.task}}')}")
    return [*flags, *overrides, f"hydra.{'sweep' if parsed.multirun else 'run'}.dir={quoted(str(folder))}"]


def _jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper will run them."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return [overrides]
    return [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def _folder(cfg: DictConfig, overrides: list[str], sweep: bool) -> Path:
    """Claim the run's folder (the sweep's, under which each job has its own)."""
    started_elsewhere = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    if started_elsewhere is not None:
        if not cfg.paths.output_dir:
            raise InputError(
                "Processes started by torchrun or SLURM must agree on the run folder: set paths.output_dir=FOLDER."
            )
        if started_elsewhere != "0":
            return Path(cfg.paths.output_dir).absolute()
    if cfg.paths.output_dir:
        return claim_exactly(Path(cfg.paths.output_dir))
    experiment = next((value for key, _, value in map(_parts, overrides) if key == "experiment"), cfg.data.name)
    name = f"sweep-{run_name(overrides)}" if sweep else run_name(overrides, cfg.model.name)
    return claim(Path(cfg.paths.root) / experiment / name)


def _parts(override: str) -> tuple[str, str, str]:
    key, equals, value = override.partition("=")
    return key, equals, value.strip("'\"")


def _resumed(overrides: list[str], config_dir: str | None) -> list[str]:
    """The stored overrides of the run to resume, with the few that may change."""
    from cnnlab.runs.folder import read_overrides

    resume = next(override for override in overrides if override.startswith("resume="))
    folder = Path(str(OverridesParser.create().parse_override(resume).value())).expanduser().absolute()
    new = [override for override in overrides if override != resume]
    fixed = [override for override in new if not override.startswith(RESUMABLE)]
    if fixed:
        raise InputError(
            f"resume continues a run as it was: {', '.join(fixed)} cannot change. {', '.join(RESUMABLE)} can."
        )
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        raise InputError(f"{folder} cannot be resumed: it has no checkpoints/last.ckpt.")
    changed = {_parts(override)[0] for override in new}
    stored = [override for override in read_overrides(folder) if _parts(override)[0] not in changed]
    check(compose([*stored, *new], config_dir))
    return [*stored, *new, resume, f"hydra.run.dir={quoted(str(folder))}"]


def _application(rerun: list[str], failures: dict[str, int]) -> None:
    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
    def application(cfg: DictConfig) -> float | None:
        return _task(cfg, rerun, failures)

    application()


def _task(cfg: DictConfig, rerun: list[str], failures: dict[str, int]) -> float | None:
    """One run, from its composed config to its record; returns the best validation accuracy to the sweeper."""
    from cnnlab.runs.folder import RunFolder

    sys.argv = rerun  # Lightning starts the other ranks with it
    folder = Path(HydraConfig.get().runtime.output_dir)
    rank_zero = os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == "0"
    if not rank_zero:
        logging.getLogger().setLevel(logging.ERROR)
    cfg.paths.output_dir = str(folder)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    resume_from = folder / "checkpoints" / "last.ckpt" if plain.pop("resume") else None
    stored = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    run = RunFolder.create(folder, plain, stored, writes=rank_zero, resumes=resume_from is not None)
    try:
        from cnnlab.verbs.train import train

        _adopt_lightning_messages()
        log.info("Run folder: %s", folder)
        record = train(plain, run, resume_from)
        run.update(status="finished")
        return record["best"].get("val/acc")
    except KeyboardInterrupt:
        run.update(status="interrupted")
        log.warning("Interrupted. Continue with: python train.py resume=%s", folder)
        raise
    except CnnlabError as error:
        run.update(status="failed", error=str(error))
        log.error("%s", error)
        failures[str(folder)] = error.exit_code
    except Exception as error:
        run.update(status="failed", error=f"{type(error).__name__}: {error}")
        log.exception("The run in %s failed.", folder)
        failures[str(folder)] = 1
    return None


def _adopt_lightning_messages() -> None:
    """Lightning's messages go through our log once, instead of beside it."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run is resumed
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning 2.6 on torch 2.14


def _complain(error: CnnlabError) -> int:
    print(f"Error: {error}", file=sys.stderr)
    return error.exit_code
