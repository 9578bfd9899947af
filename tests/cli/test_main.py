"""The command line: what is typed arrives, what is wrong is said once, and nothing is left behind by either."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import MISSING
from program import REPOSITORY

import cnnlab
from cnnlab.cli import main as cli
from cnnlab.cli.visualize import known_pictures
from cnnlab.config import CONFIG_DIR, compose, plain_config, quote_path

DIGITS = ("model=lenet5", "data=digits")


def parsed(override: str) -> object:
    """The value of an override as Hydra itself reads it."""
    return OverridesParser.create().parse_override(override).value()


# What starts with a quote or a bracket is in Hydra's own notation already, and ${...} refers to another value.
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1).filter(
    lambda text: text[0] not in "'\"[" and "${" not in text and text != "null"
)
names = st.lists(st.sampled_from([*"ab/.,()=ü'\"\\ :~+-{}[]#%&$;!?*|<>", "2024", "1e5", "true"]), min_size=1).map(
    "".join
)


@pytest.mark.parametrize("key", ["images", "data.root", "model.weights", "paths.output_dir"])
@given(paths | names.filter(lambda text: text[0] not in "'\"[" and "${" not in text))
@example("my photos, (1)/Größe='5\" x'")
@example("ends in\\")
@example("a\\'b")
@example("2024")
@example("1e5")
@example("True")
@example("NULL")
@example("~b/a")
def test_path_arrives_as_it_was_typed(key, path):
    assume(path != "~" and not path.startswith("~/"))
    assert parsed(quote_path(f"{key}={path}")) == path


@pytest.mark.parametrize("key", ["images", "resume", "paths.root", "paths.output_dir"])
def test_home_folder_is_put_in_for_a_tilde(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ü 1")
    assert parsed(quote_path(f"{key}=~/a+b:c-d")) == "/home/ü 1/a+b:c-d"
    assert parsed(quote_path(f"{key}=~")) == "/home/ü 1"


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=0.1", "model.weights=null", "data.root='a b'", "data.root=${paths.data_dir}/x", "seed", "~paths"],
)
def test_what_needs_no_quotes_gets_none(override):
    assert quote_path(override) == override


def test_path_reaches_the_config():
    assert compose([quote_path("data.root=a (1), ü's\\")]).data.root == "a (1), ü's\\"


PROBE = """
import json, runpy, sys
sys.argv = ["train.py", *sys.argv[2:]]
try:
    runpy.run_path({program!r}, run_name="__main__" if len(sys.argv) > 1 else "train")
finally:
    loaded = [name for name in ("torch", "lightning", "torchvision", "numpy", "matplotlib") if name in sys.modules]
    print(json.dumps(loaded), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", ""),
        ("--cfg job model=vgg16", "name: vgg16\n"),
        ("--help", "Choose an option of each group with group=option"),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path, arguments, shown):
    program = PROBE.format(program=str(REPOSITORY / "train.py"))
    done = subprocess.run(
        [sys.executable, "-c", program, "probe", *shlex.split(arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert json.loads(done.stderr) == []
    assert shown in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def started(monkeypatch, tmp_path) -> list[list[str]]:
    """The command lines that would have been started; the tests' working directory is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    commands: list[list[str]] = []
    monkeypatch.setattr("cnnlab.cli.train.run_application", lambda rerun, failures: commands.append(list(sys.argv[1:])))
    return commands


def train(*arguments: str) -> int:
    """The exit code of `train.py ARGUMENTS`."""
    sys.argv = ["train.py", *arguments]
    with pytest.raises(SystemExit) as exit_:
        cli.train()
    return int(exit_.value.code or 0)


def complaint(capsys: pytest.CaptureFixture) -> str:
    """What was said: once, on stderr."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Error: ") == 1
    assert said.err.startswith("Error: ")
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=vgg17", "seed=abc"], "unknown option vgg17 of model. Did you mean vgg16"),
        (["model=vgg17", "seed=abc"], "seed='abc' is not int"),
        (["optimizr.lr=1"], "unknown key optimizr.lr. Did you mean optimizer.lr"),
        (["optimizer._target_=os.system"], "os.system is not in cnnlab, torch"),
        (["-m", "seed=0,1,abc"], "seed='abc' is not int"),
        (["-m", "model=lenet5,vgg17"], "unknown option vgg17 of model"),
        (["-m", "resume=x"], "resume is for one run: start it without -m"),
        (["-m", "seed=0,1", "paths.output_dir=x"], "name a sweep's with sweep.dir=FOLDER"),
        (["sweep.dir=x"], "are for sweeps: add -m"),
        (["resume=x"], "x cannot be resumed: the folder does not exist"),
        (["resume=x", "optimizer.lr=1"], "optimizer.lr=1 cannot change when a run is resumed"),
        (["--config-dir", "absent"], "--config-dir: folder absent not found"),
    ],
)
def test_mistake_ends_with_2_and_one_message_and_nothing_done(started, tmp_path, capsys, arguments, message):
    assert train(*arguments) == 2
    assert message in complaint(capsys)
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_unknown_verb_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cnnlab", "trian"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "Unknown verb 'trian'. Available: train, check, evaluate" in complaint(capsys)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_verbs_are_listed(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["cnnlab", *arguments])
    cli.main()
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in ("train", "check", "evaluate", "predict"))
    assert "2 wrong input or config, 3 data or file trouble, 4 diverged, 130 interrupted" in shown


def shown_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What `cnnlab ARGUMENTS` prints on stdout, without ending the process."""
    monkeypatch.setattr(sys, "argv", ["cnnlab", *arguments])
    cli.main()
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_version_is_that_of_the_package(monkeypatch, capsys):
    assert shown_by(monkeypatch, capsys, "--version") == f"cnnlab {cnnlab.__version__}\n"


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in ("train", "visualize")])
def test_help_of_a_verb_lists_its_keys_with_types_and_defaults(monkeypatch, capsys, verb):
    """`train --help` is Hydra's, see `test_nothing_heavy_is_imported_before_it_is_needed`."""
    options = importlib.import_module(f"cnnlab.cli.{verb}").Options
    shown = shown_by(monkeypatch, capsys, verb, "--help")
    assert shown.startswith(f"usage: cnnlab {verb} ")
    assert f"example:\n  cnnlab {verb}" in shown
    for each in dataclasses.fields(options):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {each.name}=")]
        written = "..." if each.default == MISSING else "[]" if each.default is dataclasses.MISSING else each.default
        assert line.split()[0] == f"{each.name}={json.dumps(written) if not isinstance(written, str) else written}"
        assert len(line.split()) > 2, "a meaning follows"
        assert re.search(rf"^  {each.name}=(?:.*\n(?=   ))*.*\((int|float|bool|str|list)", shown, flags=re.MULTILINE)
    assert shown_by(monkeypatch, capsys, verb, "run=nowhere", "-h") == shown


def test_help_of_visualize_lists_pictures_and_the_keys_of_one(monkeypatch, capsys):
    shown = shown_by(monkeypatch, capsys, "visualize", "--help")
    assert all(f"what={name}" in shown for name in known_pictures())
    of_one = shown_by(monkeypatch, capsys, "visualize", "what=features", "--help")
    assert of_one.startswith("usage: cnnlab visualize what=features")
    assert "  layer=" in of_one


def test_help_of_check_starts_no_dry_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnnlab.cli.check.DryRun", None)
    assert "cnnlab check model=vgg16" in shown_by(monkeypatch, capsys, "check", "model=lenet5", "data=digits", "--help")
    assert list(tmp_path.iterdir()) == []


def test_importing_cnnlab_imports_only_the_standard_library():
    """torch comes with the first attribute: completion, help and every message before that are there at once."""
    program = "import sys; before = set(sys.modules); import cnnlab; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    roots = {name.split(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"cnnlab"}


@pytest.mark.parametrize("debug", [False, True])
def test_traceback_is_shown_only_where_it_is_asked_for(monkeypatch, capsys, debug):
    monkeypatch.setattr(sys, "argv", ["cnnlab", "cache", "sl"])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    if debug:
        monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    shown = capsys.readouterr().err
    assert exit_.value.code == 2
    assert ("Traceback" in shown) is debug
    assert shown.splitlines()[-1].startswith("Error: cnnlab cache sl: use cnnlab cache ls")


def test_what_the_system_refuses_is_file_trouble(monkeypatch, capsys, tmp_path):
    longest = tmp_path / ("x" * 300)  # file systems allow 255 bytes
    monkeypatch.setattr(sys, "argv", ["train.py", *DIGITS, f"paths.output_dir={longest}"])
    with pytest.raises(SystemExit) as exit_:
        cli.train()
    assert exit_.value.code == 3
    assert str(longest) in complaint(capsys)


def test_run_gets_a_folder_of_its_own(started, tmp_path):
    for _ in range(2):
        assert train(*DIGITS, "init=zero") == 0
    folders = [parsed(command[-1]) for command in started]
    assert folders == [str(tmp_path / "outputs" / "digits" / name) for name in ("lenet5-zero", "lenet5-zero-2")]
    assert all(Path(folder).is_dir() for folder in folders)
    assert started[0][:3] == [*DIGITS, "init=zero"]


def test_flags_may_stand_between_overrides(started, tmp_path):
    assert train("model=lenet5", "--config-dir", str(tmp_path), "data=digits") == 0
    assert started[0][:4] == ["--config-dir", str(tmp_path), "model=lenet5", "data=digits"]


def test_folder_that_was_named_is_taken_once(started, tmp_path, capsys):
    folder = tmp_path / "Größe, (1) it's"
    assert train(*DIGITS, f"paths.output_dir={folder}") == 0
    assert [parsed(override) for override in started[0][-2:]] == [str(folder), str(folder)]
    (folder / "run.json").touch()
    assert train(*DIGITS, f"paths.output_dir={folder}") == 2
    assert f"paths.output_dir={folder} already holds a run" in complaint(capsys)
    assert len(started) == 1


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_processes_that_others_start_need_a_folder_to_agree_on(started, tmp_path, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "0")
    assert train(*DIGITS) == 2
    assert "set paths.output_dir=FOLDER" in complaint(capsys)
    assert (started, list(tmp_path.iterdir())) == ([], [])
    monkeypatch.setenv(variable, "1")
    assert train(*DIGITS, "paths.output_dir=run") == 0
    assert list(tmp_path.iterdir()) == []  # rank 0 claims it
    monkeypatch.setenv(variable, "0")
    assert train(*DIGITS, "paths.output_dir=run") == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert [parsed(command[-1]) for command in started] == [str(tmp_path / "run")] * 2


def resumable(folder: Path, *overrides: str) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "overrides.yaml").write_text(yaml.safe_dump([*DIGITS, *overrides]))
    return folder


def with_config(folder: Path, **changes: object) -> Path:
    """The config that the overrides in `folder` compose to, with `changes` of its parts, in config.yaml."""
    config = plain_config(compose(yaml.safe_load((folder / "overrides.yaml").read_text())), folder)
    for part, values in changes.items():
        config[part] |= values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize("name", ["run", "a run, (1) of it's = ü"])
def test_resuming_repeats_the_stored_command(started, tmp_path, name):
    folder = with_config(resumable(tmp_path / name, "seed=3", "trainer.max_epochs=5"))
    assert train(f"resume={name}", "trainer.max_epochs=9") == 0
    *overrides, resume, run_dir = started[0]
    assert overrides == [*DIGITS, "seed=3", "trainer.max_epochs=9"]
    assert (parsed(resume), parsed(run_dir)) == (name, str(folder))


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_: os.system, command: touch was_run}",
        "hydra/job_logging=none",
        "++hydra.searchpath=[file://elsewhere]",
        "model@hydra.job_logging=lenet5",
        "experiment=../../../elsewhere/evil",
        "experiment='../../../elsewhere/evil'",
        "augmentation=[flip,../../../elsewhere/evil]",
        "experiment=${oc.env:EVIL}",
        "--config-dir=elsewhere",
        "-m",
    ],
)
def test_stored_override_that_could_run_code_is_refused(started, tmp_path, capsys, override):
    folder = resumable(tmp_path / "run", override)
    assert train("resume=run") == 2
    said = complaint(capsys)
    assert str(folder / "overrides.yaml") in said
    assert override in said
    assert started == []


def test_option_from_another_folder_would_be_taken_if_it_were_typed(tmp_path):
    """What makes it dangerous in a file that somebody else has written."""
    (tmp_path / "evil.yaml").write_text("# @package _global_\ntrusted_packages: [os]\n")
    path = os.path.relpath(tmp_path / "evil", CONFIG_DIR / "experiment")
    assert compose([*DIGITS, f"experiment={path}"]).trusted_packages == ["os"]


@pytest.mark.parametrize("override", ["trusted_packages=[os]", "++trusted_packages=[os]", "trusted_packages.0=os"])
def test_stored_run_cannot_say_which_code_to_trust(started, tmp_path, capsys, override):
    resumable(tmp_path / "run", override, "loss._target_=os.system")
    assert train("resume=run") == 2
    assert f"If you trust them, add {override} to the command" in complaint(capsys)
    assert started == []


def test_resumed_run_of_an_own_package_is_told_again_to_trust_it(started, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "from torch.nn import CrossEntropyLoss\n\nclass Mine(CrossEntropyLoss): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("trusted_packages=[my_losses]", "loss._target_=my_losses.Mine", "loss._partial_=true")
    with_config(resumable(tmp_path / "run", *own))
    assert train("resume=run", "trusted_packages=[my_losses]") == 0
    assert started[0][len(DIGITS) :][:3] == [
        "loss._target_=my_losses.Mine",
        "loss._partial_=true",
        "trusted_packages=[my_losses]",
    ]


def test_run_whose_configs_have_changed_is_not_continued(started, tmp_path, capsys):
    with_config(resumable(tmp_path / "run"), optimizer={"lr": 0.5}, trainer={"max_epochs": 77}, init={"gain": 2})
    assert train("resume=run") == 2
    said = complaint(capsys)
    assert f"The run in {tmp_path / 'run'} cannot be resumed because the configs have changed: " in said
    assert "optimizer.lr: 0.5 -> 0.001" in said
    assert "init.gain: 2 -> none" in said
    assert "trainer.max_epochs: 77 -> " in said
    assert started == []
    with_config(tmp_path / "run", paths={"data_dir": "elsewhere"})
    assert train("resume=run") == 0


JOB = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}


@pytest.fixture
def restarted(started, monkeypatch) -> list[list[str]]:
    """`started`, in a job that SLURM starts for the second time."""
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    return started


@pytest.mark.parametrize("named", [True, False])
def test_job_that_slurm_starts_again_goes_on(restarted, tmp_path, named):
    overrides = [*DIGITS, "seed=3", *(["paths.output_dir=mine"] if named else [])]
    folder = tmp_path / ("mine" if named else "outputs/digits/lenet5-seed-3-2")
    folder = with_config(resumable(folder, *overrides[len(DIGITS) :]))
    (folder / "run.json").write_text('{"slurm_job": "7"}')
    other = tmp_path / "outputs" / "digits" / "lenet5-seed-3"
    other.mkdir(parents=True, exist_ok=True)
    (other / "run.json").write_text('{"slurm_job": "6"}')
    assert train(*overrides) == 0
    resume, run_dir = started_with(restarted)
    assert (parsed(resume), parsed(run_dir)) == (str(folder), str(folder))


def started_with(commands: list[list[str]]) -> list[str]:
    """Where the only run that was started goes on and writes."""
    (command,) = commands
    return [override for override in command if override.startswith(("resume=", "hydra.run.dir="))]


def test_job_without_a_checkpoint_begins_anew_in_its_folder(restarted, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "run.json").write_text('{"slurm_job": "7"}')
    (folder / "events.out.tfevents.1").touch()
    assert train(*DIGITS, "paths.output_dir=mine") == 0
    (run_dir,) = started_with(restarted)
    assert parsed(run_dir) == str(folder)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_folder_of_another_job_is_left_alone(restarted, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"slurm_job": "6"}')
    assert train(*DIGITS, "paths.output_dir=mine") == 2
    assert "already holds a run" in complaint(capsys)


@pytest.mark.parametrize("contents", ["", "a: 1", "[1, 2]", "[[seed=1]]", "}", "!!python/object/apply:os.getcwd []"])
def test_overrides_that_are_none_are_refused(started, tmp_path, capsys, contents):
    folder = resumable(tmp_path / "run")
    (folder / "overrides.yaml").write_text(contents)
    assert train("resume=run") == 2
    said = complaint(capsys)
    assert f"{folder} is not a run folder: " in said
    assert "overrides.yaml" in said
