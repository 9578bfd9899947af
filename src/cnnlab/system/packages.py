"""Versions of installed packages."""

import functools
from importlib.metadata import PackageNotFoundError, version


@functools.cache
def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed.

    Reading one takes a millisecond, and a run asks for forty.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None
