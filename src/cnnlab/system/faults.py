"""Translate failures of the machine and of other libraries (full disks, lost processes, no login) into cnnlab's errors."""

import errno
import re
import traceback
from concurrent.futures import BrokenExecutor
from typing import NamedTuple

from cnnlab.errors import CnnlabError, DataError, InputError

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


class Known(NamedTuple):
    """A kind of error of another library that is no bug of cnnlab's."""

    library: str
    """Beginning of the name of the module that defines the error or one of its bases; empty for Python's own errors."""
    message: str
    """Regular expression that the message contains."""
    kind: type[CnnlabError]
    sentence: str
    """What cnnlab says; {} is the message in one line."""


OUT_OF_MEMORY = "Out of memory. Use smaller batches (data.batch_size) or images (model.image_size)."
KNOWN = (
    Known("", r"can't allocate memory|std::bad_alloc|CUDA error: out of memory", DataError, OUT_OF_MEMORY),
    Known("", r"CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)", DataError, OUT_OF_MEMORY),
    Known(
        "",
        "shared memory",  # of torch and of NCCL
        DataError,
        "Out of shared memory: /dev/shm is too small. In a container, give it more (docker run --shm-size=1g).",
    ),
    Known(
        "",
        "no kernel image is available",
        DataError,
        "This torch was not built for this GPU. Install a build that is (https://pytorch.org), or use trainer=cpu.",
    ),
    Known(
        "",
        "CUDA driver version is insufficient|Found no NVIDIA driver|NVIDIA driver on your system is too old",
        DataError,
        "The NVIDIA driver is missing or too old for this torch. Update it, or use trainer=cpu.",
    ),
    Known(
        "",
        "uncorrectable ECC error|unspecified launch failure|GPU is lost|CUDA-capable device\\(s\\) is/are busy",
        DataError,
        "The GPU has failed or is not free: {}. Look at it with nvidia-smi, or use trainer=cpu.",
    ),
    Known(
        "",
        "does not have a deterministic implementation",
        InputError,
        "speed.deterministic=true is not possible: {}. Use trainer.deterministic=warn, or another network.",
    ),
    Known("", "cannot cache function.*no locator", DataError, "{}. Let NUMBA_CACHE_DIR name a folder for its cache."),
    Known("", "NCCL error", DataError, "The GPUs of the run cannot exchange data: {}. NCCL_DEBUG=WARN says more."),
    Known("torch._dynamo", "", InputError, "torch.compile does not work here: {}. Set speed.compile=false."),
    Known("torch._inductor", "", InputError, "torch.compile does not work here: {}. Set speed.compile=false."),
    Known(
        "torch.distributed",
        "",
        DataError,
        "The processes of the run cannot reach each other: {}. Check MASTER_ADDR, MASTER_PORT and the firewall.",
    ),
    Known("lightning", "", InputError, "{}"),
    Known("mlflow", "", DataError, "MLflow: {}. Check logger.mlflow, or choose another logger."),
    Known("wandb", "", DataError, "Weights & Biases: {}. Log in with wandb login, or set logger.wandb.offline=true."),
    Known("sqlite3", "", DataError, "The database cannot be used: {}. Check that its folder exists and has room."),
    Known("sqlalchemy", "", DataError, "The database cannot be used: {}. Check that its folder exists and has room."),
    Known("optuna", "", DataError, "Optuna: {}. Check hydra.sweeper.storage."),
    Known("safetensors", "", DataError, "A .safetensors file cannot be read: {}. It is damaged; remove it."),
    Known("httpx", "", DataError, "The connection failed: {}. Try again, or download the file yourself."),
    Known("huggingface_hub", "", DataError, "The Hugging Face Hub: {}. Try again, or download the file yourself."),
)
"""The kinds of errors of other libraries that are known, the first that fits counts."""


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
    if _out_of_memory(error):
        return DataError(OUT_OF_MEMORY)
    return _of_library(error) or (_of_system(error) if isinstance(error, OSError) else None)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether Python, the system or a GPU (torch.OutOfMemoryError) is out of memory; KNOWN has others."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _of_library(error: BaseException) -> CnnlabError | None:
    """Return what an error of another library means; None if it is not known.

    Errors of Python's own, which torch raises too, are known by their messages only, and only RuntimeErrors.
    """
    if not isinstance(error, Exception):  # an exit, or Ctrl-C
        return None
    modules = [kind.__module__ for kind in type(error).__mro__]
    for known in KNOWN:
        of_library = isinstance(error, RuntimeError) if not known.library else _is_of(known.library, modules)
        if of_library and re.search(known.message, str(error)):
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            return known.kind(known.sentence.format(reason))
    return None


def _is_of(library: str, modules: list[str]) -> bool:
    return any(module == library or module.startswith(f"{library}.") for module in modules)


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
