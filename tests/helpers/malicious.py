"""Files that run code in whoever unpickles them."""

import pickle
from pathlib import Path

import numpy as np
import torch


class Malicious:
    """Makes the file `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def write_malicious(path: Path, marker: Path) -> Path:
    """A file of the format that its name says, as the usual function of that format reads it when told to unpickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array([Malicious(marker)], dtype=object)
    contents = {"state_dict": {"weight": Malicious(marker)}, "hyper_parameters": Malicious(marker)}
    if path.suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez(path, weight=array)
    elif path.suffix in (".pth", ".pt", ".ckpt"):
        torch.save(contents, path)
    else:
        path.write_bytes(pickle.dumps(contents))
    return path


def unpickle(path: Path) -> None:
    """Do what a careless program does."""
    if path.suffix == ".npy":
        np.load(path, allow_pickle=True)
    elif path.suffix == ".npz":
        np.load(path, allow_pickle=True)["weight"]
    elif path.suffix in (".pth", ".pt", ".ckpt"):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
