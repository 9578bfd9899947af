"""Detection: where which objects are in an image, as boxes and outlines."""

from cnnlab.tasks.detection.task import Detection

__all__ = ["Detection"]
