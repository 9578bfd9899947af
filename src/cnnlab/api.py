"""cnnlab in Python: `train`, `evaluate`, `predict`, and `load_run`, which brings a trained network back."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from cnnlab import experiment
from cnnlab.config import Config, build, check, compose, plain_config, quote_path, trusted_prefixes
from cnnlab.config.overrides import OF_ONE_COMMAND, split, value_of
from cnnlab.data.datamodule import DataModule
from cnnlab.data.decoding import ImageLike, allowing, read_image, separate
from cnnlab.data.sources.image_folder import find_pictures
from cnnlab.errors import DataError, InputError, nearest
from cnnlab.models.building import build_network
from cnnlab.models.engines import AUTO, RUNTIMES, TORCH, is_installed, require_engine
from cnnlab.models.inputs import InputSpec
from cnnlab.models.preprocessing import from_state
from cnnlab.runs.folder import RunFolder, read_config, read_record
from cnnlab.runs.naming import claim, claim_exactly, folder_of
from cnnlab.system.ahead import map_ahead
from cnnlab.system.faults import translate_error
from cnnlab.system.files import load_tensors
from cnnlab.system.processes import starts_processes
from cnnlab.tasks.base import Evaluation, Prediction, Task
from cnnlab.training.engine_choice import TRIED, inference_engine
from cnnlab.training.lightning_compat import make_traceable
from cnnlab.training.module import TaskModule
from cnnlab.training.process_state import unchanged_process

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")


class LoadedRun:
    """A trained network in eval mode with its preprocessing, its class names, and `predict`."""

    def __init__(self, task: Task, module: TaskModule, spec: InputSpec) -> None:
        self.task = task
        self.network: TaskModule = module.eval()
        make_traceable(self.network)
        self.classes = module.classes
        self.spec = spec
        self.channels = spec.channels

    @torch.inference_mode()
    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Tensor:
        """Return what predictions are made of: of a classifier probabilities N x classes, float32; N = 1 for one image.

        images: one picture of any size, or several: paths of files, bytes of their contents, open files, PIL images,
        NumPy arrays H x W or H x W x C, tensors C x H x W. A picture gives the same result in each of these forms; it
        is prepared as in evaluation. Arrays and tensors hold uint8, or values as the files of the run do (uint16,
        float, ...); floats are in [0, 1] unless the run was trained on floating-point images. They may have 1 to 4
        channels, the second or fourth being opacity. Arrays N x H x W x C and tensors N x C x H x W hold several
        pictures.
        Raises DataError, naming the file, for one that is not a readable image, and InputError for other pictures.
        """
        pictures = [self.prepare(image) for image in separate(images)]
        if not pictures:
            return torch.empty(0, len(self.classes))
        found = self.network.predict(self._on_device(self.task.stack(pictures)))
        return move_data_to_device(found, torch.device("cpu"))

    def predictions(self, inputs: Any, options: Any = None) -> Sequence[Prediction]:
        """Return a prediction for each input, which can be drawn or written as a row.

        inputs: as the task's `stack` returns them, uint8 N x C x H x W of most tasks. options: an instance of the
        task's `predict_options`.
        """
        return self.task.predict(self.network, self._on_device(inputs), options or self.task.predict_options())

    def computing(
        self, inputs: Any, count: int, cfg: Config | None, engine: str | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Return a context in which predictions are computed by an engine.

        inputs: some of the `count` inputs, as for `predictions`. cfg: of the run. engine: None: as its speed.engine.
        """
        setting, cache_dir = engine_setting(self.task, cfg, engine)
        if "engine" not in self.task.capabilities:
            return contextlib.nullcontext()
        return inference_engine(self.network, inputs, count, setting, cache_dir)

    def _on_device(self, inputs: Any) -> Any:
        return move_data_to_device(inputs, next(self.network.parameters()).device)

    def prepare(self, image: ImageLike, options: Any = None) -> Any:
        """Return one picture, in any form that `predict` takes, as the task's `stack` takes it.

        Of most tasks that is uint8 C x H x W, resized and cut for the network. options: an instance of the task's
        `predict_options`.
        """
        with allowing(self.task.max_pixels):
            pixels = read_image(image, self.channels, self.spec.ranges or {})
        return self.task.prepare(pixels, self.spec, options)


class Run(dict[str, Any]):
    """The record of a run, as in its run.json. As a path it is the run's folder: `load_run(run)`, `Path(run)`."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        super().__init__(record)
        self.folder = folder

    def __fspath__(self) -> str:
        return str(self.folder)


@contextlib.contextmanager
def called_from_python() -> Iterator[None]:
    """Leave the process as it was, and raise errors of the machine as cnnlab's own."""
    with unchanged_process():
        try:
            yield
        except Exception as error:
            own = translate_error(error)
            if own is None or own is error:
                raise
            raise own from error


@called_from_python()
def train(overrides: Sequence[str], config_dir: str | None = None) -> Run:
    """Train what the overrides describe, as `python train.py` does, and return the run.

    Raises InputError or DataError before the run folder exists if it cannot work.

    >>> train(["experiment=quickstart", "trainer.max_epochs=1"])["status"]  # doctest: +SKIP
    'finished'
    """
    require_overrides_of_a_run(overrides)
    overrides = [quote_path(override) for override in overrides]
    cfg = compose(overrides, config_dir)
    check(cfg)
    if starts_processes(cfg.trainer):
        raise InputError(
            f"cnnlab.train trains in this process, but trainer.devices={cfg.trainer.devices} "
            f"trainer.strategy={cfg.trainer.strategy} needs others, which would run this program again. "
            "Add trainer.devices=1 trainer.strategy=auto, or use python train.py."
        )
    folder = claim_exactly(Path(cfg.paths.output_dir)) if cfg.paths.output_dir else claim(folder_of(cfg, overrides))
    run = RunFolder(folder, plain_config(cfg, folder), overrides)
    try:
        experiment.train(run.config, run)
    except BaseException as error:
        record_end(run, error)
        raise
    run.update(status="finished")
    return Run(folder.absolute(), run.record)


def require_overrides_of_a_run(overrides: Sequence[str]) -> None:
    """Raise InputError for what only the command line can do."""
    if isinstance(overrides, str):
        raise InputError(
            f"cnnlab.train takes a list of overrides, such as ['seed=1', 'data=digits'], not {overrides!r}."
        )
    for override in overrides:
        if not isinstance(override, str):
            raise InputError(f"cnnlab.train takes a list of strings such as 'seed=1', not {override!r}.")
        if override.startswith("-") or split(override).group in (*OF_ONE_COMMAND, "hydra"):
            raise InputError(
                f"{override}: cnnlab.train starts one new run. Use python train.py to resume one, for sweeps and for "
                "Hydra's own settings; paths.output_dir names the folder, config_dir=... further configs."
            )


def record_end(run: RunFolder, error: BaseException) -> None:
    """Record how a run failed; remove the folder of one that never began."""
    if not run.has_begun:
        with contextlib.suppress(OSError):
            run.path.rmdir()
    elif isinstance(error, Exception):
        own = translate_error(error)
        run.end(status="failed", error=str(own or error), exit_code=own.exit_code if own else 1)
    else:
        run.end(status="interrupted")


@called_from_python()
def load_run(folder: str | os.PathLike[str], trusted_packages: Sequence[str] = ()) -> LoadedRun:
    """Return the best network of a run folder, or that of one `.ckpt` file; needs that file alone.

    trusted_packages: packages of your own that the network's class is from; a checkpoint cannot name them itself.
    Raises InputError or DataError if there is none, or it is damaged, too old or not of cnnlab.
    """
    path = checkpoint_of(Path(folder))
    contents = load_tensors(path)
    trusted = trusted_prefixes({"trusted_packages": list(trusted_packages)})
    try:
        stored, state = contents["hyper_parameters"], contents["state_dict"]
        require_format(stored, path)
        spec = InputSpec(**stored["input"], ranges=stored.get("ranges", {}))
        _require_names(stored["classes"])
        constructor = build(stored["network"], trusted)
        _require_weights_for(constructor, len(stored["classes"]), state)
        network = build_network(
            constructor,
            num_classes=len(stored["classes"]),
            weights=None,
            surgery=[build(node, trusted).modify_network for node in stored["surgery"]],
            seed=0,
        )
        node = stored["task"]
        task: Task = build(node["implementation"], trusted, name=node["name"], metrics=node["metrics"])
        module = task.build_module(from_state(state), network, stored["classes"], stored)
        module.load_state_dict(state)
        return LoadedRun(task, module, spec)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} is not a checkpoint of cnnlab, or a damaged one: {error}") from error


def checkpoint_of(path: Path) -> Path:
    """Return the best checkpoint of a run folder, or the file itself; raise InputError if there is none."""
    if path.is_dir():
        names = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        found = next((name for name in names if name.is_file()), names[0])
    else:
        found = path
    if not found.is_file():
        raise InputError(f"{path} is not a run: {found} does not exist.")
    return found


def require_format(stored: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if a checkpoint was written by a version of cnnlab whose checkpoints differ."""
    found = stored.get("format", 1)
    if found != experiment.FORMAT:
        raise InputError(
            f"{path} has checkpoint format {found}, this version of cnnlab reads format {experiment.FORMAT}. "
            "Train the run again, or load it with the version that wrote it."
        )


def _require_names(classes: Any) -> None:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes {classes!r} are not a list of names")


def _require_weights_for(constructor: Callable[..., nn.Module], num_classes: int, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a network far larger than its weights, before memory is taken for it."""
    try:
        with torch.device("meta"):
            planned = sum(parameter.numel() for parameter in constructor(num_classes=num_classes).parameters())
    except Exception:  # a network that needs values while it is built; if something is wrong, building tells
        return
    held = sum(value.numel() for value in state.values())
    if planned > 2 * held:  # regularization changes some layers
        raise ValueError(f"its network has {planned:,} parameters, and its file holds {held:,} numbers")


# --- The data of a run ---


def data_of_run(
    cfg: Config, spec: InputSpec, trusted_packages: Sequence[str] = (), augmented: bool = False
) -> DataModule:
    """Return the data of a run's config at the size of its network.

    trusted_packages: the run's files cannot choose them themselves.
    """
    trusted = trusted_prefixes({"trusted_packages": list(trusted_packages)})
    task = experiment.build_task(cfg, trusted)
    augmentations = experiment.build_augmentations(cfg, spec, trusted) if augmented else {}
    return task.build_data(cfg, spec, augmentations, trusted)


def apply_changes(cfg: Config, changes: Mapping[str, str], own: Sequence[str] = ()) -> None:
    """Replace values of a resolved config; a changed paths.data_dir moves the paths below it.

    own: further keys of the verb, which errors name. Raises InputError for an unknown key.
    """
    old_data_dir = cfg["paths"]["data_dir"]
    for key, text in changes.items():
        group, *rest = key.split(".")
        if len(rest) != 1 or group not in ("data", "paths") or rest[0] not in cfg[group]:
            known = [
                *own,
                *(f"{name}.{entry}" for name in ("data", "paths") for entry in cfg[name] if entry != "dataset"),
            ]
            raise InputError(f"{key} of a run cannot be changed. {nearest([key], known)}")
        is_text = group == "paths" or rest[0] in ("root", "file", "groups")
        cfg[group][rest[0]] = text if is_text else typed_like(key, text, cfg[group][rest[0]])
    dataset = cfg["data"].get("dataset", cfg["data"])
    if not isinstance(dataset, dict):
        raise InputError(f"data.dataset of the run is {dataset!r}; keys and values are expected.")
    for name in (key.removeprefix("data.") for key in changes if key.startswith("data.")):
        if name in dataset:  # an argument of the function that lists the data, which the config has resolved
            dataset[name] = cfg["data"][name]
    if "data.root" in changes and "root" not in dataset:
        raise InputError(f"data.root cannot be changed: {cfg['data']['name']} has no folder.")
    if "data.root" not in changes and "paths.data_dir" in changes and dataset.get("root"):
        root = Path(dataset["root"])
        if not root.is_relative_to(old_data_dir):
            raise InputError(f"The data of this run are in {root}, not below {old_data_dir}: set data.root instead.")
        dataset["root"] = str(Path(cfg["paths"]["data_dir"]) / root.relative_to(old_data_dir))


def typed_like(key: str, text: str, old: Any) -> Any:
    """Return what `text` means in Hydra's grammar; raise InputError if it is of another type than `old`."""
    value = value_of(f"{key}={text}")
    alike = (int, float) if isinstance(old, int | float) else type(old)
    if None not in (old, value) and not isinstance(value, alike):
        raise InputError(f"{key}={text} is not of type {type(old).__name__}, as {old!r} is.")
    return value


# --- Evaluation and prediction ---


@called_from_python()
def evaluate(
    run: str | os.PathLike[str],
    part: str | None = None,
    changes: Mapping[str, str] | None = None,
    trusted_packages: Sequence[str] = (),
    engine: str | None = None,
    **options: Any,
) -> Evaluation:
    """Score a run's best network on its test part, or on its validation part where it has none; write `run/report/`.

    part: train, val or test instead. changes: values of the run's config to replace, such as data.root.
    engine: torch, onnxruntime, openvino or auto; None: as the run's speed.engine, or torch for scores that are in
    run.json, so that they agree in every digit. options: of the task's `evaluate_options`.
    """
    run = Path(run)
    cfg = read_config(run)
    loaded = load_run(run, trusted_packages)
    changes = changes or {}
    own = ("split", "engine", "trusted_packages", *vars(loaded.task.evaluate_options()))
    apply_changes(cfg, changes, own)
    data = data_of_run(cfg, loaded.spec, trusted_packages)
    part = part or ("test" if data.parts.test is not None else "val")
    chosen = getattr(data.parts, part, None) if part in PARTS else None
    if chosen is None:
        there = ", ".join(name for name in PARTS if getattr(data.parts, name))
        raise InputError(f"split={part}: this run's data have no such part. Available: {there}.")
    if data.classes != loaded.classes:
        raise InputError(
            f"The data have the classes {', '.join(data.classes[:9])}; "
            f"the network knows {', '.join(loaded.classes[:9])}."
        )
    record = read_record(run)
    moved = any(key in changes for key in ("data.root", "data.file", "paths.data_dir"))
    if not moved and data.split_hash != (stored := record.get("split_hash", data.split_hash)):
        log.warning(
            "The data are not those of the run (split %s, then %s): the %s images may have been trained on.",
            data.split_hash,
            stored,
            part,
        )
    asked = options_of(loaded.task.evaluate_options, options)
    known = part == "test" and bool(record.get("test"))  # engines round differently: torch gives the recorded digits
    with (
        contextlib.closing(data),
        contextlib.nullcontext()
        if known and engine is None
        else engine_for(loaded.task, loaded.network, data, chosen, cfg, engine),
    ):
        evaluation = loaded.task.evaluate(loaded.network, data, chosen, asked)
    evaluation.write(run / "report", f"{run.name}: {part} {data.examples.lower()} of {cfg['data']['name']}")
    return evaluation


def engine_for(
    task: Task, module: TaskModule, data: DataModule, part: Any, cfg: Config, engine: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which `module` scores a part of the data by an engine; None: by the speed.engine of `cfg`."""
    setting, cache_dir = engine_setting(task, cfg, engine)
    if "engine" not in task.capabilities:
        return contextlib.nullcontext()
    dataset = data.eval_dataset(part)
    few = [dataset[(0, index)] for index in range(min(TRIED, len(part)))]
    return inference_engine(module, data.collate(few)[0], len(part), setting, cache_dir)


def engine_setting(task: Task, cfg: Config | None, engine: str | None) -> tuple[str, Path | None]:
    """Return the engine that is asked for, by itself or in the config of a run, and the cache folder of the run.

    A run may be from a machine that has other engines installed. Raises InputError for an `engine` that is unknown, not
    installed or not possible for the task.
    """
    if engine is not None:
        require_engine(engine)
        if engine not in (AUTO, TORCH):
            task.require("engine", f"engine={engine}")
    speed = (cfg or {}).get("speed")
    stored = speed.get("engine") if isinstance(speed, dict) else None
    usable = isinstance(stored, str) and (stored == TORCH or (stored in RUNTIMES and is_installed(stored)))
    return engine or (str(stored) if usable else AUTO), Path(cfg["paths"]["cache_dir"]) if cfg else None


def config_beside(run: Path) -> Config | None:
    """Return the config of a run folder, or of the one that a checkpoint is in; None if there is none."""
    folder = run if run.is_dir() else run.absolute().parents[1]
    return read_config(folder) if (folder / "config.yaml").is_file() else None


@called_from_python()
def predict(
    run: str | os.PathLike[str],
    images: ImageLike | Iterable[ImageLike],
    trusted_packages: Sequence[str] = (),
    engine: str | None = None,
    **options: Any,
) -> dict[str, Prediction]:
    """Return a prediction for one picture, for every picture below a folder, or for each of a list, by its name.

    images: a file or folder, or anything that `LoadedRun.predict` takes; what is not a file is named by its number.
    engine: as for `evaluate`. options: of the task's `predict_options`.
    Raises InputError or DataError if the run or every picture cannot be read.
    """
    loaded = load_run(run, trusted_packages)
    if isinstance(images, str | os.PathLike):
        source, paths = find_pictures(Path(images))
        named: dict[str, Any] = {path.relative_to(source).as_posix(): path for path in paths}
    else:
        named = {
            str(each if isinstance(each, str | Path) else number): each for number, each in enumerate(separate(images))
        }
    asked = options_of(loaded.task.predict_options, options)
    if not named:
        return {}
    prepared = map_ahead(lambda image: loaded.prepare(image, asked), named.values(), ahead=64)
    inputs = loaded.task.stack(list(prepared))
    with loaded.computing(inputs, len(named), config_beside(Path(run)), engine):
        return dict(zip(named, loaded.predictions(inputs, asked), strict=True))


def options_of(kind: type, options: Mapping[str, Any]) -> Any:
    """Return the options of a verb; raise InputError for one that it does not have."""
    known = list(vars(kind()))
    for name in options:
        if name not in known:
            raise InputError(f"Unknown option {name}. {nearest([name], known)}".rstrip())
    return kind(**options)
