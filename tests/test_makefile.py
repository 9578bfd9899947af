"""What `make` promises, and what continuous integration runs."""

import os
import re
import subprocess
import tomllib

import pytest
import yaml
from program import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", MAKEFILE, flags=re.MULTILINE))


def make(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_lists_every_target_with_its_description(arguments):
    shown = dict(line.split(maxsplit=2)[1:] for line in make(*arguments).splitlines())
    assert shown == TARGETS
    assert set(TARGETS) >= {"help", "setup", "quickstart", "test", "lint"}


def test_every_target_is_described_and_phony():
    defined = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    assert defined == set(TARGETS)
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.group(1).split()) == defined


def test_setup_installs_the_exact_versions_into_an_environment_of_its_own():
    commands = make("-n", "--always-make", "setup").splitlines()
    create = next(number for number, line in enumerate(commands) if "-m venv .venv" in line)
    installs = [(number, line) for number, line in enumerate(commands) if ".venv/bin/pip install" in line]
    assert installs
    assert all(number > create and "--constraint constraints.txt" in line for number, line in installs)
    assert any("--editable '.[dev]'" in line for _, line in installs)


def test_benchmarks_run_in_an_environment_of_their_own_that_has_the_peers():
    commands = make("-n", "--always-make", "benchmark").splitlines()
    assert not [line for line in commands if re.search(r"\.venv(/|$)", line)]
    scripts = [number for number, line in enumerate(commands) if "benchmarks/" in line]
    assert scripts
    assert all(commands[number].startswith(".venv-benchmark/bin/python ") for number in scripts)
    (peers,) = (number for number, line in enumerate(commands) if "timm" in line)
    assert "-m venv .venv-benchmark" in commands[0]
    assert ".venv-benchmark/bin/pip install" in commands[peers]
    assert peers < min(scripts)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("quickstart", ".venv/bin/python train.py experiment=quickstart"),
        ("test", ".venv/bin/python -m pytest"),
        ("test-all", ".venv/bin/python -m pytest -m ''"),
        ("lint", ".venv/bin/ruff check ."),
        ("fuzz", "FUZZ_EXAMPLES=10000 .venv/bin/python -m pytest tests/fuzz"),
    ],
)
def test_target_runs_its_command_in_the_environment_after_setup(target, command):
    lines = make("-n", "--always-make", target).splitlines()
    assert lines.index(command) > next(number for number, line in enumerate(lines) if "-m venv" in line)


def test_every_pinned_version_is_exact():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert any(pin.startswith("torch==") for pin in pins)
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+(\s*;.+)?", pin)] == []


def test_continuous_integration_tests_and_lints():
    script = REPOSITORY / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert os.access(script, os.X_OK)
    assert lines[0].startswith("#!")
    assert "set -euo pipefail" in lines
    commands = [line.removeprefix(".venv/bin/") for line in lines]
    assert {"make test", "ruff check .", "ruff format --check ."} <= set(commands)
    assert "  make audit" in commands


def test_workflow_runs_the_same_checks_on_every_python_that_is_supported():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = {step.get("run") for step in steps}
    assert {"python -m pytest", "ruff check .", "ruff format --check .", "mypy"} <= commands
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == supported


def test_audit_counts_what_could_not_be_audited_as_a_failure():
    (line,) = (line for line in make("-n", "audit").splitlines() if "/pip-audit " in line)
    assert {"--strict", "--requirement", "constraints.txt"} <= set(line.split())
