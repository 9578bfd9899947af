"""`cnnlab diff`: what differs between two runs, in settings and in results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.config.options import help_of, parse_options
from cnnlab.errors import DataError, InputError
from cnnlab.runs.results import RunResult, read_result
from cnnlab.runs.settings import ABSENT, Value, flat


@dataclass
class Options:
    """Show the settings and the results in which two runs differ.

    Example: cnnlab diff outputs/flowers/mobilenet_v2-features outputs/flowers/vgg16-features

    all: also what is equal.
    """

    all: bool = False


def help_text(arguments: Sequence[str]) -> str:
    return help_of(Options, "diff").replace("cnnlab diff key=value ...", "cnnlab diff RUN RUN key=value ...")


def main(arguments: Sequence[str]) -> None:
    folders = [argument for argument in arguments if "=" not in argument or Path(argument).is_dir()]
    cfg = parse_options([argument for argument in arguments if argument not in folders], Options, "diff")
    if len(folders) != 2:
        raise InputError(f"cnnlab diff needs two run folders; {len(folders)} given.")
    first, second = (readable(Path(folder)) for folder in folders)
    print(difference(first, second, cfg.all))


def readable(folder: Path) -> RunResult:
    """Return a run whose record can be read, finished or not."""
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder} is not a run folder: it has no run.json.")
    run = read_result(folder)
    if run.status == "unreadable":
        raise DataError(f"{folder}: {run.trouble}.")
    return run


def difference(first: RunResult, second: RunResult, everything: bool = False) -> str:
    """Return a table of the settings and results that differ; `everything`: of the equal ones too."""
    settings = [(*row[:3], "") for row in rows(settings_of(first), settings_of(second), everything)]
    results = rows(results_of(first), results_of(second), everything)
    if not settings and not results:
        return "The runs do not differ."
    heads = [("", first.folder.name, second.folder.name, "")]
    width = [max(len(row[column]) for row in [*heads, *settings, *results]) for column in range(4)]
    lines = ["  ".join(map(str.ljust, row, width)).rstrip() for row in [*heads, *settings]]
    if results:
        lines += ["", *("  ".join(map(str.ljust, row, width)).rstrip() for row in results)]
    return "\n".join(lines)


def settings_of(run: RunResult) -> dict[str, Value]:
    """Return every config key of a run that says what is tried, and its seed and split."""
    repeat = {"seed": run.record.get("seed", ABSENT)} | ({} if run.fold is None else {"data.fold": run.fold})
    return {**dict(flat(run.config)), **repeat, "split": run.split}


def results_of(run: RunResult) -> dict[str, Value]:
    return {"status": run.status, **run.numbers}


def rows(first: dict[str, Value], second: dict[str, Value], everything: bool) -> list[tuple[str, str, str, str]]:
    """Return (key, first value, second value, second minus first for numbers) of the keys that differ."""
    found = []
    for key in dict.fromkeys([*first, *second]):
        a, b = first.get(key, ABSENT), second.get(key, ABSENT)
        if a != b or everything:
            change = f"{b - a:+.4g}" if isinstance(a, float) and isinstance(b, float) else ""
            found.append((key, shown(a), shown(b), change))
    return found


def shown(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
