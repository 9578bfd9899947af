"""The TensorBoard command for a folder of runs, and a link that opens it ready to compare them."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cnnlab.runs.naming import named

HOST, PORT = "127.0.0.1", 6006
SAMPLES = "scalars=100000,images=500,histograms=200"
"""Number of steps that TensorBoard keeps of each tag; the default for images is 10. 0 is documented to keep all, but
its data server keeps none then."""


def command(folder: Path) -> str:
    """Return the shell command that starts TensorBoard on a folder."""
    return shlex.join(["tensorboard", "--logdir", str(folder), "--host", HOST, "--samples_per_plugin", SAMPLES])


def link(metric: str, colour_by: str | None = None, port: int = PORT) -> str:
    """Return the URL of the Time Series tab with the metrics pinned, no smoothing, and repeats in one colour.

    metric: the metric of the runs, such as val/acc. colour_by: a regular expression; runs whose names give equal
    capture groups have the same colour.
    """
    pinned = dict.fromkeys([f"epoch/{metric}", "epoch/train/loss", "epoch/val/loss", f"best/{metric}"])
    cards = [{"plugin": "scalars", "tag": tag} for tag in pinned]
    query = {"pinnedCards": json.dumps(cards, separators=(",", ":")), "smoothing": "0"}
    if colour_by:
        query["runColorGroup"] = f"regex:{colour_by}"
    return f"http://{HOST}:{port}/?{'&'.join(f'{key}={quote(value)}' for key, value in query.items())}#timeseries"


def colour_of(runs: Sequence[str], factor: str | None = None, values: Sequence[object] = ()) -> str | None:
    """Return a regular expression that groups runs by the value of `factor` in their names.

    runs: their names as TensorBoard shows them. If the values are not in the names, the expression captures everything
    but the seed; None if the names have no seed either.
    """
    levels = sorted({named(factor, str(value)) for value in values} if factor else (), key=len, reverse=True)
    by_value = rf"(?:^|[-/])({'|'.join(map(re.escape, levels))})(?:-|$)"
    if len(levels) > 1 and all(re.search(by_value, run) for run in runs):
        return by_value
    but_seed = r"^(.*?)-?seed-\d+(.*)$"
    return but_seed if all(re.search(but_seed, run) for run in runs) else None
