"""Compilation to machine code with Numba, kept on disk between processes."""

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

settings: Any = numba.config  # its attributes are made at run time


def cache_folder() -> Path:
    """Where compiled functions are kept: below NUMBA_CACHE_DIR if that is set, else below the user's own cache folder.

    Numba keeps pickles there, which it opens: the folder must not come from somebody else. So it is never one that
    travels with a project, such as `paths.cache_dir`, and no file of the working directory can name it. Nor is it
    Numba's own default, `__pycache__` beside the source: an installed package may be read-only, or shared by several
    users.
    """
    # Numba notices a change of the file that holds a function, but not of the functions it calls in other files: the
    # folder's name stands for all of them, so that code of an older version is never run.
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        text = source.read_bytes()
        if b"from cnnlab.go.compiling import" in text:
            digest.update(text)
    # Not settings.CACHE_DIR, which a file .numba_config.yaml in the working directory can set.
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(chosen) if chosen else _own_folder()).absolute() / digest.hexdigest()


def _own_folder() -> Path:
    """Raises RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnlab" / "numba"


inner = numba.njit(nogil=True)
"""A function that only compiled functions call: it becomes part of their machine code."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only Python calls: compiled at its first call and read from the cache folder ever after.

    Where the cache folder cannot be written, Numba takes a place of its own; where it finds none either, the function
    is compiled anew in every process.
    """
    given = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(cache_folder())
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place to write in at all, or no home
        return numba.njit(nogil=True)(function)
    finally:
        settings.CACHE_DIR = given
