"""Regularization: every kind is a `Regularizer`, whose overridden hooks determine when it acts.

Regularizers never act on biases or on the parameters of normalization layers.
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
