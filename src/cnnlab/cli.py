"""The command line: `python train.py ...` and `cnnlab VERB ...`.

Composes and checks everything first, reports all problems at once, and imports nothing heavy before that.
"""

import glob
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cnnlab.config import CONFIG_DIR, check, compose, quote_path, quoted
from cnnlab.errors import CnnlabError, DataError, InputError
from cnnlab.faults import explained
from cnnlab.memory import keep_freed_memory
from cnnlab.runs.naming import claim, claim_exactly, run_name
from cnnlab.runs.processes import end_with_parent, require_one_config, starts_processes
from cnnlab.runs.sweep import Sweep
from cnnlab.sweeping.console import conclude
from cnnlab.sweeping.jobs import run_apart, share
from cnnlab.sweeping.plan import prepare

log = logging.getLogger(__name__)
VERBS = {
    "train": "train a network: cnnlab train model=mobilenet_v2 freeze=features",
    "check": "try a run for a few steps, and say what it would need: cnnlab check model=vgg16 freeze=features",
    "evaluate": "score a run, or pretrained weights, and write a report: cnnlab evaluate run=outputs/...",
    "predict": "name what is on pictures: cnnlab predict run=outputs/... images=photos/",
    "compare": "say which setting of a sweep is better, and how sure that is: cnnlab compare outputs/...",
    "visualize": "draw what a network learned: cnnlab visualize run=outputs/... what=features layer=0",
    "cache": "show or remove what is kept of images: cnnlab cache ls, cnnlab cache rm unused_days=30",
    "play": "play Go over GTP, the protocol of Sabaki and GoGui: cnnlab play run=outputs/...",
}
EXIT_CODES = "0 finished, 1 a bug, 2 wrong input or config, 3 data or file trouble, 4 diverged, 130 interrupted"
DEBUG = "CNNLAB_DEBUG"
"""The environment variable that shows where in the code an error comes from."""
RESUMABLE = (
    "trainer.max_epochs=",
    "trainer.devices=",
    "trainer.accelerator=",
    "paths.",
    "data.num_workers=",
    "speed.cache_gib=",
    "trusted_packages=",
)
"""What may change when a run is continued."""


def main() -> None:
    """Entry point of `cnnlab`."""
    keep_freed_memory()
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("usage: cnnlab VERB key=value ...\n")
        print("\n".join(f"  {name:<10} {what}" for name, what in VERBS.items()))
        print(f"\nexit codes: {EXIT_CODES}")
        print(f"{DEBUG}=1 in the environment adds the traceback to an error's message.")
        return
    if verb not in VERBS:
        sys.exit(_complain(InputError(f"cnnlab has no verb {verb!r}; there are: {', '.join(VERBS)}.")))
    if verb == "train":
        train(arguments=sys.argv[2:])
        return
    try:
        importlib.import_module(f"cnnlab.verbs.{verb}").main(sys.argv[2:])
    except (CnnlabError, OSError) as error:
        sys.exit(_complain(error))
    except KeyboardInterrupt:
        sys.exit(130)


def train(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `train.py`: one run, or with `-m` one run for each combination of values."""
    keep_freed_memory()
    program = sys.argv[:1] if arguments is None else sys.argv[:2]
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = get_args_parser().parse_intermixed_args(given)
        asks = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
        flags = [argument for argument in given if argument not in parsed.overrides]
        overrides = [quote_path(override, parsed.multirun) for override in parsed.overrides]
        if parsed.multirun and not asks:
            sys.exit(_sweep(program, flags, overrides, parsed.config_dir))
        if not asks:
            overrides = _prepared(overrides, parsed.config_dir)
        sys.exit(_single(program, [*flags, *overrides]))
    except (CnnlabError, OSError) as error:
        sys.exit(_complain(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _single(program: list[str], arguments: list[str]) -> int:
    """Run what Hydra makes of the arguments; returns the exit code."""
    failures: list[int] = []
    sys.argv = [program[0], *arguments]
    _application([*program, *arguments], failures)
    return failures[0] if failures else 0


def _sweep(program: list[str], flags: list[str], overrides: list[str], config_dir: str | None) -> int:
    """Run the jobs of a sweep that have not finished; returns the exit code."""
    sweep, for_hydra = prepare(overrides, config_dir)
    module = ["-m", "cnnlab"] if Path(program[0]).name == "__main__.py" else []
    start = module or [str(Path(program[0]).absolute())]
    once = [flag for flag in flags if flag not in ("-m", "--multirun")]
    sys.argv = [program[0], *flags, *for_hydra]
    try:
        _application([*start, *program[1:], *once], [])
    finally:
        typed = ["python", *module] if module or program[0].endswith(".py") else []
        name = [] if module else [program[0] if typed else Path(program[0]).name]
        code = conclude(Sweep.read(sweep.folder), [*typed, *name, *program[1:], *flags, *overrides])
    return code


def _prepared(overrides: list[str], config_dir: str | None) -> list[str]:
    """The overrides of one run with its folder claimed, after everything has been checked."""
    if any(override.startswith("hydra.run.dir=") for override in overrides):  # claimed by the process that starts this
        return overrides
    if any(override.startswith("resume=") for override in overrides):
        return _resumed(overrides, config_dir)
    if any(override.startswith(("sweep.", "hydra.mode=")) for override in overrides):
        raise InputError("sweep.dir, sweep.resume and hydra.mode are for sweeps: add -m.")
    cfg = compose(overrides, config_dir)
    check(cfg)
    if folder := _begun_before(cfg, overrides):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            changeable = [override for override in overrides if override.startswith(RESUMABLE)]
            return _resumed([*changeable, f"resume={quoted(str(folder))}"], config_dir)
    else:
        folder = _claimed(cfg, overrides)
    return [*overrides, f"hydra.run.dir={quoted(str(folder))}"]


def _begun_before(cfg: DictConfig, overrides: list[str]) -> Path | None:
    """The run's folder, if SLURM starts its job again."""
    from cnnlab.runs.slurm import begun_before

    if cfg.paths.output_dir:
        return begun_before([Path(cfg.paths.output_dir).absolute()])
    folder = _named(cfg, overrides).absolute()
    return begun_before(folder.parent.glob(f"{glob.escape(folder.name)}*"))


def _claimed(cfg: DictConfig, overrides: list[str]) -> Path:
    """The run's folder, created."""
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
    return claim(_named(cfg, overrides))


def _named(cfg: DictConfig, overrides: list[str]) -> Path:
    """The run's folder where the user names none; the next ones get numbers."""
    experiment = next((value for key, _, value in map(_parts, overrides) if key == "experiment"), cfg.data.name)
    return Path(cfg.paths.root) / experiment / run_name(overrides, cfg.model.name)


def _parts(override: str) -> tuple[str, str, str]:
    key, equals, value = override.partition("=")
    return key, equals, value.strip("'\"")


def _resumed(overrides: list[str], config_dir: str | None) -> list[str]:
    """The stored overrides of the run to resume, with the few that may change; whom to trust the folder cannot say."""
    from cnnlab.runs.folder import read_overrides, require_same_config

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
    whole = read_overrides(folder)
    stored = [override for override in whole if _parts(override)[0].lstrip("+") not in changed]
    for override in stored:
        if re.split(r"\W", override.lstrip("+~ "))[0] == "trusted_packages":
            raise InputError(
                f"The run in {folder} was made with {override}: whatever code is in there would be run. "
                f"If you trust it, add {override} to the command."
            )
    require_same_config(folder, resolved(compose(whole, config_dir), folder))
    check(compose([*stored, *new], config_dir))
    return [*stored, *new, resume, f"hydra.run.dir={quoted(str(folder))}"]


def _application(rerun: list[str], failures: list[int]) -> None:
    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
    def application(cfg: DictConfig) -> None:
        _task(cfg, rerun, failures)

    application()


def _task(cfg: DictConfig, rerun: list[str], failures: list[int]) -> None:
    """One run, from its composed config to its record.

    rerun: what was typed to start this run; of a sweep only the program and its flags, to which a job's overrides go.
    failures: takes the exit code of a run that fails.
    """
    from cnnlab.runs.folder import RunFolder, require_same_config

    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    resumes = cfg.resume is not None
    plain = resolved(cfg, folder)
    stored = [override for override in hydra_cfg.overrides.task if not override.startswith(("resume=", "sweep."))]
    chosen = plain
    if hydra_cfg.mode == RunMode.MULTIRUN:
        resumes = (folder / "checkpoints" / "last.ckpt").is_file()
        if resumes:
            require_same_config(folder, plain)
        resume = [f"resume={quoted(str(folder))}"] if resumes else []
        places = [override for override in hydra_cfg.overrides.hydra if override.startswith("hydra.searchpath=")]
        rerun = [*rerun, *places, *stored, *resume, f"hydra.run.dir={quoted(str(folder))}"]
        chosen = share(plain, folder.parent, hydra_cfg.job.num)
        if starts_processes(chosen["trainer"]):
            return run_apart([sys.executable, *rerun])
    end_with_parent()
    logging.raiseExceptions = False  # a log that the disk refuses is no reason to fill the console
    sys.argv = rerun  # Lightning starts the other ranks with it
    rank_zero = os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == "0"
    if not rank_zero:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        run = RunFolder.create(
            folder, plain, stored, writes=rank_zero, resumes=resumes, chosen=HydraConfig.get().runtime.choices
        )
    except OSError as error:
        failures.append(_complain(error))
        return
    try:
        from cnnlab.verbs.train import adopt_lightning_messages, train

        require_one_config(run.record["config_hash"], rank_zero)
        adopt_lightning_messages()
        log.info("Run folder: %s", folder)
        train(chosen, run, run.last_checkpoint if resumes else None)
        run.update(status="finished")
    except BaseException as error:
        if own := explained(error):
            run.end(status="failed", error=str(own), exit_code=own.exit_code)
            again = isinstance(own, DataError) and run.last_checkpoint.is_file() and hydra_cfg.mode == RunMode.RUN
            hint = f" Then continue with: {_resuming(folder, plain)}" if again else ""
            log.error("%s%s", own, hint, exc_info=DEBUG in os.environ)
            run.append_text("train.log", traceback.format_exc())  # for whoever wants to know more than that
            failures.append(own.exit_code)
            return
        if _is_stop(error):
            run.end(status="interrupted")
            if hydra_cfg.mode == RunMode.RUN:  # a sweep is resumed as a whole
                log.warning("Interrupted. Continue with: %s", _resuming(folder, plain))
            raise
        run.end(status="failed", error=f"{type(error).__name__}: {error}", exit_code=1)
        log.exception("The run in %s failed.", folder)
        failures.append(1)


def resolved(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """The plain config of a run in `folder`, without what is for one command only."""
    cfg.paths.output_dir = str(folder)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in ("resume", "sweep"):
        del plain[key]
    return plain


def _resuming(folder: Path, plain: dict[str, Any]) -> str:
    """What continues a run; its packages are to be trusted anew."""
    packages = ",".join(plain["trusted_packages"])
    return f"python train.py resume={folder}" + (f" 'trusted_packages=[{packages}]'" if packages else "")


def _is_stop(error: BaseException) -> bool:
    """Whether somebody wants the process to end: Ctrl-C, or a cluster that takes its machine back."""
    taken_back = isinstance(error, SystemExit) and "SUBMITIT_EXECUTOR" in os.environ
    return taken_back or isinstance(error, KeyboardInterrupt)


def _complain(error: CnnlabError | OSError) -> int:
    """Say what is wrong on stderr; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has read enough: cnnlab cache ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if DEBUG in os.environ:
        traceback.print_exception(error)
    own = explained(error)
    assert own is not None
    print(f"Error: {own}", file=sys.stderr)
    return own.exit_code
