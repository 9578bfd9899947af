"""Compile functions to machine code with Numba and cache it on disk between processes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnlab.errors import InputError
from cnnlab.go import NEEDS_EXTRA

try:
    import numba
except ModuleNotFoundError as error:
    raise InputError(NEEDS_EXTRA) from error

settings: Any = numba.config  # Any: its attributes are created at run time


def cache_folder() -> Path:
    """Return the folder for compiled functions, below NUMBA_CACHE_DIR if it is set, else in the user's cache folder.

    Numba stores pickles there and loads them, so the folder must not come from somebody else. It is therefore never a
    folder that travels with a project, such as `paths.cache_dir`, and no file in the working directory can choose it.
    It is not Numba's default either, `__pycache__` next to the source: an installed package may be read-only or shared
    by several users.
    """
    # Numba notices a change of the file that holds a function, but not of the functions it calls in other files. The
    # folder's name is a hash of all of them, so that code compiled from an older version is never run.
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        text = source.read_bytes()
        if b"from cnnlab.go.compiling import" in text:
            digest.update(text)
    # Not from settings.CACHE_DIR: a file .numba_config.yaml in the working directory can set that.
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(chosen) if chosen else _own_folder()).absolute() / digest.hexdigest()


def _own_folder() -> Path:
    """Return cnnlab's folder in the user's cache folder; raise RuntimeError if the user has no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnlab" / "numba"


inner = numba.njit(nogil=True)
"""Decorator for functions that only compiled functions call; they become part of the caller's machine code."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for functions that only Python calls: they are compiled at the first call and then read from the cache.

    If the cache folder cannot be written, Numba uses one of its own; if it finds none, the function is compiled again
    in every process.
    """
    given = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(cache_folder())
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder, or no home folder
        return numba.njit(nogil=True)(function)
    finally:
        settings.CACHE_DIR = given
