"""Write TensorBoard events into the run folder, so that runs can be compared.

The settings of a run and how it ended are recorded in two event files of their own: TensorBoard believes the first
record it finds, and a resumed run must be able to replace both.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata, summary_v2
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from tensorboard.summary.writer.record_writer import RecordWriter

from cnnlab.runs.folder import END, START
from cnnlab.runs.saving import ThrottledLogger
from cnnlab.runs.settings import Value
from cnnlab.system.files import write_atomically


class RunEvents(ThrottledLogger, TensorBoardLogger):
    """A logger that writes event files only: the config is in config.yaml, so Lightning's hparams.yaml is not written.

    Values that are measured once an epoch are logged again under epoch/, with the epoch as their step, so that curves
    of different batch sizes share an axis. train/acc_epoch, the mean over the epoch's steps, is epoch/train/acc.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = dict(metrics)
        epoch = values.pop("epoch", None)
        means = {key: values.pop(key) for key in metrics if key.endswith("_epoch")}
        super().log_metrics(values, step)
        of_epoch = {key.removesuffix("_epoch"): value for key, value in means.items()}
        of_epoch |= {key: value for key, value in values.items() if key.startswith("val/")}
        if epoch is not None:
            super().log_metrics({f"epoch/{key}": value for key, value in of_epoch.items()}, int(epoch))

    @rank_zero_only
    def start_session(self, settings: Mapping[str, Value], metric: str) -> None:
        """Record the run's settings and which curves share a chart; remove the record of an earlier attempt's end."""
        (Path(self.log_dir) / END).unlink(missing_ok=True)
        _write_event(Path(self.log_dir) / START, summary_v2.hparams_pb(dict(settings), trial_id=group_of(settings)))
        self.experiment.add_custom_scalars(charts(metric))

    @rank_zero_only
    def end_session(self, succeeded: bool) -> None:
        """Record how the run ended; a run without this record is still running or was killed."""
        status = Status.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
        value = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(end),
            tensor=metadata.NULL_TENSOR,
        )
        _write_event(Path(self.log_dir) / END, Summary(value=[value]))

    @rank_zero_only
    def write(self) -> None:
        self.experiment.flush()


@contextmanager
def session(loggers: Sequence[Logger], settings: Mapping[str, Value], metric: str) -> Iterator[None]:
    """Record the block as a run with these settings, which fails if the block raises.

    metric: the metric of the run, such as val/acc.
    """
    events = [logger for logger in loggers if isinstance(logger, RunEvents)]
    for logger in events:
        logger.start_session(settings, metric)
    with _quiet_writers():
        try:
            yield
        except BaseException:
            for logger in events:
                with suppress(OSError):  # a full disk may be the reason for the first error
                    logger.end_session(succeeded=False)
            raise
        for logger in events:
            logger.end_session(succeeded=True)


@contextmanager
def _quiet_writers() -> Iterator[None]:
    """Silence TensorBoard's writer thread: its error is raised by the next event anyway."""
    before = threading.excepthook

    def failed(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.thread, _AsyncWriterThread):
            before(arguments)

    threading.excepthook = failed
    try:
        yield
    finally:
        threading.excepthook = before


def charts(metric: str) -> dict[str, dict[str, list]]:
    """Return the custom charts in which training and validation share axes, for the metric and the loss."""
    names = dict.fromkeys([metric.removeprefix("val/"), "loss"])
    return {
        "training and validation": {
            {"acc": "accuracy"}.get(name, name): ["Multiline", [f"epoch/train/{name}$", f"epoch/val/{name}$"]]
            for name in names
        }
    }


def event_sizes(folder: Path) -> dict[str, int]:
    """Return name -> size in bytes of the event files with metrics and pictures."""
    files = folder.glob("events.out.tfevents.*")
    return {path.name: path.stat().st_size for path in files if path.name not in (START, END)}


def cut_events(folder: Path, sizes: Mapping[str, int]) -> None:
    """Truncate the event files of `folder` to `sizes` (from `event_sizes`), and remove those begun since then."""
    for name, size in event_sizes(folder).items():
        if name not in sizes:
            (folder / name).unlink()
        elif size > sizes[name]:
            os.truncate(folder / name, sizes[name])


def group_of(settings: Mapping[str, Value]) -> str:
    """Return a name shared by all runs with equal settings; TensorBoard shows them as one row with mean metrics."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{settings['model']}-{digest}" if "model" in settings else digest


def _write_event(path: Path, summary: Summary) -> None:
    """Write an event file that holds only this summary."""

    def write(file: IO[bytes]) -> None:
        records = RecordWriter(file)
        for event in (Event(file_version="brain.Event:2"), Event(summary=summary)):
            event.wall_time = time.time()
            records.write(event.SerializeToString())

    write_atomically(path, write)
