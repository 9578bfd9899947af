"""When one process of a run fails, the others end, and the run's record says why."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import harm
import pytest
from forked import run_train
from in_process import DIGITS, fork

from cnnlab.errors import CnnlabError, DataError, DivergedError, InputError
from cnnlab.training import rank_monitor

WAITING = "import time; time.sleep(300)"


def wait_for_a_lost_one(path: Path) -> None:
    """Watch a process that fails and one that waits, and wait as well; `path` gets what there is to say."""
    rank_monitor.PATIENCE = 0.2
    other, third = (subprocess.Popen([sys.executable, "-c", code]) for code in ("raise SystemExit(3)", WAITING))
    launcher = SimpleNamespace(procs=[other, third])
    observed = launcher.procs
    with path.open("w", buffering=1) as said:
        watch = rank_monitor.RankMonitor(lambda error: print(error, file=said))
        watch.setup(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)), None, "fit")
        print(len(observed), len(launcher.procs), file=said)
        print(third.pid, file=said)
        time.sleep(300)


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or only what its parent has not asked for."""
    path = Path(f"/proc/{pid}/stat")
    return not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"


def test_process_that_waits_for_a_lost_one_ends_with_its_exit_code(tmp_path):
    """Lightning's observer, which shares the first list, has nothing to look at; the third process is ended."""
    assert fork(wait_for_a_lost_one, tmp_path / "said") == 3
    counts, third, said = (tmp_path / "said").read_text().splitlines()
    assert counts == "0 2"
    assert said == "Process 1 of the run ended with exit code 3; see its message above."
    assert has_ended(int(third))


@pytest.mark.parametrize(
    ("code", "kind"), [(1, CnnlabError), (2, InputError), (3, DataError), (4, DivergedError), (-9, DataError)]
)
def test_failure_has_the_exit_code_of_the_process(code, kind):
    watch = rank_monitor.RankMonitor(lambda error: None)
    end = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
    watch.others = [subprocess.Popen([sys.executable, "-c", "pass"]), subprocess.Popen([sys.executable, "-c", end])]
    error = watch.failure(wait=60)
    assert type(error) is kind
    assert str(error).startswith("Process 2 of the run ")
    assert error.exit_code == (3 if code < 0 else code)


def test_no_failure_of_processes_that_go_on():
    watch = rank_monitor.RankMonitor(lambda error: None)
    assert watch.failure(wait=60) is None
    watch.others = [subprocess.Popen([sys.executable, "-c", WAITING])]
    assert watch.failure() is None
    watch.end()
    assert watch.others[0].wait(60) == -9


def test_record_says_that_a_process_was_killed(tmp_path, monkeypatch):
    """Both processes of `train.py` share one folder, and say once what there is to say."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kill = ("+callbacks.kill={_target_: harm.Kill, step: 3, rank: 1}", "trusted_packages=[harm]")
    options = [override for override in DIGITS if override != "trainer=cpu"]
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(harm.__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    code, said = run_train(*options, "trainer=ddp_cpu", *kill, cwd=tmp_path)
    assert code == 3, said
    (folder,) = [path.parent for path in (tmp_path / "outputs").rglob("config.yaml")]
    assert [path.parent for path in (tmp_path / "outputs").rglob("run.json")] == [folder]
    assert said.count("Run folder:") == 1
    record = json.loads((folder / "run.json").read_text())
    assert record["world_size"] == 2
    assert record["status"] == "failed"
    assert record["exit_code"] == 3
    assert record["error"].startswith("Process 1 of the run was killed (SIGKILL), most likely because memory ran out.")
    assert record["error"] in said
    assert "Traceback" not in said
