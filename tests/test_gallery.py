"""The gallery's list, its committed pictures and its page agree, and its commands are ones that the program accepts."""

import importlib.util
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image
from program import REPOSITORY

from cnnlab.cli.visualize import known_pictures
from cnnlab.config import check, compose, quote_path
from cnnlab.config.options import parse_options
from cnnlab.tasks.classification import Classification
from cnnlab.tasks.detection import Detection
from cnnlab.tasks.moves import Moves
from cnnlab.tasks.recognition import Recognition

DOCS = REPOSITORY / "docs"
SPEC = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)
TASKS = (Classification, Moves, Detection, Recognition)
NAMES = [picture.name for picture in gallery.PICTURES]


def words(picture) -> dict[str, str]:
    cnnlab, verb, *arguments = shlex.split(picture.command)
    assert (cnnlab, verb) == ("cnnlab", "visualize")
    return dict(argument.split("=", 1) for argument in arguments)


@pytest.mark.parametrize("picture", gallery.PICTURES, ids=NAMES)
def test_command_is_accepted(picture):
    given = words(picture)
    what, run = given.pop("what"), given.pop("run", None)
    task = Detection if "data=shapes" in picture.command or "gallery/shapes" in picture.command else None
    module = next(each.pictures[what] for each in ([task] if task else TASKS) if what in each.pictures)
    options = importlib.import_module(module).Options
    own = {field.name for field in fields(options)}
    parse_options([f"{key}={value}" for key, value in given.items() if key in own], options, what)
    overrides = [quote_path(f"{key}={value}") for key, value in given.items() if key not in own]
    if run:
        assert Path(run) == gallery.OUTPUTS / picture.run
        assert overrides == []
    else:
        check(compose(overrides))


@pytest.mark.parametrize("name", gallery.RUNS)
def test_network_can_be_trained(name):
    python, script, *overrides = shlex.split(gallery.RUNS[name])
    assert (python, script) == ("python", "train.py")
    check(compose([quote_path(override) for override in overrides]))


def test_every_kind_of_picture_is_shown():
    assert {words(picture)["what"] for picture in gallery.PICTURES} == set(known_pictures())
    assert len(set(NAMES)) == len(NAMES)


def test_folder_holds_the_pictures_of_the_list_in_small():
    files = {path.name: path for path in (DOCS / "gallery").iterdir()}
    assert set(files) == {"README.md", *(picture.file for picture in gallery.PICTURES)}
    for picture in gallery.PICTURES:
        with Image.open(files[picture.file]) as image:
            image.load()
            assert 300 <= image.width <= picture.width
    assert sum(path.stat().st_size for path in files.values()) <= 3_000_000


def test_page_is_that_of_the_list():
    text = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    assert text == gallery.page(), "run `python docs/gallery.py schedule` to write the page anew"
    assert re.findall(r"^!\[.*\]\((.+)\)$", text, flags=re.MULTILINE) == [picture.file for picture in gallery.PICTURES]
    for picture in gallery.PICTURES:
        assert f"\n    {picture.command}\n" in text


def test_photographs_are_credited():
    text = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")
    for picture in gallery.PICTURES:
        for photo in re.findall(r"data/\S+\.jpg", picture.command):
            (line,) = [line for line in text.splitlines() if line.startswith(f"- {gallery.CREDITS[photo]}:")]
            assert f"({picture.file})" in line
            assert re.search(r" by .+, https://www\.flickr\.com/photos/\S+/" + Path(photo).name.split("_")[0], line)


def test_data_elsewhere_are_found_in_every_word():
    command = "cnnlab visualize image=data/a.jpg what=dream"
    assert gallery.located(command, Path("/x y")) == ["cnnlab", "visualize", "image=/x y/a.jpg", "what=dream"]
