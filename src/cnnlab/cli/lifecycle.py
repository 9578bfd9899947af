"""Run one config that Hydra composed, and record how the run ended."""

import logging
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cnnlab.cli.claiming import release
from cnnlab.cli.main import DEBUG, complain
from cnnlab.config import plain_config, quoted
from cnnlab.config.hydra_compat import parse_command_line
from cnnlab.config.overrides import OF_ONE_COMMAND, split
from cnnlab.errors import DataError
from cnnlab.sweeping.jobs import run_apart, share
from cnnlab.system.faults import translate_error
from cnnlab.system.processes import RUN_FOLDER, end_with_parent, is_rank_zero, require_one_config, starts_processes

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, rerun: list[str], failures: list[int]) -> None:
    """Run one config that Hydra composed: a single run or a job of a sweep.

    rerun: the command that starts this run again; in a sweep only program and flags, to which a job's overrides are
    added. failures: receives the exit code of a failed run.
    """
    from cnnlab.runs.folder import RunFolder, require_same_config

    hydra_cfg = HydraConfig.get()
    in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    folder = Path(hydra_cfg.runtime.output_dir)
    resumes = cfg.resume is not None
    plain = plain_config(cfg, folder)
    stored = [each for each in hydra_cfg.overrides.task if split(each).group not in OF_ONE_COMMAND]
    shared = plain
    os.environ[RUN_FOLDER] = str(folder)
    if in_sweep:
        resumes = (folder / "checkpoints" / "last.ckpt").is_file()
        if resumes:
            require_same_config(folder, plain)
        resume = [f"resume={quoted(str(folder))}"] if resumes else []
        places = [each for each in hydra_cfg.overrides.hydra if split(each).key == "hydra.searchpath"]
        rerun = [*rerun, *places, *stored, *resume, f"hydra.run.dir={quoted(str(folder))}"]
        shared = share(plain, folder.parent, hydra_cfg.job.num)
        if starts_processes(shared["trainer"]):
            return run_apart([sys.executable, *rerun])
    end_with_parent()
    logging.raiseExceptions = False  # else a full disk would fill the console with errors of the log
    sys.argv = rerun  # Lightning starts the other ranks with this command
    if not is_rank_zero():
        logging.getLogger().setLevel(logging.ERROR)
    run = RunFolder(folder, plain, stored, hydra_cfg.runtime.choices, writes=is_rank_zero(), resumes=resumes)
    try:
        train_and_record(shared, run)
    except BaseException as error:
        if (code := record_failure(error, run, rerun, in_sweep)) is None:
            raise
        failures.append(code)


def train_and_record(cfg: dict[str, Any], run: Any) -> None:
    """Train `cfg` into the run folder, then record that the run has finished."""
    from cnnlab.experiment import train
    from cnnlab.runs.folder import config_hash
    from cnnlab.training.lightning_compat import adopt_messages

    require_one_config(config_hash(run.config), run.writes)
    adopt_messages()
    train(cfg, run)
    run.update(status="finished")


def record_failure(error: BaseException, run: Any, rerun: list[str], in_sweep: bool) -> int | None:
    """Record and report how a run failed; return the exit code, or None if the error must be raised again.

    The folder of a run that never began is removed, unless it is a job of a sweep. rerun: as in `run_job`.
    """
    own = translate_error(error)
    if own and not run.has_begun and not in_sweep:
        if run.writes and not run.resumes:
            logging.shutdown()
            release(run.path)
        return complain(own)
    if own:
        run.end(status="failed", error=str(own), exit_code=own.exit_code)
        again = isinstance(own, DataError) and run.last_checkpoint.is_file() and not in_sweep
        hint = f" Then continue with: {resume_command(run, rerun)}" if again else ""
        log.error("%s%s", own, hint, exc_info=DEBUG in os.environ)
        run.append_text("train.log", traceback.format_exc())  # for debugging: the console shows only the message
        return own.exit_code
    if is_stop(error):
        if not run.has_begun and not in_sweep:
            if run.writes and not run.resumes:
                release(run.path)
            return None
        run.end(status="interrupted")
        if not in_sweep:  # a sweep is resumed as a whole
            log.warning("Interrupted%s", advice_after_stop(run, rerun))
        return None
    run.end(status="failed", error=f"{type(error).__name__}: {error}", exit_code=1)
    log.exception("The run in %s failed.", run.path)
    return 1


def advice_after_stop(run: Any, rerun: list[str]) -> str:
    """Return the rest of the message about an interruption: how to go on, if there is anything to go on from."""
    if run.last_checkpoint.is_file():
        return f". Continue with: {resume_command(run, rerun)}"
    if any(run.path.glob("checkpoints/*.ckpt")):
        return ". It cannot be continued: the run keeps no checkpoints/last.ckpt."
    return f" before the first checkpoint. Start over in the same folder with: {resume_command(run, rerun)}"


def resume_command(run: Any, rerun: list[str]) -> str:
    """Return the command that resumes a run; it names the run's packages again, since stored ones are not trusted."""
    program, arguments = rerun[:1], rerun[1:]
    if arguments[:1] == ["train"]:
        program, arguments = rerun[:2], rerun[2:]
    config_dir = parse_command_line(arguments).config_dir
    places = ["--config-dir", config_dir] if config_dir else []
    packages = ",".join(run.config["trusted_packages"])
    trusted = [f"trusted_packages=[{packages}]"] if packages else []
    return shlex.join([*typed_program(program), *places, f"resume={run.path}", *trusted])


def typed_program(program: list[str]) -> list[str]:
    """Return the words that start a program in a shell: python train.py, cnnlab train or python -m cnnlab train."""
    path, *verb = program
    if Path(path).name == "__main__.py":
        return ["python", "-m", "cnnlab", *verb]
    return [*(["python", path] if path.endswith(".py") else [Path(path).name]), *verb]


def is_stop(error: BaseException) -> bool:
    """Return whether the process is asked to end: by Ctrl-C, or by a cluster that preempts the job."""
    preempted = isinstance(error, SystemExit) and "SUBMITIT_EXECUTOR" in os.environ
    return preempted or isinstance(error, KeyboardInterrupt)
