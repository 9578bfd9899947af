"""Determine the folder of a run: claim a new one, or use that of the run to resume."""

import contextlib
import glob
import os
import sys
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig, open_dict

from cnnlab.config import check, compose, plain_config, quoted
from cnnlab.config.hydra_settings import check_hydra, named_folder
from cnnlab.config.overrides import Override, split, value_of
from cnnlab.errors import InputError
from cnnlab.runs.naming import claim, claim_exactly, folder_of
from cnnlab.system.processes import RUN_FOLDER

RESUMABLE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "resume_schedule",
    "trainer.devices",
    "trainer.accelerator",
    "paths.",
    "data.num_workers",
    "speed.cache_gib",
    "trusted_packages",
)
"""Keys that may change when a run is resumed; an entry that ends in a dot is a prefix."""
FOLDERS = ("hydra.run.dir", "paths.output_dir")
"""Keys that name the run folder."""
LENGTHS = ("trainer.max_epochs", "trainer.max_steps")


def claimed_overrides(overrides: list[str], config_dir: str | None) -> list[str]:
    """Return the overrides of one run with its folder claimed, after the config has been checked."""
    if is_claimed_by_parent(overrides):
        return overrides
    keys = {override.key for override in map(split, overrides)}
    if "resume" in keys:
        return resumed_overrides(overrides, config_dir)
    require_resumed(keys)
    if any(key.startswith("sweep.") for key in keys):
        raise InputError("sweep.dir and sweep.resume are for sweeps: add -m.")
    cfg, overrides = with_literal_folder(overrides, config_dir)
    check(cfg)
    if folder := folder_begun_before(cfg, overrides):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            changeable = [override for override in overrides if may_change(split(override))]
            return resumed_overrides([*changeable, f"resume={quoted(str(folder))}"], config_dir)
    else:
        folder = claimed_folder(cfg, overrides)
    return [*overrides, f"hydra.run.dir={quoted(str(folder))}"]


def is_claimed_by_parent(overrides: list[str]) -> bool:
    """Return whether the process that started this one has claimed the folder that hydra.run.dir names."""
    named = [value_of(override) for override in overrides if split(override).key == "hydra.run.dir"]
    return bool(named) and os.environ.get(RUN_FOLDER) == str(named[-1])


def with_literal_folder(overrides: list[str], config_dir: str | None) -> tuple[DictConfig, list[str]]:
    """Return the composed config of one run, and its overrides with the folder that they name as paths.output_dir.

    The folder may also be named by hydra.run.dir, in any spelling or file, and by interpolations that mean something
    else later. Raises InputError for settings of Hydra that a run does not have.
    """
    plus = [
        override.text.lstrip("+") if override.key in FOLDERS else override.text for override in map(split, overrides)
    ]
    cfg = compose(plus, config_dir, with_hydra=True)
    check_hydra(cfg.hydra)
    named = named_folder(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.paths.output_dir = named
    rest = [override for override in overrides if split(override).key not in FOLDERS]
    return cfg, [*rest, f"paths.output_dir={quoted(named)}"] if isinstance(named, str) and named else rest


def folder_begun_before(cfg: DictConfig, overrides: list[str]) -> Path | None:
    """Return the folder in which this SLURM job began; None if SLURM did not requeue it."""
    from cnnlab.runs.slurm import begun_before

    if cfg.paths.output_dir:
        return begun_before([Path(cfg.paths.output_dir).absolute()])
    folder = folder_of(cfg, overrides).absolute()
    return begun_before(folder.parent.glob(f"{glob.escape(folder.name)}*"))


def claimed_folder(cfg: DictConfig, overrides: list[str]) -> Path:
    """Create and return the folder of a new run."""
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
    return claim(folder_of(cfg, overrides))


def release(folder: Path) -> None:
    """Remove the folder of a run that never began, with its log; keep a folder that holds anything else."""
    others = {path.name for path in folder.iterdir()} - {"train.log"} if folder.is_dir() else {""}
    if not others:
        (folder / "train.log").unlink(missing_ok=True)
        folder.rmdir()
        with contextlib.suppress(OSError):  # it holds other runs
            folder.parent.rmdir()


def resumed_overrides(overrides: list[str], config_dir: str | None) -> list[str]:
    """Return the stored overrides of the run to resume, with the given ones, which must be changeable.

    Stored trusted_packages are not trusted: the folder may come from somebody else, so the user must give them again.
    """
    from cnnlab.runs.folder import has_checkpoint_to_resume, read_overrides, require_same_config, start_over

    resume = next(override for override in overrides if split(override).key == "resume")
    folder = Path(str(value_of(resume))).expanduser().absolute()
    new = [override for override in overrides if override != resume]
    if fixed := [override for override in new if not may_change(split(override))]:
        raise InputError(f"{', '.join(fixed)} cannot change when a run is resumed. These can: {', '.join(RESUMABLE)}.")
    changed = {split(override).key for override in new}
    if "resume_schedule" in changed and changed.isdisjoint(LENGTHS):
        raise InputError(f"resume_schedule is for a run that gets another length: add {' or '.join(LENGTHS)}.")
    continues = has_checkpoint_to_resume(folder)
    whole = read_overrides(folder)
    stored = [override for override in whole if split(override).key not in changed]
    for override in map(split, stored):
        if override.group == "trusted_packages":
            raise InputError(
                f"The run in {folder} uses {override.text}: resuming it would run the code of these packages. "
                f"If you trust them, add {override.text} to the command."
            )
    require_same_config(folder, plain_config(compose(whole, config_dir), folder))
    check(compose([*stored, *new], config_dir))
    if not continues:
        print(f"{folder} has no checkpoint yet: the run starts over.", file=sys.stderr)
        start_over(folder)
    return [*stored, *new, *([resume] if continues else []), f"hydra.run.dir={quoted(str(folder))}"]


def require_resumed(keys: Collection[str]) -> None:
    """Raise InputError for keys of resumed runs, in a command without resume."""
    if "resume_schedule" in keys:
        raise InputError("resume_schedule is for a run that is resumed: add resume=RUN.")


def may_change(override: Override) -> bool:
    """Return whether an override may differ from that of the resumed run."""
    named = any(override.key.startswith(key) if key.endswith(".") else override.key == key for key in RESUMABLE)
    return named and override.key not in FOLDERS
