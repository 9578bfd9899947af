"""Read the published weights of timm's networks: from the hub's cache or the hub, and in the today's names."""

import logging
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.hub import HASH_REGEX

from cnnlab.errors import DataError
from cnnlab.system.downloads import download

FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of weights on the Hugging Face hub, the preferred one first."""
MAX_BYTES = 32 << 30
PATIENCE = 10
"""Seconds to wait for the hub's answer; without a network, the hub's own client would try for a minute."""


def fetched(cfg: Any) -> Path:
    """Return the file of the weights that a pretrained_cfg names, downloaded if it is in no cache.

    Raises DataError if it cannot be downloaded.
    """
    if cfg.hf_hub_id:
        return _from_hub(cfg.hf_hub_id, [cfg.hf_hub_filename] if cfg.hf_hub_filename else FILES)
    name = cfg.url.rsplit("/", 1)[-1]
    checksum = HASH_REGEX.search(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    return download(cfg.url, path, sha256=checksum[1] if checksum else "", max_bytes=MAX_BYTES)


def _from_hub(place: str, names: Sequence[str]) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = place.partition("@")
    where: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    for name in names:
        try:
            return Path(hf_hub_download(filename=name, local_files_only=True, **where))
        except LocalEntryNotFoundError:
            continue
    address = f"{constants.ENDPOINT}/{repository}"
    try:
        _require_answer(constants.ENDPOINT)
        for name in names:
            try:
                return Path(hf_hub_download(filename=name, **where))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except Exception as error:  # of urllib, the hub's client or the one for HTTP below it
        reason = str(getattr(error, "reason", error)).strip().splitlines()
        raise DataError(f"{address} cannot be downloaded: {reason[0] if reason else type(error).__name__}") from error
    raise DataError(f"{address} has no file {' or '.join(names)}.")


def _require_answer(address: str) -> None:
    """Raise OSError if nothing answers at an address."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            pass
    except urllib.error.HTTPError:  # an answer
        pass


def converted(
    state: Mapping[str, Tensor], name: str, cfg: Any, arguments: Mapping[str, Any], outputs: int
) -> Mapping[str, Tensor]:
    """Return a state_dict as timm itself loads it into the network `name`.

    timm renames layers of older and foreign files, leaves out the output for the background that some have, and
    resamples position embeddings to the network's input size.
    cfg: the network's pretrained_cfg. arguments: of the network (img_size, in_chans). outputs: of the head in `state`,
    where it is found. A state_dict that timm does not load is returned as it is: what fits of it is seen later.
    """
    import timm

    logging.getLogger("timm").setLevel(logging.WARNING)  # our own log says what is loaded
    given = {"state_dict": dict(state)}
    own_head = {"num_classes": outputs, "label_offset": 0}
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [(given, {})]
    ways += [(given | own_head, {"num_classes": outputs})] if outputs != cfg.num_classes else []
    for overlay, options in ways:
        try:
            network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments, **options)
        except Exception:
            continue
        return network.state_dict()
    return state


def wnids_of(cfg: Any, outputs: int) -> list[str] | None:
    """Return the WordNet ids of the outputs, None unless they are classes of ImageNet in an order known to timm."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(cfg.to_dict())
    names = ImageNetInfo(subset).label_names() if subset else []
    return list(names) if outputs and len(names) == outputs else None
