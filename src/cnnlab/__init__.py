"""Controlled experiments on convolutional networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlab.loading import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: the command line answers at once."""
    if name in __all__:
        from cnnlab import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
