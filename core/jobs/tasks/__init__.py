"""What each command asks of a record and answers: one file a task."""

from .base import RecordOptions, Task
from .chat import ChatTask
from .completion import CompletionTask, TaskOptions
from .generate import GenerateTask
from .pending import Pending

__all__ = ["ChatTask", "CompletionTask", "GenerateTask", "Pending", "RecordOptions", "Task", "TaskOptions"]
