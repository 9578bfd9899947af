"""Every command in the README is one that the program accepts."""

import importlib
import re
import shlex
from dataclasses import fields
from urllib.parse import unquote

import pytest
from program import REPOSITORY

from cnnlab.cli import visualize
from cnnlab.cli.main import VERBS
from cnnlab.config import check, compose, quote_path
from cnnlab.errors import CnnlabError
from cnnlab.tasks.classification import Classification
from cnnlab.tasks.detection import Detection
from cnnlab.tasks.moves import Moves

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def code_lines(text: str) -> list[str]:
    """The lines of fenced and of indented code blocks, without their indentation."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip().removeprefix("$ "))
    return lines


def commands(program: str) -> list[str]:
    return list(dict.fromkeys(line for line in code_lines(README) if line.startswith(program)))


def swept(override: str) -> list[str]:
    """The override once for each value that `-m` would give it."""
    key, _, value = override.partition("=")
    return [f"{key}={choice}" for choice in re.split(r",(?![^\[]*\])", value)]


def test_readme_shows_commands():
    assert len(commands("python train.py")) >= 5
    assert commands("cnnlab ")
    assert commands("make ")


@pytest.mark.parametrize("command", commands("python train.py"))
def test_training_command_composes_and_checks(command):
    arguments = shlex.split(command, comments=True)[2:]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if any(override.startswith("resume=") for override in overrides):
        assert overrides == [
            override for override in overrides if override.startswith(("resume=", "trainer.", "paths."))
        ]
        return
    choices = [swept(override) if "-m" in arguments else [override] for override in overrides]
    first = [options[0] for options in choices]
    jobs = {
        (*first[:position], option, *first[position + 1 :])
        for position, options in enumerate(choices)
        for option in options
    }
    for job in jobs:
        check(compose([quote_path(override) for override in job]))


def of_the_config(arguments: list[str]) -> list[str]:
    """The arguments of `cnnlab visualize` that are overrides; the others are keys of the verb and of the picture."""
    given = dict(argument.split("=", 1) for argument in arguments)
    picture = importlib.import_module((Detection.pictures | Moves.pictures | Classification.pictures)[given["what"]])
    own = {*visualize.OWN, *(field.name for field in fields(picture.Options))}
    return [f"{key}={value}" for key, value in given.items() if key not in own]


@pytest.mark.parametrize("command", commands("cnnlab "))
def test_verb_exists_and_takes_keys(command):
    verb, *arguments = shlex.split(command, comments=True)[1:]
    assert verb in VERBS
    assert arguments
    assert all("=" in argument for argument in arguments) or verb in ("cache", "compare", "diff", "ls")
    if verb == "visualize":
        arguments = of_the_config(arguments)
    if any(argument.startswith("model=") for argument in arguments):
        check(compose([quote_path(argument) for argument in arguments]))


def test_inline_commands_name_verbs_that_exist():
    named = re.findall(r"`cnnlab ([a-z]+)", README) + [line.split()[1] for line in commands("cnnlab ")]
    assert named
    assert set(named) <= set(VERBS)


@pytest.mark.parametrize("command", commands("make "))
def test_make_target_exists(command):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{shlex.split(command, comments=True)[1]}:", makefile, flags=re.MULTILINE)


def links() -> list[str]:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def test_relative_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    missing = [
        link
        for link in links()
        if (link not in anchors if link.startswith("#") else not (REPOSITORY / unquote(link.split("#")[0])).exists())
    ]
    assert missing == []


def test_command_that_is_wrong_would_be_found():
    with pytest.raises(CnnlabError, match="model"):
        check(compose(["model=mobilenet_v9"]))


def test_code_lines_are_those_of_both_kinds_of_block():
    assert code_lines("text\n\n    a b\n\n```bash\n$ c\n```\nmore") == ["a b", "c"]
    assert swept("regularization=none,[l2],[l2,dropout]") == [
        "regularization=none",
        "regularization=[l2]",
        "regularization=[l2,dropout]",
    ]
