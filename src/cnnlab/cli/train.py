"""`train.py` and `cnnlab train`: start one run, or the jobs of a sweep, as a Hydra application."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from cnnlab.cli.claiming import claimed_overrides, with_literal_folder
from cnnlab.cli.lifecycle import run_job, typed_program
from cnnlab.config import CONFIG_DIR, check, compose, quote_path
from cnnlab.config.hydra_compat import parse_command_line
from cnnlab.errors import InputError, nearest
from cnnlab.runs.sweep import Sweep
from cnnlab.sweeping.console import conclude
from cnnlab.sweeping.plan import prepare
from cnnlab.system.processes import RUN_FOLDER


def start(program: list[str], arguments: list[str]) -> int:
    """Run what the arguments ask for; return the exit code.

    program: the words of the command before the arguments.
    """
    parsed = parse_command_line(arguments)
    require_own_config(parsed)
    only_asks = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    overrides = [quote_path(override, parsed.multirun) for override in parsed.overrides]
    if parsed.multirun and not only_asks:
        return run_sweep(program, flags, overrides, parsed.config_dir)
    if not only_asks:
        overrides = claimed_overrides(overrides, parsed.config_dir)
    elif not (parsed.hydra_help or parsed.shell_completion):
        require_sound(overrides, parsed.config_dir, parsed.package)
    return run_single(program, [*flags, *overrides])


def require_own_config(parsed: Any) -> None:
    """Raise InputError for flags of Hydra that name another config, or do not go together."""
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(parsed, flag):
            raise InputError(
                f"--{flag.replace('_', '-')} is not possible: every run is composed from train.yaml. Put options of "
                "your own in a folder, and name it with --config-dir FOLDER."
            )
    if parsed.multirun and (parsed.cfg or parsed.info):
        raise InputError("--cfg and --info show one config: leave out -m, and give each key one value.")
    if (parsed.package and not parsed.cfg) or (parsed.resolve and not (parsed.cfg or parsed.help)):
        raise InputError("--package and --resolve say how to show a config: add --cfg job.")
    if parsed.shell_completion and not parsed.overrides:
        raise InputError("--shell-completion needs install=SHELL or uninstall=SHELL; SHELL is bash, fish or zsh.")


def require_sound(overrides: list[str], config_dir: str | None, package: str | None) -> None:
    """Raise InputError for a config that Hydra is to show but no run accepts; targets are not imported for it."""
    cfg, _ = with_literal_folder(overrides, config_dir)
    check(cfg, with_targets=False)
    whole = compose(overrides, config_dir, with_hydra=True)
    if package and OmegaConf.select(whole, package) is None:
        raise InputError(
            f"--package {package}: the config has no such part. {nearest([package], list(map(str, whole)))}"
        )


def run_single(program: list[str], arguments: list[str]) -> int:
    """Let Hydra run the arguments as a single run; return the exit code."""
    failures: list[int] = []
    sys.argv = [program[0], *arguments]
    run_application([*program, *arguments], failures)
    return failures[0] if failures else 0


def run_sweep(program: list[str], flags: list[str], overrides: list[str], config_dir: str | None) -> int:
    """Run the jobs of a sweep that have not finished; return the exit code."""
    sweep, for_hydra = prepare(overrides, config_dir)
    module = ["-m", "cnnlab"] if Path(program[0]).name == "__main__.py" else []
    command = module or [str(Path(program[0]).absolute())]
    once = [flag for flag in flags if flag not in ("-m", "--multirun")]
    sys.argv = [program[0], *flags, *for_hydra]
    try:
        run_application([*command, *program[1:], *once], [])
    finally:
        code = conclude(Sweep.read(sweep.folder), [*typed_program(program), *flags, *overrides])
    return code


def run_application(rerun: list[str], failures: list[int]) -> None:
    """Let Hydra run `sys.argv`; see `lifecycle.run_job` for the arguments."""

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
    def application(cfg: DictConfig) -> None:
        run_job(cfg, rerun, failures)

    try:
        application()
    finally:
        os.environ.pop(RUN_FOLDER, None)  # a later command of this process claims its folder itself
