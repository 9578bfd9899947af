"""Controlled experiments on convolutional networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlab.api import LoadedRun, evaluate, load_run, predict, train

__version__ = "0.1.0"
__all__ = ["LoadedRun", "__version__", "evaluate", "load_run", "predict", "train"]


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: the command line answers at once."""
    if name in __all__:
        from cnnlab import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
