"""Regression: which value belongs to an image."""

from cnnlab.tasks.regression.task import Regression

__all__ = ["Regression"]
