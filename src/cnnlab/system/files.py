"""Files are written whole or not at all, and read without ever executing what is in them."""

import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cnnlab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"torch.uint8": "U8", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
"""What safetensors calls the types."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there: readers see the old file or the new one.

    durable: wait until the disk has it, so that this holds after a power cut too.
    Raises OSError with the path as its filename, and leaves nothing behind, if that cannot be done.
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
        if isinstance(cause, OSError) and cause.errno is not None:  # not of a connection, which `write` may read from
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def write_bytes(path: Path, contents: bytes) -> None:
    """Write bytes atomically."""
    write_atomically(path, lambda file: file.write(contents))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_safetensors(file: IO[bytes], tensors: "Mapping[str, Tensor]") -> None:
    """What safetensors.torch.save_file writes of contiguous tensors on the CPU, without copying each of them first.

    Eight bytes with the length of the header; the header, JSON with type, shape and place of each tensor; their bytes
    (github.com/huggingface/safetensors#format). Tensors are of uint8, float32, float16 or bfloat16.
    """
    import torch

    header, place = {}, 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        header[name] = {"dtype": DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.flatten().view(torch.uint8).numpy().data)


class MappedTensors:
    """The tensors of a file of `write_safetensors` by name: views of its memory map, made when they are asked for.

    A view takes a third of the time of safetensors' own, and no file stays open.
    Raises SafetensorError if the file is damaged, OSError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import torch
        from safetensors import safe_open

        safe_open(path, framework="pt")  # checks all that the header says
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        try:
            contents = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        except RuntimeError as error:  # torch's word for what mmap refuses
            raise OSError(str(error)) from error
        self._tensors = contents[8 + length :]
        types = {short: getattr(torch, name.removeprefix("torch.")) for name, short in DTYPES.items()}
        shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._places: dict[str, tuple[int, int, torch.dtype, tuple[int, ...]]] = {}
        """Name -> first byte, byte behind the last, type and shape, of which equal ones are kept once."""
        for name, about in header.items():
            shape = tuple(about["shape"])
            self._places[name] = (*about["data_offsets"], types[about["dtype"]], shapes.setdefault(shape, shape))

    def names(self) -> Iterable[str]:
        return self._places.keys()

    def __getitem__(self, name: str) -> "Tensor":
        """Not to be written to."""
        start, stop, dtype, shape = self._places[name]
        return self._tensors[start:stop].view(dtype).view(shape)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities become null, as JSON has no word for them."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The contents of a JSON file; raises DataError if it cannot be read as such."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_json, parse_float=_finite_float)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}.") from error


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is larger than any number")
    return value


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file; raises DataError if it cannot be read as such.

    Tags that name Python objects are refused, and so are aliases, by which a few lines can stand for billions.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it has aliases, which no file of cnnlab has")
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


def load_tensors(path: Path) -> dict[str, Any]:
    """The contents of a `.safetensors` file, or of a `.pth` / `.ckpt` file that holds tensors and plain values only.

    Raises DataError if the file is missing, damaged, or would need unpickling of anything else.
    """
    import torch

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} was not opened: it holds Python objects that could run code on loading "
            f"({_first_line(error)}). Save a plain state_dict of tensors, or use .safetensors."
        ) from error
    except Exception as error:  # zip, EOF, runtime and safetensors errors share no narrower base
        raise DataError(
            f"{path} cannot be read as weights: {_first_line(error)}. The file is damaged or no weights file."
        ) from error
    if not isinstance(contents, dict):
        raise DataError(f"{path} holds a {type(contents).__name__}, not a state_dict.")
    return contents


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unsupported = next((line for line in lines if line.startswith("WeightsUnpickler error")), None)
    return (unsupported or (lines[0] if lines else type(error).__name__)).rstrip(".")
