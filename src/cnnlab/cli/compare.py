"""`cnnlab compare`: which setting is better, by how much and how sure, from run folders alone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.config.options import help_of, parse_options
from cnnlab.errors import DataError, InputError
from cnnlab.reports.comparison import Study, study
from cnnlab.reports.comparison_report import as_text, write_comparison
from cnnlab.reports.comparison_sections import Section, sections
from cnnlab.runs.results import find_results
from cnnlab.runs.tensorboard import colour_of, command, link


@dataclass
class Options:
    """Say which setting of a sweep is better, by how much and how sure that is, from run folders alone.

    Example:
    cnnlab compare outputs/digits/sweep-init
    cnnlab compare outputs/a outputs/b metric=f1

    metric: what to compare by, such as f1, best/val/loss or wall_seconds; null: the best value of the runs' own metric.
    split: the beginning of the hash of one data split, if the runs are of several.
    output: where to write; null: into the folder itself, or the one that all are in.
    """

    metric: str | None = None
    split: str | None = None
    output: str | None = None


def help_text(arguments: Sequence[str]) -> str:
    return help_of(Options, "compare").replace(
        "cnnlab compare key=value ...", "cnnlab compare FOLDER ... key=value ..."
    )


def main(arguments: Sequence[str]) -> None:
    folders, cfg = folders_and_options(arguments)
    runs = find_results(folders)
    compared = study(runs, cfg.metric, cfg.split)
    report = sections(compared)
    print(as_text(report))
    output = Path(cfg.output) if cfg.output else common_folder(folders)
    files = write(output, f"Comparison of {', '.join(folder.name for folder in folders)}", compared, report)
    print(f"\nWritten to {output}: {', '.join(file.name for file in files)}")
    print(how_to_look(common_folder(folders), compared))


def folders_and_options(arguments: Sequence[str]) -> tuple[list[Path], Options]:
    """Folders are what exists or has no "="; the rest is key=value. Raises InputError if there is no folder."""
    folders = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if not folders:
        raise InputError("cnnlab compare needs a folder of runs: cnnlab compare outputs/digits/sweep-...")
    cfg = parse_options([argument for argument in arguments if argument not in folders], Options, "compare")
    return [Path(folder).absolute() for folder in folders], cfg


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder itself, or the deepest that all are in."""
    return Path(os.path.commonpath(folders))


def how_to_look(folder: Path, compared: Study) -> str:
    """What starts TensorBoard, and the link to open then; empty if the runs have no events."""
    if not any(any(run.folder.glob("events.*")) for run in compared.runs):
        return ""
    names = [os.path.relpath(run.folder, folder) for run in compared.runs]
    factor = compared.factors[0] if compared.factors else None
    colour = colour_of(names, factor, [setting.values[0] for setting in compared.settings] if factor else [])
    return f"Curves: {command(folder)}\n        {link(compared.monitor, colour)}"


def write(output: Path, title: str, compared: Study, report: Sequence[Section]) -> list[Path]:
    """Raises DataError if `output` cannot be written."""
    try:
        return write_comparison(output, title, compared, report)
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror}). Name another folder: output=FOLDER") from error
