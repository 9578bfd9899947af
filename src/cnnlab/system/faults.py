"""Translate failures of the machine and of other libraries (full disks, no login) into cnnlab's errors."""

import errno
import re
import textwrap
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
    errno.EADDRINUSE: "another process uses the port",
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was closed by the other side",
    errno.ETIMEDOUT: "the connection timed out",
    errno.ENETUNREACH: "the network cannot be reached",
}
REMEDY = {
    errno.ENOSPC: "Free some space, or choose other folders with paths.output_dir and paths.cache_dir.",
    errno.EDQUOT: "Free some space, or choose other folders with paths.output_dir and paths.cache_dir.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or lower data.num_workers.",
    errno.EAGAIN: "Raise the limit on processes (ulimit -u, docker run --pids-limit), or lower data.num_workers.",
    errno.EADDRINUSE: "Choose another port.",
    **dict.fromkeys(
        (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENETUNREACH), "Check the network and the address."
    ),
}
ELSEWHERE = "Change its permissions, or choose other folders with paths.output_dir and paths.cache_dir."


class Known(NamedTuple):
    """A kind of error of another library that is no bug of cnnlab's."""

    libraries: str
    """Beginnings of the name of the module that defines the error or one of its bases; empty: any RuntimeError."""
    message: str
    """Regular expression that the message contains; empty: any message."""
    kind: type[CnnlabError]
    sentence: str
    """What cnnlab says; {} is the message in one line."""


MEMORY = "Out of memory. Use smaller batches (data.batch_size) or images (model.image_size)."
SHARED = "Out of shared memory: /dev/shm is too small. In a container, give it more (docker run --shm-size=1g)."
FILES = f"Too many files are open. {REMEDY[errno.EMFILE]}"
BUILD = "This torch does not fit the GPU: {}. Install a build that does (https://pytorch.org), or use trainer=cpu."
DRIVER = "The NVIDIA driver is missing or too old for this torch. Update it, or use trainer=cpu."
CUDNN = "cuDNN does not work here: {}. Try smaller batches, install torch again, or use trainer=cpu."
GPU = "The GPU has failed or is not free: {}. Look at it with nvidia-smi, or use trainer=cpu."
TARGET = "The GPU met an index out of range, mostly a class of a target: {}. With trainer=cpu the message says which."
MPS = "Apple's GPU cannot compute this: {}. Use trainer=cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1."
REPEATABLE = "speed.deterministic=true is not possible: {}. Use trainer.deterministic=warn, or another network."
NUMBA = "{}. Let NUMBA_CACHE_DIR name a folder for its cache."
BETWEEN_GPUS = "The GPUs of the run cannot exchange data: {}. NCCL_DEBUG=WARN says more."
BETWEEN = "The processes of the run cannot reach each other: {}. Check MASTER_ADDR, MASTER_PORT and the firewall."
COMPILE = "torch.compile does not work here: {}. Set speed.compile=false."
MLFLOW = "MLflow: {}. Check logger.mlflow.tracking_uri, or choose another logger."
WANDB = "Weights & Biases: {}. Log in with wandb login, or set logger.wandb.offline=true."
DATABASE = "The database cannot be used: {}. Check that its folder exists and has room."
DAMAGED = "A file is damaged or of another kind: {}. Replace it."
NETWORK = "The connection failed: {}. Try again, or download the file yourself."
KNOWN = (
    Known("", r"can't allocate memory|std::bad_alloc|(CUDA error:|(MPS|XPU).*) out of memory", DataError, MEMORY),
    Known("", r"CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)", DataError, MEMORY),
    Known("", r"Too many open files|items of ancdata", DataError, FILES),
    Known("", r"shared memory", DataError, SHARED),
    Known("", r"no kernel image is available|not compiled with CUDA", DataError, BUILD),
    Known("", r"driver version is insufficient|Found no NVIDIA|NVIDIA driver on your .* too old", DataError, DRIVER),
    Known("", r"cuDNN|CUDNN|GET was unable to find an engine", DataError, CUDNN),
    Known("", r"device-side assert", DataError, TARGET),
    Known("", r"NCCL error|NCCL communicator", DataError, BETWEEN_GPUS),
    Known("", r"CUDA error|No CUDA GPUs|CUDA unknown error|GPU is lost", DataError, GPU),
    Known("", r"MPS (device|framework)", DataError, MPS),
    Known("", r"does not have a deterministic implementation", InputError, REPEATABLE),
    Known("", r"cannot cache function.*no locator", DataError, NUMBA),
    Known("", r"\bgloo\b", DataError, BETWEEN),
    Known("", r"PytorchStreamReader|invalid magic number", DataError, DAMAGED),
    Known("pickle zipfile tarfile zlib lzma safetensors PIL", "", DataError, DAMAGED),
    Known("torch._dynamo torch._inductor", "", InputError, COMPILE),
    Known("torch.distributed", "", DataError, BETWEEN),
    Known("lightning", "", InputError, "trainer: {}."),
    Known("mlflow", r"URI|maintenance mode", InputError, MLFLOW),  # that of logger.mlflow.tracking_uri
    Known("mlflow", "", DataError, MLFLOW),
    Known("wandb", "", DataError, WANDB),
    Known("sqlite3 sqlalchemy", "", DataError, DATABASE),
    Known("optuna", "", DataError, "Optuna: {}. Check hydra.sweeper.storage."),
    Known("submitit", "", DataError, "SLURM: {}. Its logs are in the folder of the sweep, below .submitit."),
    Known("huggingface_hub", "", DataError, "The Hugging Face Hub: {}. Try again, or download the file yourself."),
    Known("httpx requests urllib urllib3 http ssl socket", "", DataError, NETWORK),
)
"""The kinds of errors of other libraries that are known; the first that fits counts."""


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
        return DataError(MEMORY)
    return _of_library(error) or (_of_system(error) if isinstance(error, OSError) else None)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether Python, the system or a GPU (torch.OutOfMemoryError) is out of memory; KNOWN has others."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _of_library(error: BaseException) -> CnnlabError | None:
    """Return what an error of another library means; None if it is not known."""
    if not isinstance(error, Exception):  # an exit, or Ctrl-C
        return None
    modules = [kind.__module__.lstrip("_") for kind in type(error).__mro__]
    for known in KNOWN:
        prefixes = tuple(f"{library}." for library in known.libraries.split())
        fits = any(f"{module}.".startswith(prefixes) for module in modules)
        if (fits if prefixes else isinstance(error, RuntimeError)) and re.search(known.message, str(error)):
            found = FROM_WORKER.match(str(error))
            text = found["message"] if found else str(error)
            reason = textwrap.shorten(text, 400, placeholder=" ...").rstrip(".") or type(error).__name__
            return known.kind(known.sentence.format(reason))
    return None


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
