"""Compute the outputs of frozen stages once per image and train on the cached features (`freeze.cache`).

Each training image has `freeze.cache_views` augmented views: epoch v uses view v, and later epochs repeat all views in
orders derived from the seed. Validation images have one view, the one that evaluation sees.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnlab.data.image_datamodule import ImageDataModule
from cnnlab.data.images import LabelledImages
from cnnlab.data.store import Entry, Store
from cnnlab.data.transforms import MIXING
from cnnlab.data.views import EVALUATION, Views
from cnnlab.errors import InputError
from cnnlab.models.cutting import Cut, cut_below, fingerprint
from cnnlab.models.engines import AUTO, RUNTIMES, TORCH, EngineError, build_engine, is_installed, title_of
from cnnlab.models.stages import stages
from cnnlab.seeds import derive
from cnnlab.system.ahead import map_ahead
from cnnlab.training.engine_choice import TRIED, EngineTrial, choose_engine
from cnnlab.training.module import FeatureBatch, TaskModule

log = logging.getLogger(__name__)
FORMAT = 3
"""Version of the features; increased when the same key would give other features than before."""
MANY = 100_000
"""Largest number of images for which a tensor view of each one's features is kept in memory."""
CPU_BATCH = 32
"""Batch size for computing features on the CPU. Larger batches use more memory without being faster."""
SMALL_TAIL = 1_000_000
"""Parameters up to which a classifier trains on the CPU with one thread: a second one slows it down."""


class FeatureCache:
    """Converts the batches of `data` to features in the epochs in which the network's first stages are frozen.

    keep: whether features are cached in `store` or recomputed each time; the training is the same.
    views: number of augmented views of each training image. identity: plain values, `augmentation` among them, that the
        pixels of an image depend on in addition to its file.
    Raises InputError with the reason if the features of an image would change during training.
    """

    def __init__(
        self,
        module: TaskModule,
        data: ImageDataModule,
        trainer: L.Trainer,
        store: Store,
        *,
        keep: bool,
        views: int,
        identity: dict[str, Any],
    ) -> None:
        self.module = module
        self.data = data
        self.trainer = trainer
        self.store = store
        self.keep = keep
        self.identity = identity
        self.engine = TORCH
        """Name of the engine that computes features; see `choose_engine`."""
        noise = module.recipe.batch_transforms
        self.augmented = bool(data.train_transform.augmentations or noise)
        self.views = views if self.augmented else 1
        train = data.parts.train
        self.dataset: Dataset = (
            Views(train, data.train_transform, data.channels, noise) if self.augmented else data.eval_dataset(train)
        )
        self._threads = torch.get_num_threads()
        self._cuts: dict[str, Cut] = {}
        self._entries: dict[tuple[str, str, int], Entry] = {}
        self._digests: dict[str, list[str]] = {}
        self._rows: dict[tuple[Path, bool], list[Tensor]] = {}
        self._stage: str | None = None
        self._check()

    def train(self, loader: DataLoader) -> "Batches":
        """Return the batches of a loader of training images as features, of the epoch's view instead of random ones."""
        return Batches(loader, self._train_batches)

    def val(self, loader: DataLoader) -> "Batches":
        """Return the batches of a loader of validation images as features."""
        return Batches(loader, self._val_batches)

    def view(self, epoch: int) -> int:
        """Return the number of the view that `epoch` trains on."""
        if not self.augmented:
            return EVALUATION
        turn, place = divmod(epoch, self.views)
        if turn == 0:
            return place
        generator = torch.Generator().manual_seed(derive(self.data.seed, "views", turn))
        return int(torch.randperm(self.views, generator=generator)[place])

    def images(self, draws: Tensor) -> Tensor:
        """Return the training images that a batch's features were computed from, float32 N x C x H x W in [0, 1].

        draws: int64 N x 2, see FeatureBatch.
        """
        return self.module.to_float(torch.stack([self.dataset[tuple(draw)][0] for draw in draws.tolist()]))

    def threads(self, cut: Cut) -> int:
        """Return the number of CPU threads for training on cached features: one for a small classifier on the CPU."""
        size = sum(parameter.numel() for parameter in stages(cut.network)["classifier"].parameters())
        small = self.module.device.type == "cpu" and cut.stage == "classifier" and size <= SMALL_TAIL
        return 1 if small else self._threads

    def missing(self, cut: Cut, epochs: Iterable[int]) -> int:
        """Return how many features at `cut` training and validation need in `epochs` that are not cached yet."""
        needed = [(self.data.parts.train, view) for view in sorted({self.view(epoch) for epoch in epochs})]
        needed += [(self.data.parts.val, EVALUATION)] if self.data.parts.val is not None else []
        entries = {view: self.store.look("features", self._identity_of(cut, view)) for _, view in needed}
        return sum(len(entries[view].missing(self._digests_of(images))) for images, view in needed)

    # --- Checks ---

    def _check(self) -> None:
        """Raise InputError unless features can be cached; try the network's cut of each phase on two images."""
        recipe, network = self.module.recipe, self.module.network
        mixing = [type(step).__name__ for step in recipe.batch_transforms if isinstance(step, MIXING)]
        if mixing:
            raise InputError(f"{mixing[0]} mixes images differently in every batch.")
        if hooks := self.module.batch_hooks:
            raise InputError(f"{type(hooks[0]).__name__} changes every batch.")
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise InputError(f"{type(self.trainer.strategy).__name__} divides the network among processes.")
        limit = self.trainer.limit_train_batches
        if isinstance(limit, int) or limit < 1.0:
            raise InputError("trainer.limit_train_batches leaves out training images.")
        if recipe.plan.first_trained(network, 0) is None:
            raise InputError("the first stage trains from the first epoch.")
        for phase in recipe.plan.phases:
            stage = recipe.plan.first_trained(network, phase.epoch)
            if stage is not None:
                if not recipe.plan.constant(network, phase.epoch):
                    raise InputError("freeze.batch_norm=train lets the statistics of frozen stages drift.")
                cut = self._cut_below(stage)
                self._check_room(cut.prefix(self._sample())[0])
        self._cuts.clear()  # weights and device may still change before training begins

    def _check_room(self, features: Tensor) -> None:
        """Raise InputError if the features of all views do not fit into the store or onto its disk."""
        if not self.keep:
            return
        count = len(self.data.parts.train) * self.views + len(self.data.parts.val or ())
        width = 2 if "16" in str(self.trainer.precision) else 4
        self.store.require_room(
            count * features.numel() * width, f"{count:,} times {' x '.join(map(str, features.shape))} features"
        )

    # --- Batches ---

    def _train_batches(self, loader: DataLoader) -> Iterator:
        epoch = self.module.current_epoch
        cut = self._cut_of(epoch)
        if cut is None:
            return iter(loader)
        return self._batches(cut, self.data.parts.train, self.dataset, loader, self.view(epoch))

    def _val_batches(self, loader: DataLoader) -> Iterator:
        cut = self._cut_of(self.module.current_epoch)
        if cut is None or self.data.parts.val is None:
            return iter(loader)
        return self._batches(cut, self.data.parts.val, loader.dataset, loader, EVALUATION)

    def _batches(
        self, cut: Cut, images: LabelledImages, dataset: Dataset, loader: DataLoader, view: int
    ) -> Iterator[FeatureBatch]:
        batches = [[(view, index) for _, index in draws] for draws in loader.batch_sampler or ()]
        entry = self._filled(cut, images, dataset, view) if self.keep else None
        if entry is not None:
            features_of = self._look_up(entry, images)
            found: Iterator[Tensor] = (torch.stack([features_of(index) for _, index in draws]) for draws in batches)
            torch.set_num_threads(self.threads(cut))
        else:
            self._prepare(cut)
            found = self._computed(self.data.loader(dataset, batches))
        for draws, features in zip(batches, found, strict=True):
            labels = torch.from_numpy(images.labels[[index for _, index in draws]])
            yield FeatureBatch(features, labels, torch.tensor(draws))

    def _look_up(self, entry: Entry, images: LabelledImages) -> Callable[[int], Tensor]:
        """Return a function from the index of an image to its features.

        Each image is looked up once in the store; with more than MANY images, on every access.
        """
        digests = self._digests_of(images)
        if len(digests) > MANY:
            return lambda index: entry[digests[index]]
        key = (entry.path, images is self.data.parts.train)
        if key not in self._rows:
            self._rows[key] = [entry[digest] for digest in digests]
        return self._rows[key].__getitem__

    def _filled(self, cut: Cut, images: LabelledImages, dataset: Dataset, view: int) -> Entry | None:
        """Return the store's entry of `view` with the features of all `images`; None if they cannot be written."""
        digests = self._digests_of(images)
        try:
            entry = self._entry(cut, view)
            if entry.missing(digests):
                self._prepare(cut)
                entry = self._entry(cut, view)  # of another engine, if the chosen one fails
                self._fill(entry, digests, dataset, view)
                self.store.shrink()
        except OSError as error:
            log.warning(
                "Cannot cache features in %s (%s): they are recomputed in every epoch.", self.store.folder, error
            )
            self.keep = False
            return None
        return entry

    def _fill(self, entry: Entry, digests: list[str], dataset: Dataset, view: int) -> None:
        index_of = {digest: index for index, digest in enumerate(digests)}

        def produce(batches: Iterator[Sequence[str]]) -> Iterator[list[Tensor]]:
            draws = ([(view, index_of[digest]) for digest in batch] for batch in batches)
            for features in self._computed(self.data.loader(dataset, draws)):
                yield [row.clone(memory_format=torch.contiguous_format) for row in features.cpu()]

        name = "as evaluation sees them" if view == EVALUATION else f"view {view + 1} of {self.views}"
        entry.fill(digests, produce, self.fill_batch, f"Features, {name}", show=self.trainer.is_global_zero)

    def _computed(self, loader: DataLoader) -> Iterator[Tensor]:
        """Yield the features of a loader's batches, which on the CPU are computed while it prepares the next one."""
        batches = (pixels for pixels, _ in loader)
        if self.module.device.type != "cpu":
            return map(self._compute, batches)
        return map_ahead(self._compute, batches, ahead=1, threads=1)

    def seconds(self, cut: Cut) -> float:
        """Return the seconds in which the frozen stages below `cut` compute the features of an image in memory."""
        self._prepare(cut)
        pixels = self.data.sample(self.fill_batch)
        self._compute(pixels)
        began = time.perf_counter()
        self._compute(pixels).cpu()
        return (time.perf_counter() - began) / len(pixels)

    @property
    def fill_batch(self) -> int:
        """Batch size for computing the features that are cached."""
        on_cpu = self.module.device.type == "cpu"
        return min(self.data.batch_size, CPU_BATCH) if on_cpu else self.data.batch_size

    @torch.no_grad()
    def _compute(self, pixels: Tensor) -> Tensor:
        with self.trainer.precision_plugin.forward_context():
            return self.module.features(pixels.to(self.module.device, non_blocking=True))

    # --- Engines ---

    def choose_engine(self, setting: str, recorded: str | None, epochs: int, folder: Path, keeps: bool) -> str:
        """Choose the engine that computes features in a run of `epochs`, and return its name.

        setting: the value of speed.engine. recorded: the engine of a run that is resumed. folder, keeps: see
        `engine_choice.choose_engine`. An engine whose features are all cached is chosen without timing.
        """
        if obstacle := self._obstacle_to_engines():
            if setting not in (AUTO, TORCH):
                log.warning("Engine: torch instead of %s, since %s.", setting, obstacle)
            return self.engine
        plan, network = self.module.recipe.plan, self.module.network
        first = next(phase.epoch for phase in plan.phases if plan.first_trained(network, phase.epoch))
        cut = self._cut_below(plan.first_trained(network, first))
        if setting == AUTO:
            setting = self._engine_with_features(cut, range(first, epochs), recorded) or setting
        if setting == TORCH:
            return self.engine
        count = len(self.data.parts.train) * min(self.views, epochs) + len(self.data.parts.val or ())
        trial = EngineTrial(cut.prefix_network, self._sample(TRIED))
        self.engine = choose_engine(setting, trial, count, folder, keeps=keeps)
        self._cuts.clear()  # weights may still change before training begins
        return self.engine

    def _obstacle_to_engines(self) -> str:
        """Return why only torch can compute features; an empty string if others can."""
        if self.trainer.strategy.root_device.type != "cpu":
            return "the run is not on the CPU"
        if self.trainer.world_size > 1:
            return "the run has several processes"
        if str(self.trainer.precision) != "32-true":
            return f"speed.precision={self.trainer.precision}, and engines compute in float32"
        return ""

    def _engine_with_features(self, cut: Cut, epochs: range, recorded: str | None) -> str | None:
        """Return the engine of a resumed run, or one whose features for `epochs` are all cached; None without any."""
        names = [name for name in (*RUNTIMES, TORCH) if name == TORCH or is_installed(name)]
        if recorded in names:
            return recorded
        for name in names if self.keep else ():
            self.engine = name
            if not self.missing(cut, epochs):
                return name
        self.engine = TORCH
        return None

    def _prepare(self, cut: Cut) -> None:
        """Make the cut compute features by the chosen engine, or by torch from now on if that fails."""
        torch.set_num_threads(self._threads)
        if self.engine == TORCH or cut.engine is not None:
            return
        try:
            cut.engine = build_engine(self.engine, cut.prefix_network, self._sample(TRIED))
        except EngineError as error:
            log.warning("Engine: torch instead of %s: %s.", self.engine, error)
            self.engine = TORCH

    # --- Cuts and keys ---

    def _cut_of(self, epoch: int) -> Cut | None:
        """Return the cut below the first stage that has trained by `epoch`, None if there is none; log changes."""
        plan, network = self.module.recipe.plan, self.module.network
        stage = plan.first_trained(network, epoch)
        if stage is None and self._stage is not None:
            log.info("Feature cache off from epoch %d on: %s trains.", epoch, next(iter(stages(network))))
        elif stage is not None and stage != self._stage:
            how = f"cached in {self.store.folder / 'features'}" if self.keep else "not cached"
            views = f", {self.views} views of each image" if self.augmented else ""
            log.info("Features below %s%s: %s", stage, views, how)
        self._stage = stage
        self.module.cut = self._cut_below(stage) if stage else None
        if stage is None:
            torch.set_num_threads(self._threads)
        return self.module.cut

    def _cut_below(self, stage: str) -> Cut:
        if stage not in self._cuts:
            self._cuts[stage] = cut_below(self.module.network, stage, self._sample())
        return self._cuts[stage]

    def _sample(self, count: int = 2) -> Tensor:
        """Return preprocessed training images."""
        pixels = self.data.sample(count).to(self.module.device)
        return self.module.preprocessed(pixels)

    def _digests_of(self, images: LabelledImages) -> list[str]:
        split = "train" if images is self.data.parts.train else "val"
        if split not in self._digests:
            self._digests[split] = [images.digest(index) for index in range(len(images))]
        return self._digests[split]

    def _entry(self, cut: Cut, view: int) -> Entry:
        key = (self.engine, cut.stage, view)
        if key not in self._entries:
            self._entries[key] = self.store.entry("features", self._identity_of(cut, view))
        return self._entries[key]

    def _identity_of(self, cut: Cut, view: int) -> dict[str, Any]:
        """Return everything but the image that the features of a view depend on: the key of its entry."""
        preprocessing = self.module.preprocessing
        identity = {
            "network": type(cut.network).__name__,
            "cut": cut.stage,
            "weights": cut.fingerprint(),
            "preprocessing": fingerprint([repr(preprocessing)], preprocessing.state_dict()),
            **self.identity,
            "view": None if view == EVALUATION else view,
            "precision": str(self.trainer.precision),
            "device": self.module.device.type,
            "engine": title_of(self.engine),
            "format": FORMAT,
        }
        return identity | ({"augmentation": None} if view == EVALUATION else {})


class Batches:
    """Stands in for `loader` in Lightning; each epoch iterates over what `convert` returns for it."""

    def __init__(self, loader: DataLoader, convert: Callable[[DataLoader], Iterator]) -> None:
        self.loader = loader
        self.convert = convert
        self.batch_sampler = loader.batch_sampler
        """The loader's sampler, which Lightning tells the epoch."""

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        yield from self.convert(self.loader)


def build_feature_cache(
    cache: str,
    views: int | None,
    module: TaskModule,
    data: ImageDataModule,
    trainer: L.Trainer,
    store: Store,
    identity: dict[str, Any],
) -> FeatureCache | None:
    """Return the cache for `freeze.cache` and `freeze.cache_views`; None if it is not possible, with the reason logged.

    Raises InputError for invalid values, and for cache=on if it is not possible.
    """
    if cache not in ("auto", "on", "off"):
        raise InputError(f"freeze.cache={cache}: use auto, on or off.")
    if views is not None and views < 1:
        raise InputError(f"freeze.cache_views={views}: must be at least 1, or null for new views in every epoch.")
    if cache != "on" and module.recipe.plan.first_trained(module.network, 0) is None:
        return None
    try:
        if views is None:
            raise InputError("freeze.cache_views=null asks for new views in every epoch.")
        return FeatureCache(module, data, trainer, store, keep=cache != "off", views=views, identity=identity)
    except InputError as error:
        if cache == "on":
            raise InputError(f"freeze.cache=on is not possible: {error}") from error
        log.info("Feature cache off: %s", error)
        return None
