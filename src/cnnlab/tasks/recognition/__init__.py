"""Recognition: the text of a line in a picture."""

from cnnlab.tasks.recognition.task import Recognition

__all__ = ["Recognition"]
