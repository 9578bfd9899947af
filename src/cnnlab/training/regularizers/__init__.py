"""Regularization: every kind is a `Regularizer`, which says when during a run it acts.

The weights it acts on are never biases or the parameters of normalization layers.
"""

from cnnlab.training.regularizers.base import (
    HOOKS,
    Regularizer,
    acting,
    check_regularizers,
    require_known,
    require_together,
)

__all__ = ["HOOKS", "Regularizer", "acting", "check_regularizers", "require_known", "require_together"]
