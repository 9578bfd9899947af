"""How to look at a folder of runs in TensorBoard: the command, and a link that opens it ready to compare."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cnnlab.runs.naming import named

HOST, PORT = "127.0.0.1", 6006
SAMPLES = "scalars=100000,images=500,histograms=200"
"""How many steps of each tag TensorBoard keeps: of images 10, if it is not told. 0 is said to mean all of them, but
makes its data server keep none."""


def command(folder: Path) -> str:
    """What starts TensorBoard on a folder, for the shell."""
    return shlex.join(["tensorboard", "--logdir", str(folder), "--host", HOST, "--samples_per_plugin", SAMPLES])


def link(metric: str, colour_by: str | None = None, port: int = PORT) -> str:
    """The address of the Time Series tab with the metrics pinned, nothing smoothed, and repeats in one colour.

    metric: that of the runs, such as val/acc. colour_by: a regular expression; runs for which its groups capture the
    same have the same colour.
    """
    pinned = dict.fromkeys([f"epoch/{metric}", "epoch/train/loss", "epoch/val/loss", f"best/{metric}"])
    cards = [{"plugin": "scalars", "tag": tag} for tag in pinned]
    query = {"pinnedCards": json.dumps(cards, separators=(",", ":")), "smoothing": "0"}
    if colour_by:
        query["runColorGroup"] = f"regex:{colour_by}"
    return f"http://{HOST}:{port}/?{'&'.join(f'{key}={quote(value)}' for key, value in query.items())}#timeseries"


def colour_of(runs: Sequence[str], factor: str | None = None, values: Sequence[object] = ()) -> str | None:
    """A regular expression whose groups tell runs apart by the value of `factor` in their names.

    runs: their names as TensorBoard shows them. Where the values are not in the names, the expression captures all but
    the seed; None where the names hold no seed either, or where there is nothing to tell apart.
    """
    parts = sorted({named(factor, str(value)) for value in values} if factor else (), key=len, reverse=True)
    by_value = rf"(?:^|[-/])({'|'.join(map(re.escape, parts))})(?:-|$)"
    if len(parts) > 1 and all(re.search(by_value, run) for run in runs):
        return by_value
    but_seed = r"^(.*?)-?seed-\d+(.*)$"
    return but_seed if all(re.search(but_seed, run) for run in runs) else None
