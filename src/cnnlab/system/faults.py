"""Translate failures of the machine (full disks, missing permissions, killed processes) into cnnlab's errors."""

import errno
import re
import traceback
from concurrent.futures import BrokenExecutor

from cnnlab.errors import CnnlabError, DataError

REASON = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EMFILE: "too many files are open",
    errno.EAGAIN: "no further process may be started",
}
REMEDY = {
    errno.ENOSPC: "Free some space, or choose other folders with paths.output_dir and paths.cache_dir.",
    errno.EDQUOT: "Free some space, or choose other folders with paths.output_dir and paths.cache_dir.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or lower data.num_workers.",
    errno.EAGAIN: "Raise the limit on processes (ulimit -u, docker run --pids-limit), or lower data.num_workers.",
}
ELSEWHERE = "Change its permissions, or choose other folders with paths.output_dir and paths.cache_dir."
FROM_WORKER = re.compile(r"Caught \w+ in DataLoader worker.*\n[\w.]*Error: (?P<message>.*)", re.DOTALL)
"""Matches the message of an error that torch re-raises from a worker; it contains the worker's whole traceback."""


def translate_error(error: BaseException) -> CnnlabError | None:
    """Return a CnnlabError that says what happened and what to do; None if the machine did not cause `error`."""
    if isinstance(error, CnnlabError):
        found = FROM_WORKER.match(str(error))
        return type(error)(found["message"].strip()) if found else error
    if _lost_a_worker(error):
        return DataError(
            "A data loading process was killed, most likely because the machine ran out of memory. "
            "Use fewer of them: data.num_workers=1, or 0 for none."
        )
    if isinstance(error, RuntimeError) and "shared memory" in str(error):  # of torch and of NCCL
        return DataError(
            "Out of shared memory: /dev/shm is too small. In a container, give it more (docker run --shm-size=1g)."
        )
    if _out_of_memory(error):
        return DataError("Out of memory. Use smaller batches (data.batch_size) or images (model.image_size).")
    return _of_system(error) if isinstance(error, OSError) else None


def _out_of_memory(error: BaseException) -> bool:
    """Return whether Python, a GPU (torch.OutOfMemoryError) or torch's allocator on the CPU is out of memory."""
    refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    refused |= isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _lost_a_worker(error: BaseException) -> bool:
    """Return whether a worker died: torch or its pool reports it, or the pipe from the worker broke.

    Torch reports it from a signal handler, so whatever code was running may have wrapped the error in its own.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:  # causes can form a cycle
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(each, RuntimeError) and str(each).startswith("DataLoader worker (pid") for each in chain):
        return True
    if any(isinstance(each, BrokenExecutor) for each in chain):
        return True
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return isinstance(error, ConnectionError | EOFError) and any("multiprocessing" in file for file in files)


def _of_system(error: OSError) -> DataError:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in REASON:
        return DataError(f"{place}{REASON[error.errno]}. {REMEDY.get(error.errno, ELSEWHERE)}")
    found = FROM_WORKER.match(str(error))
    reason = found["message"].strip() if found else f"{place}{error.strerror or str(error) or type(error).__name__}"
    return DataError(f"{reason.rstrip('.')}. Check that the file exists and is of the right kind.")
