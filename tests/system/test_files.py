"""Files: read without running what is in them, written whole or not at all."""

import json
import pickle
import stat
from pathlib import Path

import pytest
import torch
from malicious import Malicious
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cnnlab.errors import DataError
from cnnlab.system.files import (
    MappedTensors,
    load_tensors,
    printable,
    write_atomically,
    write_bytes,
    write_json,
    write_safetensors,
    write_text,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def dump_pickle(contents: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(contents, protocol=2))


@pytest.mark.parametrize("save", [torch.save, dump_pickle])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt"])
def test_file_that_would_run_code_is_refused_without_running_it(tmp_path, ending, save):
    marker, path = tmp_path / "was_run", tmp_path / f"bad{ending}"
    save({"weight": Malicious(marker)}, path)
    with pytest.raises(DataError, match=rf"bad\{ending} was not opened: .*could run code"):
        load_tensors(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))  # it is as malicious as it claims
    assert marker.exists()


def test_pickled_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "network.pth")
    with pytest.raises(DataError, match=r"could run code.*Save a plain state_dict"):
        load_tensors(tmp_path / "network.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_tensors_come_back_as_they_were_saved(tmp_path, ending):
    path = tmp_path / f"weights{ending}"
    state = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7), "half": torch.ones(2).bfloat16()}
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    found = load_tensors(path)
    assert found["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found["count"].item(), found["count"].dtype) == (7, torch.int64)
    assert (found["half"].tolist(), found["half"].dtype) == ([1, 1], torch.bfloat16)
    assert len(found) == 3


def test_mapped_tensors_are_safetensors_own(tmp_path):
    """Of every type that is written, of other shapes side by side, and of an empty one."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "pixels": torch.randint(0, 256, (5, 7, 3), generator=generator, dtype=torch.uint8),
        "odd": torch.randint(0, 256, (3,), generator=generator, dtype=torch.uint8),
        "none": torch.empty(0, 3, dtype=torch.uint8),
    }
    floats = {str(dtype): torch.randn(2, 3, generator=generator).to(dtype) for dtype in FLOATS}
    for number, written in enumerate((tensors, floats)):
        path = tmp_path / f"{number}.safetensors"
        with path.open("wb") as file:
            write_safetensors(file, written)
        mapped, expected = MappedTensors(path), load_file(path)
        assert set(mapped.names()) == set(expected) == set(written)
        for name, tensor in written.items():
            assert (mapped[name].dtype, mapped[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(mapped[name], expected[name])
            assert torch.equal(mapped[name], tensor)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_mapped_file_that_is_too_short_is_found_damaged(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(1000.0)}, path)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents)) if kept == 0.5 else kept])
    with pytest.raises((SafetensorError, OSError)):
        MappedTensors(path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_truncated_file_is_named(tmp_path, ending, kept):
    path = tmp_path / f"short{ending}"
    state = {"weight": torch.arange(1000.0)}
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents)) if kept == 0.5 else kept])
    with pytest.raises(DataError, match=rf"short\{ending}.*damaged"):
        load_tensors(path)


def test_safetensors_of_other_bytes_are_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match=r"x\.safetensors cannot be read as weights"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_missing_file_is_named(tmp_path, ending):
    with pytest.raises(DataError, match=rf"File not found: .*absent\{ending}"):
        load_tensors(tmp_path / f"absent{ending}")


@pytest.mark.parametrize(("contents", "kind"), [([torch.ones(1)], "list"), (torch.ones(1), "Tensor"), (3, "int")])
def test_contents_that_are_no_dictionary_are_named(tmp_path, contents, kind):
    torch.save(contents, tmp_path / "x.pth")
    with pytest.raises(DataError, match=f"holds a {kind}, not a state_dict"):
        load_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_writing_that_fails_halfway_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write_half(file) -> None:
        file.write(b"ne")
        file.flush()
        raise error

    with pytest.raises(error):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path, seen = tmp_path / "file.bin", []
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")


def test_written_file_is_readable_by_others_and_its_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "x.txt", "Größe 图\n")
    assert (tmp_path / "x.txt").read_bytes() == b"Gr\xc3\xb6\xc3\x9fe \xe5\x9b\xbe\n"


def test_json_has_null_for_what_is_no_number(tmp_path):
    nan, infinity = float("nan"), float("inf")
    write_json(
        tmp_path / "x.json", {"a": nan, "b": [infinity, 1.5, {"c": -infinity}], "d": (nan, 2), "e": "NaN", "ü": None}
    )

    def refuse(word: str):
        raise AssertionError(f"{word} is not valid JSON")

    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found == {"a": None, "b": [None, 1.5, {"c": None}], "d": [None, 2], "e": "NaN", "ü": None}


ODD = (
    "a\nb",
    "a\\nb",
    "a\\\nb",
    "tab\t",
    "\x1b[31m",
    "line\u2028",
    "\x85",
    "\udcff",
    "\xff",
    "猫",
    "e\u0301",
    "two words",
    "",
)


def test_printable_names_are_lines_of_text_that_differ_where_names_do():
    written = [printable(name) for name in ODD]
    assert len(set(written)) == len(ODD)
    assert "\n".join(written).encode().decode().splitlines() == written[:-1]  # an empty last line is no line
    assert written[0] == r"a\nb"
    assert all(name == printable(name) for name in ("猫", "e\u0301", "two words", "Größe", "\u3000"))
