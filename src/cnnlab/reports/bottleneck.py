"""What limits the speed of a run, in a paragraph, and which overrides change that (`cnnlab check`)."""

from dataclasses import dataclass

CLOSE = 1.15
"""Factor within which loader and network count as equally fast."""
SMALL_STEP = 0.010
"""Seconds of a step below which the work around the arithmetic counts: threads, Python, the optimizer's calls."""
WORTH_WORKERS = 5.0
"""Seconds of an epoch for which it pays to start processes, which takes about two."""
LARGE_BATCH = 256


@dataclass(frozen=True)
class Setup:
    """What of a run's config and machine decides what can be changed.

    unit: what a batch consists of, in the plural. kept: whether training reads features that are kept. views: of each
    image, as features. recomputes: whether frozen stages compute them in every epoch; obstacle: why, where freeze.cache
    is not the reason. freezes: whether any stage is ever frozen. decodes: whether images are decoded in every epoch.
    records_off: whether data.record_cache=off.
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
    simplejpeg: bool = True


def diagnose(loader: float, network: float, together: float, epoch: float, setup: Setup) -> str:
    """Which limits, and what to change.

    loader, network, together: images per second of each alone and of both. epoch: seconds.
    """
    if setup.kept:
        return (
            "Training reads kept features, so the loader and the frozen stages rest once these are there: what trains "
            f"limits, at {network:,.0f} {setup.unit}/s. {_advice(_for_network(network, setup))}"
        )
    figures = f"the loader alone gives {loader:,.0f} {setup.unit}/s, the network alone takes {network:,.0f}"
    figures += f", together they come to {together:,.0f}"
    if max(loader, network) <= CLOSE * min(loader, network):
        changes = [*_for_network(network, setup), *_for_loader(epoch, setup)]
        return f"Loader and network are about equally fast: {figures}. {_advice(list(dict.fromkeys(changes)))}"
    if loader < network:
        return f"The loader limits: {figures}. {_advice(_for_loader(epoch, setup))}"
    shares = not setup.gpu and setup.workers > 0 and together * CLOSE < network
    shared = " They share the cores of the CPU." if shares else ""
    return f"The network limits: {figures}.{shared} {_advice(_for_network(network, setup))}"


def on_filling(seconds: str, missing: int, loader: float, computing: float, setup: Setup) -> str:
    """What limits the computing of `missing` features, which takes `seconds` in all, and what to change.

    loader, computing: seconds of a batch, without the frozen stages and with them.
    """
    by_loader = loader * CLOSE > computing
    changes = _for_loader(float("inf"), setup) if by_loader else _faster_arithmetic(setup)
    if setup.views > 1:
        changes.append(f"freeze.cache_views=1 (instead of {setup.views} views of each training image)")
    return (
        f"{missing:,} features are still to be computed, {seconds} in all, once for all runs that share them; "
        f"{'the loader' if by_loader else 'the network in its frozen stages'} limits that. {_advice(changes)}"
    )


def _faster_arithmetic(setup: Setup) -> list[str]:
    if setup.deterministic:
        return ["speed=default (if the same bits each time are not needed)"]
    return ["speed=fast (bfloat16)"] if setup.precision == "32-true" and setup.bf16 else []


def _advice(changes: list[str]) -> str:
    return f"To change that: {'; '.join(changes)}." if changes else "Nothing is left to switch on for that."


def _for_loader(epoch: float, setup: Setup) -> list[str]:
    changes = _keeping_features(setup)
    if setup.decodes and setup.records_off:
        changes.append("data.record_cache=auto (files are decoded and resized once)")
    if setup.workers < setup.cores and epoch > WORTH_WORKERS:
        changes.append(f"data.num_workers={setup.cores} (one for each core)")
    if setup.decodes and not setup.simplejpeg:
        changes.append("pip install simplejpeg (decodes JPEG faster)")
    return changes


def _for_network(network: float, setup: Setup) -> list[str]:
    step = setup.batch_size / network
    changes = _keeping_features(setup)
    if setup.deterministic or step > SMALL_STEP:
        changes += _faster_arithmetic(setup)
    if not setup.channels_last and step > SMALL_STEP:
        changes.append("speed.channels_last=true")
    if setup.pretrained and not setup.freezes:
        changes.append("freeze=features or freeze=last_block (if training a part is accurate enough)")
    if not setup.gpu and not setup.kept and step <= SMALL_STEP and setup.threads > 1:
        changes.append("speed.num_threads=1 (a network this small gains nothing by more)")
    if not setup.gpu and step > SMALL_STEP and setup.threads < setup.cores:
        changes.append("speed.num_threads=null (all cores)")
    if step <= SMALL_STEP and setup.batch_size < LARGE_BATCH:
        changes.append(f"data.batch_size={4 * setup.batch_size} (fewer steps, with an optimizer.lr to match)")
    if not setup.gpu and step > SMALL_STEP:
        changes.append("a GPU")
    return changes


def _keeping_features(setup: Setup) -> list[str]:
    if not setup.recomputes or setup.kept:
        return []
    if setup.obstacle:
        return [f"keeping what the frozen stages give, once this is out of the way: {setup.obstacle}"]
    return ["freeze.cache=auto (frozen stages see each image once)"]
