"""cnnlab's sweepers, in the package where Hydra looks for plugins."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cnnlab.config.overrides import split
from cnnlab.runs.naming import trial_name
from cnnlab.runs.sweep import Sweep
from cnnlab.sweeping.jobs import launch


class PlannedSweeper(Sweeper):
    """Replaces Hydra's basic sweeper: runs the jobs in sweep.json that have not finished."""

    def __init__(self, **arguments: Any) -> None:
        """Ignore the basic sweeper's arguments, which are already part of the plan."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.sweep_folder = Path(config.hydra.sweep.dir)
        self.runner = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        sweep = Sweep.read(self.sweep_folder)
        launch(self.runner, sweep, [job for job in sweep.jobs if job["status"] != "finished"])


class SearchSweeper(Sweeper):
    """Hydra's Optuna sweeper with a study that can be resumed and with its trials in sweep.json.

    A trial and its job have the same number. The value of a trial is the best value of its run's metric.
    """

    def __init__(self, **arguments: Any) -> None:
        os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # Optuna 2 is made for SQLAlchemy 1
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        self.optuna = OptunaSweeper(**arguments)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.optuna.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.search = cast(Any, self.optuna.sweeper)
        self.jobs = _TrialLauncher(self.search.launcher, Path(config.hydra.sweep.dir))
        self.search.launcher = self.jobs
        self.search.direction = "minimize" if self.jobs.sweep.record["mode"] == "min" else "maximize"

    def sweep(self, arguments: list[str]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.search.study_name,
            storage=self.search.storage,
            direction=self.search.direction,
            load_if_exists=True,
        )
        self._settle(study)
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        self.search.n_trials = max(0, self.search.n_trials - len(complete))
        self.search.job_idx = len(study.trials)
        if self.search.n_trials:
            try:
                self.optuna.sweep(arguments)
            except ValueError:  # the sweeper asks for the best trial, which does not exist if all have failed
                if self.jobs.sweep.with_status("finished"):
                    raise

    def _settle(self, study: Any) -> None:
        """Finish the trials that were running when the search was stopped, and give the study their values."""
        from optuna.trial import TrialState

        jobs = {job["number"]: job for job in self.jobs.sweep.jobs}
        open_trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.jobs.run([jobs[trial.number] for trial in open_trials if trial.number in jobs])
        for trial in open_trials:
            value = self.jobs.value_of(jobs.get(trial.number, {}))
            study.tell(trial.number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)


class _TrialLauncher(Launcher):
    """Adds each trial to sweep.json before it is launched, and returns the value that its run recorded."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.launcher = launcher
        self.sweep = Sweep.read(folder)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: the wrapped launcher is already set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            varying = [override for override in overrides if split(override).key in self.sweep.record["varies"]]
            jobs.append(self.sweep.add(number, trial_name(number, varying), overrides))
        self.run(jobs)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=self.value_of(job)) for job in jobs]

    def run(self, jobs: list[dict[str, Any]]) -> None:
        launch(self.launcher, self.sweep, [job for job in jobs if job["status"] != "finished"])

    def value_of(self, job: dict[str, Any]) -> float | None:
        return job.get("best", {}).get(self.sweep.record["metric"]) if job.get("status") == "finished" else None
