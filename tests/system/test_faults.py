"""Full disks, folders that may not be written or vanish, processes that are killed: the run says so and ends."""

import errno
import http.client
import json
import mmap
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import urllib.error
import zipfile
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import lightning as L
import pytest
import torch
from harm import fill_disk
from in_process import DIGITS, command_line, digits_with
from safetensors.torch import load_file

from cnnlab.api import load_run
from cnnlab.cli import main as cli
from cnnlab.errors import DataError, InputError
from cnnlab.system.faults import translate_error

RUN = (
    *(override for override in DIGITS if not override.startswith("logger=")),
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1",
    "trusted_packages=[harm]",
)
pytestmark = pytest.mark.usefixtures("kept_logging")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def ends_well(folder, capfd, code):
    """The record of a run that ended with an error in one line, with its last checkpoint whole."""
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out, captured.err[-1500:]
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", code)
    errors = [line for line in captured.err.splitlines() if record["error"] in line]
    assert len(errors) == 1
    assert captured.err.splitlines()[-1] == errors[0]
    return record, errors[0]


def fill(disk, step, left):
    return f"+callbacks.fill={{_target_: harm.FillDisk, folder: '{disk}', step: {step}, left: {left}}}"


@pytest.mark.parametrize(("logger", "left"), [("none", 200_000), ("tensorboard", 30_000), ("csv", 30_000)])
def test_full_disk_while_a_checkpoint_is_written(small_disk, monkeypatch, capfd, logger, left):
    run = small_disk / "run"
    code = command_line(monkeypatch, *RUN, f"logger={logger}", f"paths.output_dir={run}", fill(small_disk, 9, left))
    record, line = ends_well(run, capfd, code)
    assert code == 3
    assert f"{run / 'checkpoints'}" in record["error"]
    assert "the disk is full. Free some space" in record["error"]
    assert f"Then continue with: python train.py resume={run}" in line
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    if logger == "none":
        return  # to continue is the same as with metrics.csv
    (small_disk / "full").unlink()
    monkeypatch.setattr("harm.fill_disk", lambda folder, left: None)
    assert line.endswith("'trusted_packages=[harm]'")
    assert command_line(monkeypatch, f"resume={run}", "trusted_packages=[harm]") == 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12


def test_full_disk_while_events_are_written(small_disk, monkeypatch, capfd):
    run = small_disk / "run"
    picture = "+callbacks.input_batch={_target_: cnnlab.training.callbacks.input_batch.InputBatch}"
    options = (
        "logger=tensorboard",
        picture,
        f"paths.output_dir={run}",
        fill(small_disk, 5, 4096),
        "checkpoint.best=null",
    )
    code = command_line(monkeypatch, *RUN, *options, "+checkpoint.last.every_n_epochs=2", "trainer.max_epochs=9")
    errors = capfd.readouterr().err
    assert code == 3
    assert "Traceback" not in errors
    assert "the disk is full. Free some space" in errors.splitlines()[-1]


def test_disk_without_room_for_the_record(small_disk, monkeypatch, capfd):
    run = small_disk / "run"
    code = command_line(monkeypatch, *RUN, "logger=csv", f"paths.output_dir={run}", fill(small_disk, 9, 0))
    captured = capfd.readouterr()
    assert code == 3
    assert "Traceback" not in captured.err + captured.out, captured.err[-1500:]
    assert "Could not write " in captured.out + captured.err
    assert "the disk is full" in captured.out + captured.err
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert load_run(run / "checkpoints" / "last.ckpt").classes == [str(digit) for digit in range(10)]


def test_full_disk_of_the_cache_costs_time_only(small_disk, tmp_path, monkeypatch):
    fill_disk(small_disk, 4096)
    run = tmp_path / "run"
    options = (
        "preprocessing=zca",
        "preprocessing.patch=8",
        f"paths.cache_dir={small_disk}",
        "logger=csv",
        "trainer.max_epochs=1",
    )
    assert command_line(monkeypatch, *RUN, *options, f"paths.output_dir={run}") == 0
    assert "(No space left on device): preprocessing is fitted again in each run" in (run / "train.log").read_text()


def test_cache_that_fills_up_within_an_epoch_costs_time_only(small_disk, tmp_path, monkeypatch, capfd):
    """The first view of the features fits onto the disk, of the second a part: the classifier learns the same."""
    options = digits_with("freeze=features", "freeze.cache_views=2", "augmentation=[noise]", "data.images_per_class=40")
    harm = (fill(small_disk, 3, 250_000), "trusted_packages=[harm]", f"paths.cache_dir={small_disk}")
    weights = []
    for number, more in enumerate((harm, ("freeze.cache=off",))):
        run = tmp_path / str(number)
        assert command_line(monkeypatch, *options, *more, "trainer.max_epochs=2", f"paths.output_dir={run}") == 0
        weights.append(torch.load(run / "best_weights.pth", weights_only=True))
    said = [line for line in capfd.readouterr().err.splitlines() if "No space left on device" in line]
    assert len(said) == 1
    assert f"Cannot cache features in {small_disk}" in said[0]
    assert len(list(small_disk.glob("features/*/*.safetensors"))) > 4  # validation and the first view have four each
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-4)


def test_full_disk_while_a_report_is_written(small_disk, quick_run, monkeypatch, capsys):
    run = small_disk / "run"
    shutil.copytree(quick_run, run, ignore=shutil.ignore_patterns("events.*", "last.ckpt", "*.pth"))
    fill_disk(small_disk, 8192)
    monkeypatch.setattr("sys.argv", ["cnnlab", "evaluate", f"run={run}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"Error: {run}")
    assert "the disk is full. Free some space" in last


def test_output_folder_that_may_not_be_written(small_disk, monkeypatch, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert command_line(monkeypatch, *RUN, "logger=csv", f"paths.root={small_disk / 'outputs'}") == 3
    assert capsys.readouterr().err == (
        f"Error: {small_disk / 'outputs'}: the file system is read-only. "
        "Change its permissions, or choose other folders with paths.output_dir and paths.cache_dir.\n"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_within_an_epoch(pictures, tmp_path, monkeypatch, capfd, workers):
    run = tmp_path / "run"
    options = [override for override in RUN if not override.startswith(("data=", "data.num", "trainer.limit"))]
    code = command_line(
        monkeypatch,
        *options,
        "logger=csv",
        "data=image_folder",
        f"data.root={pictures}",
        "data.record_cache=off",
        "data.memory_gib=0",
        "data.batch_size=4",
        f"data.num_workers={workers}",
        f"+callbacks.take={{_target_: harm.TakeAway, folder: '{pictures}', step: 11}}",
        f"paths.output_dir={run}",
    )
    record, _ = ends_well(run, capfd, code)
    assert code == 3
    assert record["error"].startswith(str(pictures))
    assert record["error"].endswith(".png: No such file or directory")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


def test_worker_that_is_killed(tmp_path, monkeypatch, capfd):
    run = tmp_path / "run"
    options = (
        "logger=csv",
        "data.memory_gib=0",
        "data.num_workers=1",
        "+callbacks.kill={_target_: harm.KillWorker, step: 8}",
    )
    code = command_line(monkeypatch, *RUN, *options, "trainer.limit_train_batches=1.0", f"paths.output_dir={run}")
    record, _ = ends_well(run, capfd, code)
    assert code == 3
    assert "was killed, most likely because the machine ran out of memory. Use fewer of them" in record["error"]


def test_killed_worker_is_recognised_behind_the_error_that_its_signal_met():
    """Torch raises from a signal handler, here in the middle of what takes any exception for its own."""
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError as found:
            raise TypeError("unsupported callable") from found
    except TypeError as met:
        error = translate_error(met)
    assert isinstance(error, DataError)
    assert str(error).startswith("A data loading process was killed")
    assert translate_error(TypeError("unsupported callable")) is None


def test_pool_that_loses_a_process_says_so():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        lost = pool.submit(os._exit, 9).exception()
    assert str(translate_error(lost)).startswith("A data loading process was killed")


def test_limit_on_processes_is_trouble_with_the_machine():
    error = translate_error(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))  # as os.fork raises it
    assert str(error).startswith("no further process may be started. Raise the limit on processes")


def cuda_runs_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        cuda_runs_out,
        lambda: bytearray(1 << 62),
        lambda: mmap.mmap(-1, 1 << 62),
    ],
)
def test_memory_that_runs_out_is_no_bug(allocate):
    with pytest.raises((RuntimeError, MemoryError, OSError)) as error:
        allocate()
    found = translate_error(error.value)
    assert isinstance(found, DataError)
    assert "data.batch_size" in str(found)


def unable_to_open_a_database(tmp_path) -> None:
    sqlite3.connect(tmp_path / "absent" / "optuna.db").execute("select 1")


def read_as_safetensors(tmp_path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 40)
    load_file(tmp_path / "damaged.safetensors")


def read_as_checkpoint(tmp_path) -> None:
    torch.save({"weights": torch.zeros(99)}, tmp_path / "damaged.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes((tmp_path / "damaged.ckpt").read_bytes()[:-99])
    torch.load(tmp_path / "damaged.ckpt", weights_only=True)


def unzip(tmp_path) -> None:
    (tmp_path / "damaged.zip").write_bytes(b"<html>")
    zipfile.ZipFile(tmp_path / "damaged.zip")


def download(tmp_path) -> None:
    raise urllib.error.HTTPError("http://host/file", 503, "Service Unavailable", http.client.HTTPMessage(), None)


def reach_no_other_process(tmp_path) -> None:
    torch.distributed.TCPStore("127.0.0.1", 1, is_master=False, timeout=timedelta(seconds=0.2))


def train_without_end(tmp_path) -> None:
    L.Trainer(max_epochs=-2)


def be_deterministic(tmp_path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)


def compile_nothing(tmp_path) -> None:
    raise torch._dynamo.exc.BackendCompilerFailed(print, RuntimeError("No working C++ compiler found"), None)


def of(module: str, message: str):
    """Raise an error of a library that is not installed."""

    def fail(tmp_path) -> None:
        raise type("SomeError", (Exception,), {"__module__": module})(message)

    return fail


def say(message: str):
    def fail(tmp_path) -> None:
        raise RuntimeError(message)

    return fail


@pytest.mark.parametrize(
    ("fail", "kind", "sentence"),
    [
        (unable_to_open_a_database, DataError, "The database cannot be used: unable to open database file. Check"),
        (read_as_safetensors, DataError, "A file is damaged or of another kind: "),
        (reach_no_other_process, DataError, "The processes of the run cannot reach each other: "),
        (train_without_end, InputError, "`max_epochs` must be a non-negative integer or -1"),
        (be_deterministic, InputError, "speed.deterministic=true is not possible: "),
        (compile_nothing, InputError, "Set speed.compile=false."),
        (read_as_checkpoint, DataError, "A file is damaged or of another kind: "),
        (unzip, DataError, "A file is damaged or of another kind: File is not a zip file. Replace it."),
        (download, DataError, "The connection failed: HTTP Error 503: Service Unavailable. Try again"),
        (lambda _: http.client.HTTPConnection("127.0.0.1", 1).request("GET", "/"), DataError, "connection was refused"),
        (of("mlflow.exceptions", "unsupported URI"), InputError, "MLflow: unsupported URI. Check logger.mlflow"),
        (of("mlflow.exceptions", "API request failed"), DataError, "MLflow: API request failed. Check logger.mlflow"),
        (of("wandb.errors", "api_key not configured"), DataError, "Log in with wandb login, or set logger.wandb."),
        (of("sqlalchemy.exc", "database is locked"), DataError, "The database cannot be used: database is locked."),
        (of("huggingface_hub.errors", "503"), DataError, "The Hugging Face Hub: 503. Try again"),
        (of("requests.exceptions", "Read timed out."), DataError, "The connection failed: Read timed out. Try again"),
        (say("CUDA error: out of memory"), DataError, "Out of memory. Use smaller batches"),
        (say("MPS backend out of memory (MPS allocated: 1 GB)"), DataError, "Out of memory. Use smaller batches"),
        (say("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), DataError, "Out of memory."),
        (say("CUDA error: no kernel image is available for execution"), DataError, "does not fit the GPU"),
        (say("CUDA error: an illegal memory access was encountered"), DataError, "The GPU has failed or is not free"),
        (say("CUDA error: device-side assert triggered"), DataError, "mostly a class of a target"),
        (say("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DataError, "cuDNN does not work here"),
        (say("Found no NVIDIA driver on your system."), DataError, "The NVIDIA driver is missing or too old"),
        (say("NCCL error in: x.cpp:1, unhandled system error"), DataError, "cannot exchange data"),
        (say("The operator 'aten::x' is not currently implemented for the MPS device."), DataError, "Use trainer=cpu"),
        (say("received 0 items of ancdata"), DataError, "Too many files are open. Raise the limit on open files"),
    ],
)
def test_known_error_of_another_library_is_no_bug(fail, kind, sentence, tmp_path):
    with pytest.raises(Exception, match=r".") as error:
        fail(tmp_path)
    found = translate_error(error.value)
    assert type(found) is kind
    assert sentence in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize("fail", [of("numpy", "shape"), say("mat1 and mat2 shapes cannot be multiplied")])
def test_unknown_error_stays_a_bug(fail, tmp_path):
    with pytest.raises(Exception, match="shape") as error:
        fail(tmp_path)
    assert translate_error(error.value) is None


def test_verb_that_meets_a_known_error_ends_with_its_code(monkeypatch, capsys):
    monkeypatch.setattr("cnnlab.cli.cache.main", lambda arguments: of("mlflow.exceptions", "no answer")(None))
    monkeypatch.setattr("sys.argv", ["cnnlab", "cache", "ls"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert (
        capsys.readouterr().err
        == "Error: MLflow: no answer. Check logger.mlflow.tracking_uri, or choose another logger.\n"
    )
    monkeypatch.setattr("cnnlab.cli.cache.main", lambda arguments: say("a bug")(None))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()
