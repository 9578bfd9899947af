"""Find the run folder of a SLURM job that was requeued, so that it continues there."""

import os
from collections.abc import Iterable
from pathlib import Path

from cnnlab.runs.folder import read_record, remove_events


def begun_before(candidates: Iterable[Path]) -> Path | None:
    """Return the folder in which this requeued job began; None outside of SLURM and on a job's first start.

    Removes the event files in that folder if it has no checkpoint to continue from. Raises DataError if the record of
    a candidate cannot be read.
    """
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    job = os.environ["SLURM_JOB_ID"]
    found = next((folder for folder in candidates if read_record(folder).get("slurm_job") == job), None)
    if found and not (found / "checkpoints" / "last.ckpt").is_file() and os.environ.get("SLURM_PROCID", "0") == "0":
        remove_events(found)
    return found
