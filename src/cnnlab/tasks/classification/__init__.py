"""Classification: which of several classes an image belongs to."""

from cnnlab.tasks.classification.task import Classification

__all__ = ["Classification"]
