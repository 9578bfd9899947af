"""The record of a sweep, `sweep.json`: its plan and the status of each job."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnnlab.errors import DataError, InputError
from cnnlab.runs.folder import read_record, remove_events
from cnnlab.system.files import read_json, write_json
from cnnlab.system.processes import is_alive, this_process

NAME = "sweep.json"
KEPT = ("best", "wall_seconds", "error", "exit_code")
"""Entries that sweep.json copies from a job's run.json."""

ENDED = ("finished", "failed")
LONGEST_NAME = 255
"""Bytes of the longest file name on Linux, macOS and Windows."""

Job = dict[str, Any]


class Sweep:
    """The folder of a sweep and its record; only the process that runs the sweep writes it.

    record: overrides (as typed), varies (key -> values), fixed, launcher, metric (such as val/acc) and its mode, total
    (number of jobs, including those that a search has yet to propose), at_once (jobs that run at a time), process,
    jobs. Each job has number, name (of its folder), overrides, status, and once it has ended best, wall_seconds, error
    and exit_code. The run.json of a job is authoritative; sweep.json is a summary.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record
        self._lock = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """Return the sweep in `folder`, updated from the records of its jobs.

        Raises InputError if `folder` has no sweep, and DataError if its record is damaged.
        """
        if not (folder / NAME).is_file():
            raise InputError(f"{folder} is not the folder of a sweep: it has no {NAME}.")
        record = read_json(folder / NAME)
        if not _is_plan(record):
            raise DataError(f"{folder / NAME} is damaged or not the record of a sweep: name another folder.")
        sweep = cls(folder, record)
        sweep._look_at(sweep.jobs)
        return sweep

    @classmethod
    def create(
        cls, folder: Path, overrides: Sequence[str], varies: dict[str, list[str]], fixed: Sequence[str]
    ) -> "Sweep":
        """Return a new sweep without jobs; nothing is written yet."""
        record = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "overrides": list(overrides),
            "varies": varies,
            "fixed": list(fixed),
            "jobs": [],
        }
        return cls(folder, record)

    @property
    def jobs(self) -> list[Job]:
        return self.record["jobs"]

    def with_status(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs if job["status"] in statuses]

    def path_of(self, job: Job) -> Path:
        """Return the run folder of a job."""
        return self.folder / job["name"]

    def add(self, number: int, name: str, overrides: Sequence[str]) -> Job:
        """Append a pending job and return it."""
        job = {"number": number, "name": name, "overrides": list(overrides), "status": "pending"}
        self.jobs.append(job)
        return job

    def begin(self) -> None:
        """Write sweep.json with this process as the owner of the sweep."""
        self.record["process"] = this_process()
        self.write()

    def write(self) -> None:
        write_json(self.folder / NAME, self.record)

    def refresh(self) -> list[Job]:
        """Update the jobs that had not ended; write sweep.json if one has changed; return those that have ended."""
        with self._lock:
            changed = self._look_at(self.with_status("pending", "running", "interrupted"))
            if changed:
                self.write()
        return [job for job in changed if job["status"] in ENDED]

    def require_rest(self) -> None:
        """Raise InputError if another process still runs this sweep or one of its jobs."""
        busy = {"The sweep": self.record.get("process")}
        busy |= {f"Its job {job['name']}": self._process_of(job) for job in self.with_status("running")}
        for what, process in busy.items():
            if process and process != this_process() and is_alive(process):
                raise InputError(
                    f"{what} is still being run by process {process['pid']}, in {self.folder}. "
                    "Wait for it or stop it, then resume."
                )

    def reopen(self, job: Job) -> None:
        """Make a job pending again, in its run.json too; remove its event files if it has no checkpoint to continue."""
        run = read_record(self.path_of(job))
        if run:
            write_json(self.path_of(job) / "run.json", run | {"status": "pending"})
        if not self.has_checkpoint(job):
            remove_events(self.path_of(job))
        self._look_at([job])

    def give_up(self, job: Job, reason: str, exit_code: int) -> None:
        """Record the failure of a job whose process could not record it itself."""
        run = read_record(self.path_of(job)) | {"status": "failed", "error": reason, "exit_code": exit_code}
        write_json(self.path_of(job) / "run.json", run)
        with self._lock:
            self._look_at([job])
            self.write()

    def is_lost(self, job: Job) -> bool:
        """Return whether a job's status is running although its process has ended."""
        return job["status"] == "running" and not is_alive(self._process_of(job))

    def has_checkpoint(self, job: Job) -> bool:
        return (self.path_of(job) / "checkpoints" / "last.ckpt").is_file()

    def _look_at(self, jobs: list[Job]) -> list[Job]:
        """Update jobs from their run.json; return those whose status has changed."""
        changed = []
        for job in jobs:
            run = read_record(self.path_of(job))
            status = run.get("status", "pending")
            if status != job["status"]:
                changed.append(job)
            for key in KEPT:
                job.pop(key, None)
            job |= {"status": status} | {key: run[key] for key in KEPT if key in run and status in ENDED}
        return changed

    def _process_of(self, job: Job) -> dict[str, Any] | None:
        return read_record(self.path_of(job)).get("process")


def _is_plan(record: Any) -> bool:
    """Return whether a record has all entries that the code relies on, with the right types."""
    kinds = {"varies": dict, "launcher": str, "metric": str, "mode": str, "total": int, "at_once": int, "jobs": list}
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(key), kind) for key, kind in kinds.items())
        and isinstance(record.get("process"), dict | None)
        and record["at_once"] > 0
        and all(map(_are_strings, (record.get("overrides"), record.get("fixed"), *record["varies"].values())))
        and all(map(_is_job, record["jobs"]))
    )


def _is_job(job: Any) -> bool:
    kinds = {"number": int, "name": str, "status": str}
    known = isinstance(job, dict) and all(isinstance(job.get(key), kind) for key, kind in kinds.items())
    return known and _is_name(job["name"]) and _are_strings(job.get("overrides"))


def _is_name(name: str) -> bool:
    """Return whether a folder can have this name on common file systems."""
    return "\0" not in name and len(name.encode(errors="surrogatepass")) <= LONGEST_NAME


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
