"""Compilation to machine code with Numba, kept on disk between processes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

DEFAULT_FOLDER = Path(".cache") / "numba"
settings: Any = numba.config  # its attributes are made at run time


def cache_folder() -> Path:
    """Where compiled functions are kept: below NUMBA_CACHE_DIR if that is set, else below `.cache/numba`.

    A verb that knows `paths.cache_dir` sets NUMBA_CACHE_DIR before it imports this package: an environment variable
    also reaches workers and other ranks. Numba's own default, `__pycache__` beside the source, would write into an
    installed package, which may be read-only or shared by several users. Numba keeps pickles there: like a virtual
    environment, the folder must not come from somebody else.
    """
    # Numba notices a change of the file that holds a function, but not of the functions it calls in other files: the
    # folder's name stands for all of them, so that code of an older version is never run.
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        text = source.read_bytes()
        if b"from cnnlab.go.compiling import" in text:
            digest.update(text)
    return (Path(settings.CACHE_DIR) if settings.CACHE_DIR else DEFAULT_FOLDER).absolute() / digest.hexdigest()


inner = numba.njit(nogil=True)
"""A function that only compiled functions call: it becomes part of their machine code."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only Python calls: compiled at its first call and read from the cache folder ever after.

    Where the cache folder cannot be written, Numba takes a place of its own; where it finds none either, the function
    is compiled anew in every process.
    """
    given, settings.CACHE_DIR = settings.CACHE_DIR, str(cache_folder())
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place to write in at all
        return numba.njit(nogil=True)(function)
    finally:
        settings.CACHE_DIR = given
