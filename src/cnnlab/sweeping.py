"""Sweeps (`-m`): from the command line to a plan, to its jobs under any launcher, and to the last word."""

import contextlib
import importlib.util
import itertools
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from cnnlab.config import check, compose, quoted
from cnnlab.errors import InputError, Problems
from cnnlab.files import read_json
from cnnlab.runs.naming import claim, job_name, job_names, run_name
from cnnlab.runs.processes import PARENT, cores, device_count, starts_processes
from cnnlab.runs.sweep import ENDED, NAME, Job, Sweep

EXTRAS = {
    "hydra/launcher=joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": ("hydra_submitit_launcher", "cluster"),
    "hydra/launcher=submitit_slurm": ("hydra_submitit_launcher", "cluster"),
    "hparams_search=optuna": ("hydra_optuna_sweeper", "sweep"),
}
"""Choices that need a package -> its module below hydra_plugins, and the extra of cnnlab that brings it."""
CHANGEABLE = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.n_trials=", "hydra.sweeper.n_jobs=")
"""What may differ when a sweep is resumed: where its jobs run, and how many trials a search has."""
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
PLANNED = "hydra_plugins.cnnlab.sweepers.PlannedSweeper"
SEARCH = "hydra_plugins.cnnlab.sweepers.SearchSweeper"
LOOK_EVERY = 1.0
"""Seconds between two looks at the records of running jobs."""


# --- Before the first job ---


def prepare(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Sweep, list[str]]:
    """Check all that can be known before the first job, claim the folder, write sweep.json, and print the plan.

    Returns the sweep and the overrides that Hydra is started with. Raises one InputError that lists all that is wrong;
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
    searches = hydra is not None and hydra.sweeper._target_ == SEARCH
    arguments = [*_params(hydra), *(override for override in installed if not override.startswith("hydra"))]
    jobs: list[list[str]] = []
    with problems:
        jobs = (_corners if searches else _product)(arguments)
    shared = [override for override in installed if override.startswith("hydra")]
    cfgs: list[DictConfig] = []
    for job in jobs:
        with problems:
            cfgs.append(_checked([*own, *shared, *job], config_dir, _launcher(hydra)))
    keys = _own_keys(own)
    sweep = None
    with problems:
        sweep = _opened(keys, overrides, rest)
    problems.raise_all("The sweep cannot start:")
    assert hydra is not None  # it composes if all the jobs do
    if sweep is None:
        sweep = _planned(_folder(keys, cfgs[0], rest), rest, arguments, jobs, searches)
    total = hydra.sweeper.n_trials if searches else len(sweep.jobs)
    at_once = _at_once(hydra, cfgs, total)
    sweep.record |= {"launcher": _launcher(hydra), "total": total, "at_once": at_once}
    sweep.begin()
    print(plan(sweep, searches), flush=True)
    return sweep, [*rest, *_for_hydra(hydra, sweep, searches)]


def _refuse_single_run_keys(overrides: Sequence[str]) -> None:
    problems = Problems()
    for override in overrides:
        with problems:
            if override.startswith("resume="):
                raise InputError(
                    "resume continues one run: start it without -m. A sweep: sweep.dir=... sweep.resume=true."
                )
            if override.startswith("paths.output_dir="):
                raise InputError("paths.output_dir is the folder of one run: name a sweep's with sweep.dir=FOLDER.")
            if override.startswith("hydra.sweep."):
                raise InputError(f"{override}: name the folder with sweep.dir=FOLDER; a job's is named by what varies.")
    with problems:
        if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            raise InputError("A sweep starts its processes itself: start it once, without torchrun or srun.")
    problems.raise_all("A sweep (-m) is no single run:")


def _missing(override: str) -> bool:
    module, _ = EXTRAS.get(override, (None, None))
    return module is not None and importlib.util.find_spec(f"hydra_plugins.{module}") is None


def _require_extras(overrides: Sequence[str]) -> None:
    problems = Problems()
    for override in overrides:
        with problems:
            if _missing(override):
                raise InputError(
                    f"{override} needs a package that is not here: pip install 'cnnlab[{EXTRAS[override][1]}]'"
                )
    problems.raise_all("Packages are missing:")


def _hydra_node(overrides: Sequence[str], config_dir: str | None) -> DictConfig | None:
    """Hydra's own config under the first of every swept value; None where it does not compose, which the jobs tell."""
    try:
        first = [_first(override) for override in overrides]
        return compose(first, config_dir, with_hydra=True).hydra
    except (InputError, HydraException):
        return None


def _launcher(hydra: DictConfig | None) -> str:
    return hydra.runtime.choices["hydra/launcher"] if hydra else "basic"


def _require_own_sweeper(hydra: DictConfig | None) -> None:
    if hydra and hydra.sweeper._target_ not in (BASIC, SEARCH):
        raise InputError(
            f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']} keeps no record that can be resumed. Leave it out "
            "to run every combination, or search with hparams_search=optuna."
        )


def _params(hydra: DictConfig | None) -> list[str]:
    """hydra.sweeper.params: what an experiment sweeps without being told on the command line."""
    return [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()] if hydra else []


def _parsed(arguments: Sequence[str]) -> dict[str, Override]:
    """The overrides by key, of which the last counts."""
    return {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(list(arguments))}


def _line(override: Override) -> str:
    """An override as it was typed."""
    return override.input_line or ""


def _first(override: str) -> str:
    """The override itself, or with the first of the values it sweeps."""
    (parsed,) = _parsed([override]).values()
    return _values(parsed)[0] if parsed.is_sweep_override() else override


def _values(override: Override) -> list[str]:
    """The override once for each value it sweeps; for both ends of an interval."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={choice}" for choice in override.sweep_string_iterator()]


def _product(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: every combination, the last key varying fastest."""
    try:
        parsed = list(_parsed(arguments).values())
    except HydraException:
        return [list(arguments)]  # composing says what cannot be parsed
    intervals = [_line(o) for o in parsed if o.is_sweep_override() and not o.is_discrete_sweep()]
    if intervals:
        raise InputError(
            f"{', '.join(intervals)}: an interval has no list of values. Search it with hparams_search=optuna."
        )
    return [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def _corners(arguments: Sequence[str]) -> list[list[str]]:
    """Jobs in which every value of a search occurs, and both ends of every interval."""
    try:
        parsed = _parsed(arguments)
    except HydraException:
        return [list(arguments)]
    first = {key: _first(_line(override)) for key, override in parsed.items()}
    values = {key: _values(override) for key, override in parsed.items() if override.is_sweep_override()}
    if not values:
        raise InputError("The search has nothing to vary: give a key an interval, or a list of values.")
    return [list((first | {key: value}).values()) for key, choices in values.items() for value in choices]


def _checked(job: Sequence[str], config_dir: str | None, launcher: str) -> DictConfig:
    """The config of a job; raises InputError that lists what is wrong with it."""
    cfg = compose(job, config_dir)
    check(cfg)
    _require_one_process(cfg.trainer, launcher)
    return cfg


def _require_one_process(trainer: DictConfig, launcher: str) -> None:
    if trainer.num_nodes > 1 and launcher != "submitit_slurm":
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes} in a sweep: let SLURM start the jobs, with "
            f"hydra/launcher=submitit_slurm hydra.launcher.nodes={trainer.num_nodes}."
        )
    if launcher == "joblib" and starts_processes(trainer, when_auto=1):
        raise InputError(
            f"hydra/launcher=joblib runs each job in one process: trainer.strategy={trainer.strategy} "
            f"trainer.devices={trainer.devices} needs several. Leave it out: then they run one after the other."
        )


def _own_keys(own: Sequence[str]) -> dict[str, Any]:
    """sweep.dir and sweep.resume; composing says what is wrong with them."""
    with contextlib.suppress(HydraException):
        return {key.removeprefix("sweep."): override.value() for key, override in _parsed(own).items()}
    return {}


def _folder(keys: dict[str, Any], cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Claim the folder of a new sweep."""
    if keys.get("dir"):
        folder = Path(str(keys["dir"])).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    experiment = next((o for o in overrides if o.startswith("experiment=")), f"data={cfg.data.name}")
    return claim(Path(cfg.paths.root) / job_name([experiment]) / f"sweep-{run_name(overrides)}")


def _opened(keys: dict[str, Any], typed: Sequence[str], overrides: Sequence[str]) -> Sweep | None:
    """The sweep to resume, with its unfinished jobs made pending; None for a new one."""
    resumes = keys.get("resume") is True
    if not keys.get("dir"):
        if resumes:
            raise InputError("sweep.resume=true: which sweep? Add sweep.dir=FOLDER.")
        return None
    folder = Path(str(keys["dir"])).expanduser().absolute()
    if not (folder / NAME).is_file():
        _require_no_other_content(folder)
        if resumes:
            print(f"{folder} holds no sweep yet: nothing to resume, all of it is run.")
        return None
    if not resumes:
        raise InputError(
            f"sweep.dir={folder} holds a sweep already. Continue it with sweep.resume=true, or name another folder."
        )
    sweep = Sweep.read(folder)
    _require_same(sweep, overrides)
    sweep.require_rest()
    return sweep


def _require_no_other_content(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"sweep.dir={folder} is a file: name a folder.")
    if (folder / "run.json").exists():
        raise InputError(f"sweep.dir={folder} holds a single run: name another folder.")


def _require_same(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Raises InputError that says which overrides are not those of the sweep."""
    stored, given = sweep.record["overrides"], _lasting(overrides)
    gone = [override for override in stored if override not in given]
    new = [override for override in given if override not in stored]
    if gone or new:
        parts = [f"it has {' '.join(gone)}"] * bool(gone) + [f"this command has {' '.join(new)}"] * bool(new)
        raise InputError(
            f"{sweep.folder} is another sweep: {', '.join(parts)}. Resume it with its own overrides, "
            "or name another folder."
        )


def _lasting(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith(CHANGEABLE)]


def _planned(
    folder: Path, overrides: Sequence[str], arguments: Sequence[str], jobs: Sequence[Sequence[str]], searches: bool
) -> Sweep:
    """A new sweep: all its jobs, or none yet of a search."""
    parsed = _parsed(arguments)
    swept = {key: override for key, override in parsed.items() if override.is_sweep_override()}
    varies = {
        key: [_line(override).partition("=")[2]] if searches else [v.partition("=")[2] for v in _values(override)]
        for key, override in swept.items()
    }
    fixed = [_line(override) for key, override in parsed.items() if key not in swept]
    sweep = Sweep.create(folder, _lasting(overrides), varies, fixed)
    if not searches:
        names = job_names(jobs) if varies else [run_name(job) for job in jobs]
        for number, (job, name) in enumerate(zip(jobs, names, strict=True)):
            sweep.add(number, name, job)
    return sweep


def _at_once(hydra: DictConfig, cfgs: Sequence[DictConfig], total: int) -> int:
    """How many jobs run at a time; of a search no more than are asked for before the first answers."""
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
    """What Hydra has to know of the plan."""
    added = [f"hydra.sweep.dir={quoted(str(sweep.folder))}"]
    if not searches:
        added.append(f"hydra.sweeper._target_={PLANNED}")
    if sweep.record["launcher"] == "joblib":
        added.append(f"hydra.launcher.n_jobs={sweep.record['at_once']}")
    if sweep.record["launcher"] == "submitit_slurm" and "requeue" not in hydra.launcher.additional_parameters:
        added.append("+hydra.launcher.additional_parameters.requeue=true")  # a preempted job goes on from its last.ckpt
    if searches and hydra.sweeper.sampler.get("seed") is not None:  # or the same values would be drawn once more
        added.append(f"hydra.sweeper.sampler.seed={hydra.sweeper.sampler.seed + len(sweep.jobs)}")
    return added


def plan(sweep: Sweep, searches: bool) -> str:
    """What is about to happen, for the console."""
    record = sweep.record
    done = len(sweep.with_status("finished"))
    what = f"Search of {record['total']} trials" if searches else f"Sweep of {_jobs(record['total'])}"
    where = f", {record['at_once']} at a time" if record["at_once"] > 1 else ""
    lines = [f"{what} in {_shown(sweep.folder)} ({record['launcher']} launcher{where})"]
    heads = ["varies:", *[""] * len(record["varies"])]
    lines += [
        f"  {head:<8}{key} = {', '.join(values)}"
        for head, (key, values) in zip(heads, record["varies"].items(), strict=False)
    ]
    lines.append(f"  {'fixed:':<8}{' '.join(record['fixed']) or 'the defaults'}")
    if done:
        half = sum(sweep.has_checkpoint(job) for job in sweep.jobs if job["status"] != "finished")
        left = record["total"] - done - half
        lines.append(f"  {'resumed:':<9}{done} finished already, {half} to be continued, {left} to be begun")
    else:
        lines.append(f"  {'time:':<8}to be estimated after the first job")
    return "\n".join(lines)


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _shown(folder: Path) -> str:
    """Relative to the working directory where that is shorter to read."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


# --- The jobs ---


def launch(launcher: Launcher, sweep: Sweep, jobs: Sequence[Job]) -> None:
    """Run the jobs under Hydra's launcher, as many at a time as planned, and keep sweep.json up to date meanwhile."""
    for job in jobs:
        sweep.reopen(job)
    sweep.begin()
    name = sweep.record["launcher"]
    size = {"basic": 1, "submitit_local": sweep.record["at_once"]}.get(name, max(1, len(jobs)))
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        overrides = [[*job["overrides"], f"hydra.sweep.subdir={quoted(job['name'])}"] for job in batch]
        returns: Sequence[JobReturn] = []
        reason = "its process ended without a word: killed, or out of memory"
        with _watched(sweep), env_override({PARENT: str(os.getpid())} if name == "joblib" else {}):
            try:
                returns = launcher.launch(overrides, initial_job_idx=batch[0]["number"])
            except Exception as error:  # one job's process was killed, or the cluster refused
                print(f"hydra/launcher={name}: {type(error).__name__}: {error}", flush=True)
        for job, answer in itertools.zip_longest(batch, returns):
            if answer and answer.status == JobStatus.FAILED and job["status"] not in ENDED:
                sweep.give_up(job, f"{type(answer._return_value).__name__}: {answer._return_value}")
                _announce(sweep, [job])
            elif sweep.is_lost(job):
                sweep.give_up(job, reason)
                _announce(sweep, [job])


def run_apart(command: Sequence[str]) -> None:
    """Run a job that starts processes of its own in a process of its own, which can fail or hang without the sweep.

    Lightning's ranks repeat the command that they are started by: here the job's, not the sweep's.
    """
    process = subprocess.Popen(command, env=os.environ | {PARENT: str(os.getpid())})
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code == 130:
        raise KeyboardInterrupt


def share(plain: dict[str, Any], sweep_folder: Path, number: int) -> dict[str, Any]:
    """The config of a job, with its part of a machine on which several jobs of its sweep run at a time.

    Under joblib the GPUs take turns (number modulo their count); processor cores are divided among the jobs.
    """
    sweep = read_json(sweep_folder / NAME)
    if sweep["launcher"] not in ("joblib", "submitit_local"):
        return plain
    trainer, speed = dict(plain["trainer"]), dict(plain["speed"])
    if sweep["launcher"] == "joblib" and (devices := device_count(trainer["accelerator"])):
        trainer["devices"] = [number % devices]
    if speed["num_threads"] is None:
        speed["num_threads"] = max(1, cores() // sweep["at_once"])
    return plain | {"trainer": trainer, "speed": speed}


@contextlib.contextmanager
def _watched(sweep: Sweep) -> Iterator[None]:
    """Say which jobs have ended, while others run."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            _announce(sweep, sweep.refresh())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        _announce(sweep, sweep.refresh())


def _announce(sweep: Sweep, ended: Sequence[Job]) -> None:
    """One line for each job that has ended."""
    before = len(sweep.with_status(*ENDED)) - len(ended)
    for place, job in enumerate(ended, before + 1):
        if job["status"] == "finished":
            best = job.get("best", {})
            score = f", best val/acc {best['val/acc']:.4f} (epoch {best['epoch']})" if "val/acc" in best else ""
            what = f"finished in {_duration(job['wall_seconds'])}{score}"
        else:
            what = f"failed: {_reason(job)}"
        print(f"[{place}/{sweep.record['total']}] {job['name']}: {what}{_remaining(sweep)}", flush=True)


def _reason(job: Job) -> str:
    return job["error"].splitlines()[0].rstrip(".")


def _remaining(sweep: Sweep) -> str:
    """The time that is left, if the jobs to come take as long as those that have finished."""
    left = sweep.record["total"] - len(sweep.with_status(*ENDED))
    seconds = [job["wall_seconds"] for job in sweep.with_status("finished")]
    if not left or not seconds or sweep.record["launcher"] == "submitit_slurm":
        return ""
    rounds = -(-left // sweep.record["at_once"])
    return f"; {left} to go, about {_duration(rounds * sum(seconds) / len(seconds))}"


def _duration(seconds: float) -> str:
    """9 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


# --- After the last job ---


def conclude(sweep: Sweep, command: Sequence[str]) -> int:
    """Print how the sweep ended and what to type next.

    Returns the exit code: 0, that of the first job that failed, or 1 if some did not run.

    command: the program and its arguments, without those that only a resumed sweep has.
    """
    total, failed = sweep.record["total"], sweep.with_status("failed")
    finished = len(sweep.with_status("finished"))
    counts = {"finished": finished, "failed": len(failed), "not finished": max(0, total - finished - len(failed))}
    print(f"\n{_jobs(total)}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}")
    for job in failed:
        print(f"  failed: {job['name']}: {_reason(job)}\n          see {_shown(sweep.path_of(job))}/train.log")
    folder = shlex.quote(_shown(sweep.folder))
    if finished < total:
        again = [word for word in command if not word.startswith("sweep.")]
        print(f"Run the rest:  {shlex.join(again)} sweep.dir={folder} sweep.resume=true")
    if finished:
        print(f"Compare:       cnnlab compare {folder}")
        print(f"TensorBoard:   tensorboard --logdir {folder}")
    return next((job["exit_code"] for job in failed), int(finished < total))
