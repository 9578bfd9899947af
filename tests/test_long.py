"""What only shows in long sweeps, and when several processes are at one thing at a time."""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import start_train
from go_records import write_games
from in_process import DIGITS
from program import REPOSITORY
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cnnlab.go.archive import Filters, open_archive
from cnnlab.models.preprocessing import fit_once
from cnnlab.runs.events import RunEvents

JOBS, WARM = 220, 20
ONE_STEP = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
TINY = (*(override for override in DIGITS if override != "logger=none"), *ONE_STEP)
MIB = 2**20

WATCHED = """
import json, os, sys
from cnnlab.cli import main as cli
from cnnlab.cli import train
run_job = train.run_job

def watched(cfg, rerun, failures):
    run_job(cfg, rerun, failures)
    pages = int(open("/proc/self/statm").read().split()[1])
    files = sorted(os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{number}"))
    print(json.dumps([pages * os.sysconf("SC_PAGE_SIZE"), files]), file=open("watched.txt", "a"))

train.run_job = watched
sys.argv = ["train.py", *sys.argv[1:]]
cli.train()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc tells what a process holds")
def test_sweep_of_200_jobs_keeps_neither_memory_nor_files(tmp_path):
    command = [sys.executable, "-c", WATCHED, "-m", *TINY, f"seed=range({JOBS})", "sweep.dir=sweep"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = [json.loads(line) for line in (tmp_path / "watched.txt").read_text().splitlines()]
    assert len(seen) == JOBS
    memory = [size for size, _ in seen]
    # Garbage comes and goes in between: medians of ten jobs after the first twenty, and of the last ten.
    grown = statistics.median(memory[-10:]) - statistics.median(memory[WARM : WARM + 10])
    assert grown < 50 * MIB, f"{grown / MIB:.0f} MiB more after {JOBS - WARM} jobs"
    own = [[file for file in files if str(tmp_path) in file] for _, files in seen]
    assert own[-1] == own[WARM] or len(own[-1]) <= len(own[WARM])
    assert len(seen[-1][1]) <= len(seen[WARM][1])


def test_runs_that_start_together_keep_apart(tmp_path):
    """Three at once, of one name: three folders, each with one whole run of its own."""
    outputs = [tmp_path / f"output-{number}.txt" for number in range(3)]
    started = [start_train(*TINY, cwd=tmp_path, output=output) for output in outputs]
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0] * 3, [output.read_text() for output in outputs]
    folders = sorted((tmp_path / "outputs" / "digits").iterdir())
    assert [folder.name for folder in folders] == [f"{folders[0].name}{end}" for end in ("", "-2", "-3")]
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert {record["status"] for record in records} == {"finished"}
    assert len({record["process"]["pid"] for record in records}) == 3
    assert len({json.dumps(record["last"]) for record in records}) == 1  # one seed, one result
    for folder in folders:
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        assert len(list(folder.glob("events.out.tfevents.*"))) == len(list(folders[0].glob("events.out.tfevents.*")))
        assert str(folder) in (folder / "train.log").read_text()


def _open(folder: Path, ready, answers) -> None:
    ready.wait()
    archive = open_archive(folder / "games", Filters(size=9), folder / "cache")
    images = torch.linspace(0, 1, 4 * 64).view(4, 1, 8, 8)
    layer = fit_once(folder / "cache" / "preprocessing", "x", "standardize", [images])
    answers.put(([archive.moves(game).tolist() for game in range(len(archive))], layer(images).sum().item()))


def test_processes_that_fill_one_cache_agree(tmp_path):
    """Games and preprocessing; for tensors by image see test_store."""
    games = write_games(tmp_path / "games", 6)
    fork = multiprocessing.get_context("fork")
    ready, answers = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=_open, args=(tmp_path, ready, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found[0] == found[1]
    assert [len(moves) for moves in found[0][0]] == [len(moves) for moves in games]
    assert len(list((tmp_path / "cache" / "go").iterdir())) == 1  # nothing half-made stays
    assert len(list((tmp_path / "cache" / "preprocessing").iterdir())) == 1


STEPS = 3000


def _write(folder: Path) -> None:
    logger = RunEvents(str(folder))
    for step in range(STEPS):
        logger.log_metrics({"val/loss": float(step)}, step)
        if step % 50 == 0:
            logger.save()
    logger.experiment.close()


def test_reader_of_events_sees_whole_steps_in_order_while_they_are_written(tmp_path):
    """As TensorBoard reads: its own loader asks again and again for what has been added."""
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path,))
    writer.start()
    end = time.monotonic() + 120
    while not (files := list(tmp_path.glob("events.*"))) and time.monotonic() < end:
        time.sleep(0.01)
    loader = EventFileLoader(str(files[0]))
    seen: list[tuple[int, float]] = []
    rounds = 0
    while len(seen) < STEPS and time.monotonic() < end:
        alive = writer.is_alive()
        added = [
            (event.step, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
            for event in loader.Load()
            for value in event.summary.value
            if value.tag == "val/loss"
        ]
        seen += added
        rounds += bool(added) and alive
        time.sleep(0.02)
    writer.join(60)
    assert writer.exitcode == 0
    assert seen == [(step, float(step)) for step in range(STEPS)]
    assert rounds  # some of it was read while more was being written
