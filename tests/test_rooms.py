"""The rooms of src/cnnlab: each imports only those above it, and a file's name says which room it is in."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from program import REPOSITORY

PACKAGE = REPOSITORY / "src" / "cnnlab"
ROOMS = (
    *("errors", "seeds", "system", "config", "go", "data", "models", "drawing", "runs", "training", "reports"),
    *("explain", "tasks", "experiment", "sweeping", "api", "cli"),
)
MODULES = {"errors.py", "seeds.py", "experiment.py", "api.py"}
ENTRANCES = {"__init__.py", "__main__.py"}
"""Loose modules that are no rooms; they may import anything."""
TWINS = {
    "base.py": {"tasks", "training"},  # the protocol of a family: tasks, regularizers
    "module.py": {"tasks", "training"},  # a task's LightningModule, and the base of them all
    "feature_maps.py": {"models", "training"},  # computes feature maps; the callback that logs them
    "filters.py": {"drawing", "explain", "training"},  # draws filters; the picture of a run; the callback
    "attribution.py": {"explain", "tasks"},  # pictures of classifiers; the same of detectors
    "augmentation.py": {"explain", "tasks"},
    "features.py": {"explain", "tasks"},
    "preprocessing.py": {"models", "explain"},  # the layer; the picture of what it does
}
"""Files of one name in several rooms, on purpose."""


def sources() -> list[Path]:
    """Every Python file of a room, relative to the package."""
    found = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return [path for path in found if str(path) not in ENTRANCES]


def room_of(source: Path) -> str:
    return source.parts[0].removesuffix(".py")


def rooms_imported_by(source: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, room) for every import of the package, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse((PACKAGE / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, _, rest in (name.partition(".") for name in names):
            if package == "cnnlab" and not rest.startswith("__"):  # cnnlab.__version__
                yield node.lineno, rest.split(".")[0]


def test_every_file_is_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == MODULES | ENTRANCES
    assert {room_of(source) for source in sources()} == set(ROOMS)


def test_each_room_imports_only_rooms_above_it():
    below = [
        f"{source}:{line} imports {room}"
        for source in sources()
        for line, room in rooms_imported_by(source)
        if room not in ROOMS[: ROOMS.index(room_of(source)) + 1]
    ]
    assert below == []


def test_files_of_one_name_are_in_one_room_or_twins():
    rooms = defaultdict(set)
    for source in sources():
        rooms[source.name].add(room_of(source))
    assert {name: own for name, own in rooms.items() if len(own) > 1 and name != "__init__.py"} == TWINS
