"""Name the bottleneck of a run, and the overrides that remove it, in one paragraph (`cnnlab check`)."""

from dataclasses import dataclass

CLOSE = 1.15
"""Ratio of speeds up to which loader and network count as equally fast."""
SMALL_STEP = 0.010
"""Step time in seconds below which overhead dominates: threads, Python, the optimizer's calls."""
WORTH_WORKERS = 5.0
"""Epoch time in seconds above which worker processes pay for their start-up."""
LARGE_BATCH = 256
"""Batch size from which on a larger one is not advised."""


@dataclass(frozen=True)
class Setup:
    """The parts of a run's config and machine that the advice depends on.

    unit: what a batch consists of, in the plural. kept: whether training reads cached features. views: augmented views
    of each training image in the feature cache. recomputes: whether frozen stages compute their outputs in every epoch;
    obstacle: why, if not because of freeze.cache. freezes: whether any stage is ever frozen. decodes: whether images
    are decoded in every epoch. records_off: whether data.record_cache=off. in_memory: whether the images
    are in memory. runtime: whether an engine other than torch is installed.
    """

    unit: str
    batch_size: int
    workers: int
    cores: int
    threads: int
    gpu: bool
    bf16: bool
    precision: str
    deterministic: bool
    channels_last: bool
    kept: bool = False
    views: int = 1
    recomputes: bool = False
    obstacle: str = ""
    pretrained: bool = False
    freezes: bool = False
    decodes: bool = False
    records_off: bool = False
    in_memory: bool = False
    runtime: bool = True
    simplejpeg: bool = True


def rate(count: float) -> str:
    """Format a number per second: two digits below 10, else whole."""
    return f"{count:.2g}" if count < 10 else f"{count:,.0f}"


def diagnose(loader: float, network: float, together: float, epoch: float, setup: Setup) -> str:
    """Return which of loader and network is the bottleneck, and what to change.

    loader, network, together: images per second of each alone and of both. epoch: seconds.
    """
    if setup.kept:
        return (
            "Training reads cached features: once they are computed, the loader and the frozen stages are idle, and "
            f"the trainable layers are the bottleneck, at {rate(network)} {setup.unit}/s. "
            f"{_advice(_for_network(network, setup))}"
        )
    figures = f"the loader alone delivers {rate(loader)} {setup.unit}/s, the network alone processes {rate(network)}"
    figures += f", both together reach {rate(together)}"
    if max(loader, network) <= CLOSE * min(loader, network):
        changes = [*_for_network(network, setup), *_for_loader(epoch, setup)]
        return f"Loader and network are about equally fast: {figures}. {_advice(list(dict.fromkeys(changes)))}"
    if loader < network:
        return f"The loader is the bottleneck: {figures}. {_advice(_for_loader(epoch, setup))}"
    shares = not setup.gpu and setup.workers > 0 and together * CLOSE < network
    shared = " They share the CPU cores." if shares else ""
    return f"The network is the bottleneck: {figures}.{shared} {_advice(_for_network(network, setup))}"


def on_filling(seconds: str, missing: int, loader: float, stages: float, setup: Setup) -> str:
    """Return the bottleneck of computing the `missing` features, and what to change.

    seconds: the time for all of them, as text. loader, stages: seconds per batch of the loader alone, and of the frozen
    stages alone.
    """
    by_loader = loader > stages
    changes = _for_loader(float("inf"), setup) if by_loader else _faster_arithmetic(setup)
    if not by_loader and not setup.gpu and not setup.runtime and not setup.deterministic:
        changes.append("pip install 'cnnlab[onnxruntime]' (computes frozen stages faster)")
    if setup.views > 1:
        changes.append(f"freeze.cache_views=1 (instead of {setup.views} views of each training image)")
    return (
        f"{missing:,} features must be computed first, in about {seconds}, once for all runs that share them; "
        f"the {'loader is' if by_loader else 'frozen stages are'} the bottleneck there, with "
        f"{rate(setup.batch_size / loader)} {setup.unit}/s from the loader and {rate(setup.batch_size / stages)} "
        f"through the frozen stages. {_advice(changes)}"
    )


def _faster_arithmetic(setup: Setup) -> list[str]:
    if setup.deterministic:
        return ["speed=default (if results need not be identical bit by bit)"]
    return ["speed=fast (bfloat16)"] if setup.precision == "32-true" and setup.bf16 else []


def _advice(changes: list[str]) -> str:
    return f"To speed it up: {'; '.join(changes)}." if changes else "No setting is left that would speed it up."


def _for_loader(epoch: float, setup: Setup) -> list[str]:
    changes = _caching_features(setup)
    if setup.decodes and setup.records_off:
        changes.append("data.record_cache=auto (files are decoded and resized once)")
    if setup.workers < setup.cores and epoch > WORTH_WORKERS and not setup.in_memory:
        changes.append(f"data.num_workers={setup.cores} (one per core)")
    if setup.decodes and not setup.simplejpeg:
        changes.append("pip install simplejpeg (decodes JPEG faster)")
    return changes


def _for_network(network: float, setup: Setup) -> list[str]:
    step = setup.batch_size / network
    changes = _caching_features(setup)
    if setup.deterministic or step > SMALL_STEP:
        changes += _faster_arithmetic(setup)
    if not setup.channels_last and step > SMALL_STEP:
        changes.append("speed.channels_last=true")
    if setup.pretrained and not setup.freezes:
        changes.append("freeze=features or freeze=last_block (if training only the last layers is accurate enough)")
    if not setup.gpu and not setup.kept and step <= SMALL_STEP and setup.threads > 1:
        changes.append("speed.num_threads=1 (more threads do not help a network this small)")
    if not setup.gpu and step > SMALL_STEP and setup.threads < setup.cores:
        changes.append("speed.num_threads=null (all cores)")
    if step <= SMALL_STEP and setup.batch_size < LARGE_BATCH:
        changes.append(f"data.batch_size={4 * setup.batch_size} (fewer steps; adapt optimizer.lr)")
    if not setup.gpu and step > SMALL_STEP:
        changes.append("a GPU")
    return changes


def _caching_features(setup: Setup) -> list[str]:
    if not setup.recomputes or setup.kept:
        return []
    if setup.obstacle:
        return [f"caching the outputs of the frozen stages, which is not possible now: {setup.obstacle}"]
    return ["freeze.cache=auto (frozen stages see each image once)"]
