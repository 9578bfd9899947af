"""A job that SLURM starts again, after it took its machine away, goes on in the folder that it had."""

import os
from collections.abc import Iterable
from pathlib import Path

from cnnlab.runs.folder import read_record, remove_events


def begun_before(candidates: Iterable[Path]) -> Path | None:
    """The one of the folders in which this job began; None outside of SLURM, and for a job that begins.

    What TensorBoard showed is removed if there is no checkpoint to go on from. Raises DataError if a record among the
    folders cannot be read.
    """
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    job = os.environ["SLURM_JOB_ID"]
    found = next((folder for folder in candidates if read_record(folder).get("slurm_job") == job), None)
    if found and not (found / "checkpoints" / "last.ckpt").is_file() and os.environ.get("SLURM_PROCID", "0") == "0":
        remove_events(found)
    return found
