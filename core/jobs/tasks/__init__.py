"""What each command asks of a record and answers: one file a task."""

from .base import Task, TaskOptions
from .chat import ChatTask
from .generate import GenerateTask
from .pending import Pending

__all__ = ["ChatTask", "GenerateTask", "Pending", "Task", "TaskOptions"]
