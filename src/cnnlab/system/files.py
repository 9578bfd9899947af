"""Write files atomically and read them without executing anything in them."""

import json
import logging
import math
import os
import pickle
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cnnlab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
DTYPES = {"torch.uint8": "U8", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
"""Torch dtype -> its name in a safetensors header."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Let `write` fill a temporary file next to `path`, then rename it: readers see the old file or the new one.

    durable: sync to disk first, so that this holds after a power cut too.
    Raises OSError with `path` as its filename if writing fails; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                write(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides an OSError
        if isinstance(cause, OSError) and cause.errno is not None:  # network errors inside `write` have no errno
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def write_bytes(path: Path, contents: bytes) -> None:
    """Write bytes atomically."""
    write_atomically(path, lambda file: file.write(contents))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def printable(name: str) -> str:
    """Return the name of a file or folder on one line and valid as UTF-8; different names stay different.

    Control characters, line separators and bytes that are not UTF-8 become escapes such as \\n, and \\ becomes \\\\.
    """
    odd = ("Cc", "Cs", "Zl", "Zp")
    return "".join(
        letter.encode("unicode_escape").decode() if letter == "\\" or unicodedata.category(letter) in odd else letter
        for letter in name
    )


def write_safetensors(file: IO[bytes], tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors as safetensors.torch.save_file does, but without copying each of them first.

    tensors: contiguous, on the CPU, of dtype uint8, float32, float16 or bfloat16.
    The format (github.com/huggingface/safetensors#format) is eight bytes with the length of the header; the header,
    JSON with the dtype, shape and offsets of each tensor; then the bytes of the tensors.
    """
    import torch

    header, place = {}, 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        header[name] = {"dtype": DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors to 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.flatten().view(torch.uint8).numpy().data)


class MappedTensors:
    """The tensors of a file written by `write_safetensors`, by name, as views of its memory map.

    Views are made on access, which is faster than safetensors' own access, and the file does not stay open.
    Raises SafetensorError if the file is damaged, OSError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import torch
        from safetensors import safe_open

        safe_open(path, framework="pt")  # validates the header
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        try:
            contents = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        except RuntimeError as error:  # how torch reports a failed mmap
            raise OSError(str(error)) from error
        self._tensors = contents[8 + length :]
        types = {short: getattr(torch, name.removeprefix("torch.")) for name, short in DTYPES.items()}
        shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._places: dict[str, tuple[int, int, torch.dtype, tuple[int, ...]]] = {}
        """Name -> first byte, end byte (exclusive), dtype and shape; equal shapes share one tuple."""
        for name, about in header.items():
            shape = tuple(about["shape"])
            self._places[name] = (*about["data_offsets"], types[about["dtype"]], shapes.setdefault(shape, shape))

    def names(self) -> Iterable[str]:
        return self._places.keys()

    def __getitem__(self, name: str) -> "Tensor":
        """Return the tensor `name`; it must not be written to."""
        start, stop, dtype, shape = self._places[name]
        return self._tensors[start:stop].view(dtype).view(shape)


def files_below(folder: Path) -> list[Path]:
    """Return the files below `folder`, sorted, also those in linked folders; hidden files and folders are left out.

    Broken links are included, so that opening them reports an error. A link back to a folder that contains it is not
    followed; the log names it. Raises DataError for a folder that cannot be read.
    """
    return sorted(
        walk(folder, lambda link: log.warning("%s leads back to a folder above it and is not followed.", link))
    )


def walk(folder: Path, skip_loop: Callable[[Path], object] = lambda link: None) -> Iterator[Path]:
    """Yield what `files_below` returns, unsorted; call `skip_loop` with each folder that is not followed."""
    waiting = [(folder, {_identity(parent.stat()) for parent in folder.resolve().parents})]
    while waiting:
        place, above = waiting.pop()
        try:
            identity = _identity(place.stat())
            if identity in above:
                skip_loop(place)
                continue
            with os.scandir(place) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{place}: {error.strerror or error}") from error
        for entry in entries:
            path = place / entry.name
            if not _is(entry.is_dir):
                if _is(entry.is_file) or entry.is_symlink():
                    yield path
            else:
                waiting.append((path, above | {identity}))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is(kind: Callable[[], bool]) -> bool:
    """Return whether a directory entry is of a kind; False for a link that leads to itself."""
    try:
        return kind()
    except OSError:
        return False


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities become null, because JSON cannot represent them."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file; raise DataError if it is missing or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_json, parse_float=_finite_float)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}.") from error


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is not valid JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a float")
    return value


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file; raise DataError if it is missing or not valid YAML.

    Tags that name Python objects are refused, and so are aliases: with them, a few lines can expand to billions.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it uses YAML aliases, which cnnlab never writes")
        return yaml.load(text, loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}.") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def load_tensors(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return the contents of a `.safetensors`, `.pth` or `.ckpt` file that holds only tensors and plain values.

    mapped: read tensors from the file only when they are used, for callers that want the plain values.
    Raises DataError if the file is missing or damaged, or if loading it would unpickle anything else.
    """
    import torch

    if not path.is_file():
        raise DataError(f"File not found: {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mmap = mapped and zipfile.is_zipfile(path)
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not opened: it holds Python objects that could run code on loading "
            f"({_first_line(error)}). Save a plain state_dict of tensors, or use .safetensors."
        ) from error
    except Exception as error:  # zip, EOF, runtime and safetensors errors share no narrower base
        raise DataError(
            f"{path} cannot be read as weights: {_first_line(error)}. The file is damaged or does not hold weights."
        ) from error
    if not isinstance(contents, dict):
        raise DataError(f"{path} holds a {type(contents).__name__}, not a state_dict.")
    return contents


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unsupported = next((line for line in lines if line.startswith("WeightsUnpickler error")), None)
    return (unsupported or (lines[0] if lines else type(error).__name__)).rstrip(".")
