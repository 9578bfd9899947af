"""From a config to an experiment: `build` makes each part once, `train` runs it from beginning to end."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import FSDPPrecision, Precision
from torch import nn

from cnnlab.config import Config, build_entries, trusted_prefixes
from cnnlab.config import build as build_node
from cnnlab.data.datamodule import DataModule
from cnnlab.data.records import open_records
from cnnlab.data.store import Store
from cnnlab.errors import Problems
from cnnlab.models.building import build_network, meta_network, weights_preprocessing
from cnnlab.models.engines import TORCH
from cnnlab.models.inputs import InputSpec, crops_for, network_node, statistics_by_hand
from cnnlab.models.preprocessing import fit_once
from cnnlab.models.weighted import weights_of
from cnnlab.models.weights import Weights, for_classes
from cnnlab.runs.events import cut_events, event_sizes, session
from cnnlab.runs.folder import RunFolder, read_record
from cnnlab.system.devices import require_device, set_threads
from cnnlab.system.files import load_tensors
from cnnlab.tasks.base import Task
from cnnlab.training.callbacks.best_metric import BestMetric, describe_best
from cnnlab.training.callbacks.progress import Throughput, peak_memory
from cnnlab.training.divergence import Divergence
from cnnlab.training.feature_cache import FeatureCache, build_feature_cache
from cnnlab.training.freezing import FreezePlan, check_batch_norm
from cnnlab.training.module import TaskModule
from cnnlab.training.rank_monitor import RankMonitor
from cnnlab.training.recipe import Recipe, build_optimizer, check_optimizer, lr_scaling
from cnnlab.training.regularizers import acting, require_known, require_together
from cnnlab.training.regularizers.penalties import sparsity
from cnnlab.training.setting_checks import check_settings
from cnnlab.training.speed import Speed, check_speed
from cnnlab.training.speed_choice import choose_speed
from cnnlab.training.trainer import build_trainer, translate_fit_error
from cnnlab.training.trainer_checks import check_arguments, check_trainer, require_rest

log = logging.getLogger(__name__)
FORMAT = 3
"""Of checkpoints and run folders; counts up when older ones can no longer be read."""
LSUV_IMAGES = 64
"""Training images by whose outputs init=lsuv sets the scale of each layer."""
WEIGHTS = "class_weights"
"""Key of the config group `loss` that depends on the data and the task."""
CONFLICT = "These settings do not go together:"
C = TypeVar("C", bound=L.Callback)


def train(cfg: Config, run: RunFolder) -> dict[str, Any]:
    """Train one configured network and leave a complete run folder behind; return its record.

    cfg: plain, resolved and checked. Nothing is written before the experiment is known to work.
    """
    threads = torch.get_num_threads()
    try:
        experiment = build(cfg, read_record(run.path).get("speed") if run.resumes else None)
        with closing(experiment.data):
            experiment.check()
            if run.resumes_from:
                require_rest(experiment.trainer, experiment.data, experiment.recipe, run.resumes_from)
            run.begin()
            log.info("Run folder: %s", run.path)
            run.describe(experiment.data, experiment.device_name, experiment.trainer.world_size)
            run.update(speed=experiment.speed)
            if weights := experiment.recipe.class_weights:
                run.update(class_weights=dict(zip(experiment.data.classes, weights, strict=True)))
            with recording(run, experiment):
                experiment.fit(run.resumes_from)
                finish(run, experiment)
    finally:
        torch.set_num_threads(threads)  # the next job of a sweep chooses for itself
    return run.record


@dataclass
class Experiment:
    """Every part of a run."""

    cfg: Config
    task: Task
    spec: InputSpec
    data: DataModule
    module: TaskModule
    trainer: L.Trainer

    @property
    def recipe(self) -> Recipe:
        return self.module.recipe

    def check(self) -> None:
        """Take a trial step in memory; raise InputError with whatever network or loss say about their input."""
        self.module.check_step(self.data.probe_batch())

    def fit(self, resume_from: Path | None = None) -> None:
        """Train, from a checkpoint if one is given; raise what ended it rather than what Lightning makes of that."""
        threads = torch.get_num_threads()
        monitor = self.callback(RankMonitor)
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume_from)
        except BaseException as error:
            cause = translate_fit_error(error, monitor)
            monitor.end()
            if cause is error:
                raise
            raise cause from error
        finally:
            torch.set_num_threads(threads)  # training on cached features takes fewer

    def score(self, checkpoint: Path) -> dict[str, float]:
        """Return the metrics of a checkpoint's network on the test part; empty if there is none. Ends the training.

        They are those of `cnnlab evaluate`, which computes in float32 whatever the precision of the training was.
        """
        if self.data.parts.test is None:
            return {}
        # Weight averaging, which trains no more, would put the last weights in the place of the averaged ones.
        kept = [each for each in self.trainer.callbacks if not isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
        self.trainer.callbacks = kept  # type: ignore[attr-defined]
        if not isinstance(self.trainer.precision_plugin, FSDPPrecision):  # it computes in the precision of its shards
            self.trainer.strategy.precision_plugin = Precision()
            self.module.float()
        self.trainer.test(self.module, datamodule=self.data, ckpt_path=checkpoint, verbose=False)
        metrics = self.trainer.callback_metrics
        return {key: float(value) for key, value in metrics.items() if key.startswith("test/")}

    def results(self) -> dict[str, Any]:
        """Return what run.json says of the training: metrics of the best and the last epoch, speed, memory."""
        best, throughput, trainer = self.callback(BestMetric), self.callback(Throughput), self.trainer
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        last = {key: value for key, value in metrics.items() if key.startswith(("val/", "train/"))}
        return {
            "best": {} if best.value is None else {best.monitor: best.value, "epoch": best.epoch},
            "last": {**last, "epoch": trainer.current_epoch - 1},
            "images_per_second": round(throughput.speed, 2) if throughput.speed else None,
            "data_wait_share": round(throughput.wait_share, 3) if throughput.wait_share is not None else None,
            "peak_memory_gib": round(peak_memory(trainer.strategy.root_device) / 2**30, 2),
        }

    @property
    def speed(self) -> dict[str, Any]:
        """The settings that are computed with; in a config they may be "auto"."""
        return {
            name: self.cfg["speed"][name] for name in (*(each.name for each in dataclasses.fields(Speed)), "engine")
        }

    @property
    def device_name(self) -> str:
        is_gpu = self.trainer.strategy.root_device.type == "cuda"
        return torch.cuda.get_device_name() if is_gpu else "cpu"

    def callback(self, kind: type[C]) -> C:
        """Return the callback of a kind that every run has."""
        return next(each for each in self.trainer.callbacks if isinstance(each, kind))  # type: ignore[attr-defined]


# --- Building ---


def build(cfg: Config, recorded_speed: Any = None, keeps: bool = True) -> Experiment:
    """Build every part of the run that `cfg` (plain, resolved, checked) describes, each once.

    recorded_speed: the `speed` of the record of a run that is resumed. keeps: whether the choice of speed is kept.
    Raises one InputError that names all settings that cannot work, before weights are loaded or networks filled.
    """
    require_device(cfg["trainer"]["accelerator"])
    set_threads(None)
    trusted = trusted_prefixes(cfg)
    task = build_task(cfg, trusted)
    spec = task.input_spec(cfg["model"], cfg["preprocessing"])
    spec = dataclasses.replace(spec, ranges=None)  # those of the data count, not of a run whose weights are loaded
    node = network_node(cfg["model"], spec)
    problems = Problems()
    problems.attempt(check_arguments, cfg)
    problems.attempt(check_speed, cfg["speed"])
    regularizers = build_regularizers(cfg, trusted, problems)
    augmentations = problems.attempt(build_augmentations, cfg, spec, trusted) or {}
    ingredients = build_ingredients(cfg, trusted, problems)
    data = problems.attempt(build_data, cfg, task, spec, augmentations, trusted)
    if data is None:
        problems.raise_all(CONFLICT)
    assert data is not None
    constructor = build_node(node, trusted)
    meta = meta_network(constructor, len(data.classes))
    check_settings(cfg, data, meta, regularizers, problems)
    plan = FreezePlan(meta, [{"epoch": 0, "train": "all"}])  # for the checks below, if the config's cannot be
    with problems:
        plan = FreezePlan(meta, cfg["freeze"]["phases"], cfg["freeze"]["batch_norm"])
    problems.attempt(check_batch_norm, plan, meta, data.batch_size)
    batch_transforms = task.build_batch_transforms(augmentations, len(data.classes))
    class_weights = problems.attempt(find_class_weights, cfg, task, data)
    recipe = build_recipe(cfg, plan, regularizers, batch_transforms, class_weights=class_weights, **ingredients)
    if ingredients["loss"]:
        problems.attempt(task.check_recipe, recipe, augmentations)
    problems.raise_all(CONFLICT)
    weights = find_weights_of(cfg, task)
    preprocessing = build_preprocessing(cfg, spec, weights, data, trusted)
    network = build_filled_network(cfg, constructor, weights, data, preprocessing, regularizers, trusted)
    task.fit_network(network, data)
    description = describe_network(cfg, node, spec, data, regularizers)
    build_module = functools.partial(task.build_module, preprocessing, network, data.classes, description)
    caches = "feature_cache" in task.capabilities
    speed = choose_speed(
        cfg, network, data, recipe, build_module, caches_features=caches, record=recorded_speed, keeps=keeps
    )
    cfg = with_speed(cfg, speed)
    if speed.compile:
        network.compile()
    clips = bool(cfg["trainer"]["gradient_clip_val"])
    optimizer = build_optimizer(cfg["optimizer"], speed.precision, trusted, clips)
    module = build_module(dataclasses.replace(recipe, channels_last=speed.channels_last, optimizer=optimizer))
    trainer = build_trainer(cfg, module, trusted)
    check_trainer(trainer, cfg, data, recipe)
    experiment = Experiment(cfg, task, spec, data, module, trainer)
    data.cached = find_feature_cache(experiment)
    choose_engine(experiment, recorded_speed, keeps)
    prepare_reading(experiment)
    return experiment


def build_task(cfg: Config, trusted: Sequence[str]) -> Task:
    """Return the task of a config, which may be that of a run folder; raise InputError if the data do not fit it."""
    node = cfg["task"]
    task: Task = build_node(node["implementation"], trusted, name=node["name"], metrics=node["metrics"])
    task.check_data(cfg["data"])
    return task


def build_regularizers(cfg: Config, trusted: Sequence[str], problems: Problems) -> dict[str, Any]:
    """Return the config group `regularization`, as far as it can be built."""
    regularizers: dict[str, Any] = {}
    for name, entry in cfg["regularization"].items():
        regularizers |= problems.attempt(build_entries, {name: entry}, trusted) or {}
    problems.attempt(require_known, regularizers)
    problems.attempt(require_together, regularizers)
    return regularizers


def build_augmentations(cfg: Config, spec: InputSpec, trusted: Sequence[str]) -> dict[str, nn.Module]:
    """Return the config group `augmentation`; what is null of its crops is as the network's input."""
    return build_entries(crops_for(spec, cfg["augmentation"]), trusted)


def build_ingredients(cfg: Config, trusted: Sequence[str], problems: Problems) -> dict[str, Any]:
    """Return the parts of a recipe that depend on nothing else: loss, optimizer, scheduler, learning rate scaling.

    One that cannot be built is None, and what is wrong with it is added to `problems`.
    """
    precision, clips = str(cfg["trainer"]["precision"]), bool(cfg["trainer"]["gradient_clip_val"])
    ingredients = {
        "scale_lr": problems.attempt(lr_scaling, cfg["trainer"]["scale_lr"]),
        "loss": problems.attempt(build_node, {k: v for k, v in cfg["loss"].items() if k != WEIGHTS}, trusted),
        "scheduler": problems.attempt(build_node, cfg["scheduler"], trusted),
        "optimizer": problems.attempt(build_optimizer, cfg["optimizer"], precision, trusted, clips),
    }
    if ingredients["optimizer"] and ingredients["scheduler"]:
        problems.attempt(check_optimizer, ingredients["optimizer"], ingredients["scheduler"], cfg)
    return ingredients


def build_data(
    cfg: Config, task: Task, spec: InputSpec, augmentations: Mapping[str, nn.Module], trusted: Sequence[str]
) -> DataModule:
    """Return the config group `data` at the size that the network takes; few batches of it for debug=overfit."""
    data = task.build_data(cfg, spec, augmentations, trusted)
    if amount := cfg["trainer"]["overfit_batches"]:
        data.keep_few(amount, cfg["seed"])
    return data


def find_class_weights(cfg: Config, task: Task, data: DataModule) -> list[float] | None:
    """Return the weight of each class in the training loss; None if loss.class_weights is null."""
    given = cfg["loss"].get(WEIGHTS)
    return None if given is None else task.class_weights(given, data)


def build_recipe(
    cfg: Config,
    plan: FreezePlan,
    regularizers: Mapping[str, Any],
    batch_transforms: Sequence[nn.Module],
    **ingredients: Any,
) -> Recipe:
    """Return how the network is trained."""
    return Recipe(
        plan=plan,
        lr=cfg["optimizer"]["lr"],
        seed=cfg["seed"],
        monitor=f"val/{cfg['metric']}",
        mode=cfg["metric_mode"],
        regularizers=regularizers,
        batch_transforms=batch_transforms,
        resume_schedule=cfg["resume_schedule"],
        **ingredients,
    )


def find_weights_of(cfg: Config, task: Task) -> Weights | None:
    """Return the weights that model.weights names; None for a network from scratch."""
    model = cfg["model"]
    return task.find_weights(model, Path(cfg["paths"]["data_dir"])) if model["weights"] else None


def build_preprocessing(
    cfg: Config, spec: InputSpec, weights: Weights | None, data: DataModule, trusted: Sequence[str]
) -> nn.Module:
    """Return the config group `preprocessing`, fitted on the training images; `weights` has statistics of its own."""
    layer = build_node(cfg["preprocessing"], trusted)
    if cfg["preprocessing"]["name"] != "weights":
        options = layer.keywords | {"images_NCHW": data.train_images()}
        return fit_once(Path(cfg["paths"]["cache_dir"]) / "preprocessing", data.train_fingerprint, **options)
    return weights_preprocessing(None if statistics_by_hand(cfg["preprocessing"]) else weights, spec)


def build_filled_network(
    cfg: Config,
    constructor: Callable[..., nn.Module],
    weights: Weights | None,
    data: DataModule,
    preprocessing: nn.Module,
    regularizers: Mapping[str, Any],
    trusted: Sequence[str],
) -> nn.Module:
    """Return the network with its weights, the changes that regularization makes, and the config group `init`."""
    init = build_node(cfg["init"], trusted)
    if cfg["init"]["name"] == "lsuv":
        init = functools.partial(init, images=preprocessing(data.sample(LSUV_IMAGES).float() / 255))
    return build_network(
        constructor,
        num_classes=len(data.classes),
        weights=weights and for_classes(weights, data.classes),
        surgery=[each.modify_network for each in acting(regularizers.values(), "modify_network")],
        init=init,
        seed=cfg["seed"],
    )


def describe_network(
    cfg: Config, node: dict[str, Any], spec: InputSpec, data: DataModule, regularizers: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `load_run` needs to rebuild the network: plain values only, kept in every checkpoint."""
    changing = [name for name, each in regularizers.items() if acting([each], "modify_network")]
    return {
        "format": FORMAT,
        "task": cfg["task"],
        "network": node,
        "surgery": [cfg["regularization"][name] for name in changing],
        "classes": list(data.classes),
        "input": {key: value for key, value in dataclasses.asdict(spec).items() if key != "ranges"},
        "ranges": {kind: list(values) for kind, values in data.ranges.items()},
    }


def with_speed(cfg: Config, speed: Speed) -> Config:
    """Return the config with the chosen settings, and make this process compute with so many threads."""
    set_threads(speed.num_threads)
    trainer = cfg["trainer"] | {"precision": speed.precision}
    return cfg | {"speed": cfg["speed"] | dataclasses.asdict(speed), "trainer": trainer}


def find_feature_cache(experiment: Experiment, setting: str | None = None) -> FeatureCache | None:
    """Return the cache of the outputs of frozen stages; None where there are none, or they cannot be kept.

    setting: in place of freeze.cache.
    """
    cfg, freeze = experiment.cfg, experiment.cfg["freeze"]
    setting = setting or freeze["cache"]
    if "feature_cache" not in experiment.task.capabilities:
        if setting == "on":
            experiment.task.require("feature_cache", "freeze.cache=on")
        return None
    return build_feature_cache(
        setting,
        freeze["cache_views"],
        experiment.module,
        experiment.data,  # type: ignore[arg-type]
        experiment.trainer,
        store_of(cfg),
        {
            "input": {"channels": experiment.spec.channels, **experiment.spec.resizing},
            "augmentation": cfg["augmentation"],
        },
    )


def choose_engine(experiment: Experiment, recorded_speed: Any, keeps: bool) -> None:
    """Choose the engine that computes features, if they are computed, in place of speed.engine=auto."""
    cfg, cache, engine = experiment.cfg, experiment.data.cached, TORCH
    if isinstance(cache, FeatureCache):
        recorded = recorded_speed.get("engine") if isinstance(recorded_speed, Mapping) else None
        epochs = epochs_of(experiment)
        folder = Path(cfg["paths"]["cache_dir"]) / "speed"
        engine = cache.choose_engine(cfg["speed"]["engine"], recorded, epochs, folder, keeps)
    experiment.cfg = cfg | {"speed": cfg["speed"] | {"engine": engine}}


def prepare_reading(experiment: Experiment) -> None:
    """Tell the data how often they are read, and give them records of decoded images if data.record_cache allows it."""
    if "records" in experiment.task.capabilities:
        data: Any = experiment.data
        data.reading_epochs = reading_epochs(experiment)
        setting, store = experiment.cfg["data"]["record_cache"], store_of(experiment.cfg)
        data.records = open_records(setting, data.recordable, data.channels, store, data.reading_epochs)


def reading_epochs(experiment: Experiment) -> int:
    """Return in how many epochs training reads images, not features; a run without an end counts as two of its last
    phase."""
    plan, cached, network = experiment.recipe.plan, experiment.data.cached, experiment.module.network
    return sum(not cached or plan.first_trained(network, epoch) is None for epoch in range(epochs_of(experiment)))


def epochs_of(experiment: Experiment) -> int:
    """Return the number of epochs; of a run without an end, those up to the second of its last phase."""
    limit = experiment.trainer.max_epochs
    return limit if limit and limit > 0 else experiment.recipe.plan.phases[-1].epoch + 2


def store_of(cfg: Config) -> Store:
    """Return the store of features and records."""
    return Store(Path(cfg["paths"]["cache_dir"]), cfg["speed"]["cache_gib"])


# --- Running ---


@contextmanager
def recording(run: RunFolder, experiment: Experiment) -> Iterator[None]:
    """Record what happens inside: the session in TensorBoard, lost processes and diverging losses in run.json."""
    if run.resumes_from and run.writes:
        cut_events(run.path, load_tensors(run.resumes_from).get("event_sizes", event_sizes(run.path)))
    experiment.callback(RankMonitor).on_lost = lambda error: run.end(
        status="failed", error=str(error), exit_code=error.exit_code
    )
    with session(experiment.trainer.loggers, run.record["settings"], experiment.recipe.monitor):
        try:
            yield
        finally:
            if events := experiment.callback(Divergence).events:  # type: ignore[type-abstract]
                run.record["divergence"] = events


def finish(run: RunFolder, experiment: Experiment) -> None:
    """Record the metrics, score the best network on the test part if there is one, and export its weights."""
    throughput = experiment.callback(Throughput)
    if throughput.speed or "last" not in run.record:  # a finished run that is resumed keeps what it recorded
        run.update(**experiment.results())
    if throughput.speed:
        log.info(
            "Training: %.1f %s/s, %.0f %% of the time waiting for data; peak memory %.2f GiB",
            throughput.speed,
            experiment.data.examples.lower(),
            100 * (throughput.wait_share or 0.0),
            run.record["peak_memory_gib"],
        )
    log.info("%s", describe_best(experiment.recipe.monitor, run.record["best"], run.record["last"]))
    if not run.best_checkpoint.is_file():
        log.info("No checkpoint was written, so no weights are exported and nothing is tested.")
        return
    test = experiment.score(run.best_checkpoint)
    if run.writes:
        weights = run.write_weights()
        if any(getattr(each, "makes_zeros", False) for each in experiment.recipe.regularizers.values()):
            run.update(sparsity=sparsity({name: weights[name] for name in weights_of(experiment.module.network)}))
            shares = [f"{name.removesuffix('.weight')} {share:.1%}" for name, share in run.record["sparsity"].items()]
            log.info("Exact zeros among the weights: %s", "   ".join(shares))
    run.update(test=test)
    if test:
        which = "" if run.best_checkpoint.stem == "best" else " (the last checkpoint)"
        scores = "   ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in test.items())
        log.info("Test%s: %s", which, scores)
