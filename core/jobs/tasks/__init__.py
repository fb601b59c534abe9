"""What each command asks of a record and answers: one file a task."""

from .base import Pending, Task, TaskOptions
from .chat import ChatTask
from .generate import GenerateTask

__all__ = ["ChatTask", "GenerateTask", "Pending", "Task", "TaskOptions"]
