"""`cnnlab compare`: compare the settings of runs, with tests of significance, from their folders alone."""

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
    """Compare the settings of runs: which one is better, by how much, and whether the difference is significant.

    Example:
    cnnlab compare outputs/digits/sweep-init
    cnnlab compare outputs/a outputs/b metric=f1

    metric: what to compare by, such as f1, best/val/loss or wall_seconds; null: the best value of the runs' own metric.
    split: the beginning of the hash of one data split, if the runs have several.
    output: where to write; null: the given folder, or the common parent of several.
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
    """Split arguments into folders, which exist or have no "=", and options; raise InputError without a folder."""
    folders = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if not folders:
        raise InputError("cnnlab compare needs a folder of runs: cnnlab compare outputs/digits/sweep-...")
    cfg = parse_options([argument for argument in arguments if argument not in folders], Options, "compare")
    return [Path(folder).absolute() for folder in folders], cfg


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the given folder, or the deepest common parent of several."""
    return Path(os.path.commonpath(folders))


def how_to_look(folder: Path, compared: Study) -> str:
    """Return the command that starts TensorBoard, and the link to open; "" if the runs have no events."""
    if not any(any(run.folder.glob("events.*")) for run in compared.runs):
        return ""
    names = [os.path.relpath(run.folder, folder) for run in compared.runs]
    factor = compared.factors[0] if compared.factors else None
    colour = colour_of(names, factor, [setting.values[0] for setting in compared.settings] if factor else [])
    return f"Curves: {command(folder)}\n        {link(compared.monitor, colour)}"


def write(output: Path, title: str, compared: Study, report: Sequence[Section]) -> list[Path]:
    """Write the comparison and return its files; raise DataError if `output` cannot be written."""
    try:
        return write_comparison(output, title, compared, report)
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror}). Name another folder: output=FOLDER") from error
