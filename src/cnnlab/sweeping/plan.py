"""Plan a sweep: check everything that can be checked before its first job, and write sweep.json."""

import contextlib
import importlib.util
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnlab.config import check, compose, quoted
from cnnlab.config.hydra_compat import BASIC_SWEEPER
from cnnlab.config.hydra_settings import check_hydra, names_run_folder
from cnnlab.config.overrides import (
    every_combination,
    every_value,
    first_of,
    line_of,
    parse,
    require_harmless,
    split,
    swept_values,
)
from cnnlab.errors import InputError, Problems
from cnnlab.runs.naming import claim, job_name, job_names, run_name
from cnnlab.runs.sweep import NAME, Sweep
from cnnlab.sweeping.console import describe
from cnnlab.system.processes import MORE_MEMORY, cores, device_count, starts_processes, why_no_workers

EXTRAS = {
    "hydra/launcher=joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": ("hydra_submitit_launcher", "cluster"),
    "hydra/launcher=submitit_slurm": ("hydra_submitit_launcher", "cluster"),
    "hparams_search=optuna": ("hydra_optuna_sweeper", "sweep"),
}
"""Override that needs a package -> its module below hydra_plugins, and the extra of cnnlab that installs it."""
CHANGEABLE = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.n_trials=", "hydra.sweeper.n_jobs=")
"""Prefixes of overrides that may change when a sweep is resumed: where jobs run, and how many trials a search has."""
RUN_FOLDER_NAMED = (
    "hydra.run.dir and paths.output_dir name the folder of one run: name a sweep's with sweep.dir=FOLDER."
)
PLANNED = "hydra_plugins.cnnlab.sweepers.PlannedSweeper"
SEARCH = "hydra_plugins.cnnlab.sweepers.SearchSweeper"


def prepare(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Sweep, list[str]]:
    """Check all jobs, claim the folder, write sweep.json, and print the plan.

    Returns the sweep and the overrides to start Hydra with. Raises one InputError that lists everything that is wrong;
    nothing is written then.
    """
    own = [override for override in overrides if override.startswith("sweep.")]
    rest = [override for override in overrides if override not in own]
    problems = Problems()
    with problems:
        _refuse_single_run_keys(rest)
    with problems:
        _require_extras(rest)
    installed = [override for override in rest if not _missing(override)]
    hydra = _hydra_node([*own, *installed], config_dir)
    with problems:
        _require_own_sweeper(hydra)
    if hydra:
        problems.attempt(_require_own_folders, hydra)
    searches = hydra is not None and hydra.sweeper._target_ == SEARCH
    arguments = [*_params(hydra), *(override for override in installed if not override.startswith("hydra"))]
    jobs: list[list[str]] = []
    with problems:
        jobs = (every_value if searches else every_combination)(arguments)
    shared = [override for override in installed if override.startswith("hydra")]
    cfgs: list[DictConfig] = []
    for job in jobs:
        with problems:
            cfgs.append(_checked([*own, *shared, *job], config_dir, _launcher(hydra)))
    with problems:
        _require_one_metric(cfgs, searches)
    keys = _own_keys(own)
    sweep = None
    with problems:
        sweep = _opened(keys, rest, searches, config_dir)
        if sweep is not None:
            _require_own_jobs(sweep, arguments)
    problems.raise_all("The sweep cannot start:")
    assert hydra is not None  # it composes if all the jobs do
    if sweep is None:
        folder = _folder(keys, cfgs[0], rest)
        if keys.get("resume"):
            print(f"{folder} contains no sweep to resume: starting a new one.")
        sweep = _planned(folder, rest, arguments, jobs, searches)
    elif not searches:
        _extend(sweep, rest, arguments, jobs)
    total = hydra.sweeper.n_trials + len(sweep.with_status("failed")) if searches else len(sweep.jobs)
    at_once = _at_once(hydra, cfgs, total)
    metric = {"metric": f"val/{cfgs[0].metric}", "mode": cfgs[0].metric_mode}
    sweep.record |= {"launcher": _launcher(hydra), "total": total, "at_once": at_once, **metric}
    sweep.begin()
    print(describe(sweep, searches), flush=True)
    return sweep, [*rest, *_for_hydra(hydra, sweep, searches)]


def _refuse_single_run_keys(overrides: Sequence[str]) -> None:
    problems = Problems()
    for override in map(split, overrides):
        with problems:
            if override.key in ("resume", "resume_schedule"):
                raise InputError(
                    f"{override.key} is for one run: start it without -m. A sweep: sweep.dir=... sweep.resume=true."
                )
            if override.group == "hydra" and override.is_assignment and _is_swept(override.text):
                raise InputError(f"{override.text}: Hydra's own settings are the same for all jobs of a sweep.")
    with problems:
        if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            raise InputError("A sweep starts its processes itself: start it once, without torchrun or srun.")
    problems.raise_all("These settings are for single runs, not for a sweep (-m):")


def _require_extras(overrides: Sequence[str]) -> None:
    problems = Problems()
    for override in overrides:
        with problems:
            if _missing(override):
                raise InputError(
                    f"{override} needs a package that is not installed: pip install 'cnnlab[{EXTRAS[override][1]}]'"
                )
    problems.raise_all("Packages are missing:")


def _missing(override: str) -> bool:
    module, _ = EXTRAS.get(override, (None, None))
    return module is not None and importlib.util.find_spec(f"hydra_plugins.{module}") is None


def _require_own_sweeper(hydra: DictConfig | None) -> None:
    if hydra and hydra.sweeper._target_ not in (BASIC_SWEEPER, SEARCH):
        raise InputError(
            f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']} cannot be resumed. Leave it out to run every "
            "combination, or search with hparams_search=optuna."
        )


def _require_own_folders(hydra: DictConfig) -> None:
    if names_run_folder(hydra):
        raise InputError(RUN_FOLDER_NAMED)
    check_hydra(hydra)


def _is_swept(text: str) -> bool:
    with contextlib.suppress(HydraException):  # composing reports what does not parse
        return first_of(text) != text
    return False


def _require_one_process(trainer: DictConfig, launcher: str) -> None:
    if trainer.num_nodes > 1 and launcher != "submitit_slurm":
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes} in a sweep: let SLURM start the jobs, with "
            f"hydra/launcher=submitit_slurm hydra.launcher.nodes={trainer.num_nodes}."
        )
    if launcher == "joblib" and (reason := why_no_workers(1)):
        raise InputError(
            f"hydra/launcher=joblib cannot start processes ({reason}): leave out the launcher to run the jobs one by "
            f"one. {MORE_MEMORY}"
        )
    if launcher == "joblib" and starts_processes(trainer, when_auto=1):
        raise InputError(
            f"hydra/launcher=joblib runs each job in one process: trainer.strategy={trainer.strategy} "
            f"trainer.devices={trainer.devices} needs several. Leave out the launcher to run the jobs one by one."
        )


def _require_one_metric(cfgs: Sequence[DictConfig], searches: bool) -> None:
    metrics = list(dict.fromkeys(str(cfg.metric) for cfg in cfgs))
    if searches and len(metrics) > 1:
        raise InputError(f"A search optimizes one metric, not {' and '.join(metrics)}: set metric=NAME.")


def _hydra_node(overrides: Sequence[str], config_dir: str | None) -> DictConfig | None:
    """Return Hydra's own config for the first of every swept value; None if it does not compose (jobs report why)."""
    try:
        first = [first_of(override) for override in overrides]
        return compose(first, config_dir, with_hydra=True).hydra
    except (InputError, HydraException):
        return None


def _launcher(hydra: DictConfig | None) -> str:
    return hydra.runtime.choices["hydra/launcher"] if hydra else "basic"


def _params(hydra: DictConfig | None) -> list[str]:
    """Return hydra.sweeper.params, the keys that an experiment sweeps by itself, as overrides."""
    return [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()] if hydra else []


def _checked(job: Sequence[str], config_dir: str | None, launcher: str) -> DictConfig:
    """Return the config of a job; raise InputError that lists what is wrong with it."""
    cfg = compose(job, config_dir)
    if OmegaConf.to_container(cfg.paths).get("output_dir"):  # type: ignore[union-attr]
        raise InputError(RUN_FOLDER_NAMED)
    check(cfg)
    _require_one_process(cfg.trainer, launcher)
    return cfg


def _own_keys(own: Sequence[str]) -> dict[str, Any]:
    """Return the values of sweep.dir and sweep.resume; {} if they do not parse, which composing reports."""
    with contextlib.suppress(HydraException):
        return {key.removeprefix("sweep."): override.value() for key, override in parse(own).items()}
    return {}


def _opened(keys: dict[str, Any], overrides: Sequence[str], searches: bool, config_dir: str | None) -> Sweep | None:
    """Return the sweep to resume, None for a new one. searches: whether it is a search, which cannot be extended."""
    resumes = keys.get("resume") is True
    if not keys.get("dir"):
        if resumes:
            raise InputError("sweep.resume=true does not say which sweep: add sweep.dir=FOLDER.")
        return None
    folder = Path(str(keys["dir"])).expanduser().absolute()
    if not (folder / NAME).is_file():
        _require_no_other_content(folder)
        return None
    if not resumes:
        raise InputError(
            f"sweep.dir={folder} already holds a sweep. Continue it with sweep.resume=true, or name another folder."
        )
    sweep = Sweep.read(folder)
    if not searches:
        _write_defaults_out(sweep, overrides, config_dir)
    _require_same(sweep, overrides, may_extend=not searches)
    sweep.require_rest()
    return sweep


def _require_no_other_content(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"sweep.dir={folder} is a file: name a folder.")
    if (folder / "run.json").exists():
        raise InputError(f"sweep.dir={folder} holds a single run: name another folder.")
    if other := next(folder.glob("*/run.json"), None):
        raise InputError(
            f"sweep.dir={folder} holds runs that are not of a sweep, such as {other.parent.name}: name another folder."
        )


def _write_defaults_out(sweep: Sweep, overrides: Sequence[str], config_dir: str | None) -> None:
    """Add to the sweep and its jobs, as if typed, the values of keys that only this command sweeps; nothing is written.

    A sweep that did not set the seed, which is 0 then, can so be extended by seed=0,1,2.
    """
    known = {split(override).key for override in sweep.record["overrides"]}
    new = [each for each in _lasting(overrides) if split(each).key not in known and _values(each) != [each]]
    if not new or not sweep.jobs:
        return
    with contextlib.suppress(InputError, OmegaConfBaseException):
        cfg = compose(sweep.jobs[0]["overrides"], config_dir)
        for override in new:
            default = f"{split(override).key}={OmegaConf.select(cfg, split(override).key)}"
            if default in _values(override):
                for known_overrides in (sweep.record["overrides"], *(job["overrides"] for job in sweep.jobs)):
                    known_overrides.append(default)


def _require_same(sweep: Sweep, overrides: Sequence[str], may_extend: bool) -> None:
    """Raise InputError that names the overrides that differ from those of the sweep.

    may_extend: whether a key may have more values than in the sweep.
    """
    stored, given = sweep.record["overrides"], _lasting(overrides)
    gone = [override for override in stored if override not in given]
    new = [override for override in given if override not in stored]
    if may_extend:
        values = {split(override).key: _values(override) for override in new}
        kept = {split(each).key for each in gone if set(_values(each)) <= set(values.get(split(each).key, ()))}
        gone, new = ([override for override in side if split(override).key not in kept] for side in (gone, new))
    if gone or new:
        differences = [f"it has {' '.join(gone)}"] * bool(gone) + [f"this command has {' '.join(new)}"] * bool(new)
        how = "overrides, whose keys may have further values" if may_extend else "overrides"
        raise InputError(
            f"{sweep.folder} is another sweep: {', '.join(differences)}. Resume it with its own {how}, "
            "or name another folder."
        )


def _values(override: str) -> list[str]:
    """Return an override once for each of its values, which is itself if it has one."""
    with contextlib.suppress(HydraException, InputError):
        (parsed,) = parse([override]).values()
        if parsed.is_sweep_override():
            return swept_values(parsed)
    return [override]


def _extend(sweep: Sweep, overrides: Sequence[str], arguments: Sequence[str], jobs: Sequence[Sequence[str]]) -> None:
    """Add the jobs that the sweep does not have yet, which come from further values of its keys; nothing is written."""
    if _lasting(overrides) == sweep.record["overrides"]:
        return
    known = {frozenset(job["overrides"]) for job in sweep.jobs}
    new = {frozenset(job): (job, name) for job, name in zip(jobs, job_names(jobs), strict=True)}
    new = {key: each for key, each in new.items() if key not in known}
    taken = {job["name"].lower() for job in sweep.jobs}
    for number, (job, name) in enumerate(new.values(), 1 + max(job["number"] for job in sweep.jobs)):
        names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
        unique = next(each for each in names if each.lower() not in taken)
        taken.add(unique.lower())
        sweep.add(number, unique, job)
    varies, fixed = _varies(arguments)
    sweep.record |= {"overrides": _lasting(overrides), "varies": varies, "fixed": fixed}


def _require_own_jobs(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Raise InputError if sweep.json, which may come from somebody else, has jobs that are not of this sweep.

    Only typed overrides may say which code to trust and where to write.
    """
    typed, where = parse(arguments), sweep.folder / NAME
    for job in sweep.jobs:
        if job["name"] in (".", "..") or "/" in job["name"]:
            raise InputError(f"{where}: the folder of a job is outside the sweep's folder: {job['name']}.")
        for override in job["overrides"]:
            require_harmless(override, where)
            ((key, stored),) = parse([override]).items()
            trusts = split(override).group == "trusted_packages"
            if key not in typed or (trusts and stored.value() != typed[key].value()):
                raise InputError(f"{where} contains {override}, which does not belong to this sweep: refused.")


def _lasting(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that must stay the same when a sweep is resumed."""
    return [override for override in overrides if not override.startswith(CHANGEABLE)]


def _folder(keys: dict[str, Any], cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Claim and return the folder of a new sweep."""
    if keys.get("dir"):
        folder = Path(str(keys["dir"])).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    experiment = next((o for o in overrides if o.startswith("experiment=")), f"data={cfg.data.name}")
    return claim(Path(cfg.paths.root) / job_name([experiment]) / f"sweep-{run_name(overrides)}")


def _planned(
    folder: Path, overrides: Sequence[str], arguments: Sequence[str], jobs: Sequence[Sequence[str]], searches: bool
) -> Sweep:
    """Return a new sweep with all its jobs; a search has none yet."""
    varies, fixed = _varies(arguments, searches)
    sweep = Sweep.create(folder, _lasting(overrides), varies, fixed)
    if not searches:
        names = job_names(jobs) if varies else [run_name(job) for job in jobs]
        for number, (job, name) in enumerate(zip(jobs, names, strict=True)):
            sweep.add(number, name, job)
    return sweep


def _varies(arguments: Sequence[str], searches: bool = False) -> tuple[dict[str, list[str]], list[str]]:
    """Return key -> values of what a sweep varies, of a search as typed, and the other overrides."""
    parsed = parse(arguments)
    swept = {key: override for key, override in parsed.items() if override.is_sweep_override()}
    varies = {
        key: [line_of(override).partition("=")[2]]
        if searches
        else [v.partition("=")[2] for v in swept_values(override)]
        for key, override in swept.items()
    }
    return varies, [line_of(override) for key, override in parsed.items() if key not in swept]


def _at_once(hydra: DictConfig, cfgs: Sequence[DictConfig], total: int) -> int:
    """Return how many jobs run at a time; in a search, at most the number of trials proposed at a time."""
    launcher = _launcher(hydra)
    total = min(total, hydra.sweeper.get("n_jobs", total))
    if launcher == "joblib" and hydra.launcher.n_jobs != -1:
        places = hydra.launcher.n_jobs
    elif launcher in ("joblib", "submitit_local"):
        places = device_count(cfgs[0].trainer.accelerator) or cores()
    elif launcher == "submitit_slurm":
        places = hydra.launcher.array_parallelism
    else:
        places = 1
    return max(1, min(places, total))


def _for_hydra(hydra: DictConfig, sweep: Sweep, searches: bool) -> list[str]:
    """Return the overrides that tell Hydra the plan."""
    added = [f"hydra.sweep.dir={quoted(str(sweep.folder))}"]
    if not searches:
        added.append(f"hydra.sweeper._target_={PLANNED}")
    if sweep.record["launcher"] == "joblib":
        added.append(f"hydra.launcher.n_jobs={sweep.record['at_once']}")
    if sweep.record["launcher"] == "submitit_slurm" and "requeue" not in hydra.launcher.additional_parameters:
        added.append("+hydra.launcher.additional_parameters.requeue=true")  # a preempted job resumes from last.ckpt
    if searches and hydra.sweeper.sampler.get("seed") is not None:  # else the same values would be drawn again
        added.append(f"hydra.sweeper.sampler.seed={hydra.sweeper.sampler.seed + len(sweep.jobs)}")
    return added
